"""The serving process's side of a restart: say that it is ready, ask for one, make way."""

import os
import signal
import socket
import threading
from collections.abc import Callable

from app.api import channel
from app.api.supervisor import READY_SECONDS_MAX
from app.control.process import NotRestartedError

ANSWER_SECONDS_MAX = READY_SECONDS_MAX + 5.0


class Handover:
    """The channel to the supervisor. Methods may be called from any thread."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._one_at_a_time = threading.Lock()
        self._answered = threading.Event()
        self._refusal = ""

    def ready(self) -> None:
        """Tell that requests are answered from now on."""
        channel.send(self._end, channel.READY)

    def failed(self, reason: str) -> None:
        """Tell why this process is about to end."""
        channel.send(self._end, channel.FAILED, reason)

    def listen(self, retire: Callable[[], None]) -> None:
        """Call `retire` when a new process serves; returns at once."""
        threading.Thread(target=self._listen, args=(retire,), name="handover", daemon=True).start()

    def restart(self) -> None:
        """Have a new process take over; return once it serves, and this one makes way.

        Raises:
            NotRestartedError: the new process did not become ready.

        """
        with self._one_at_a_time:
            self._answered.clear()
            channel.send(self._end, channel.RESTART)
            if not self._answered.wait(ANSWER_SECONDS_MAX):
                raise NotRestartedError("the supervisor has not answered")
            if self._refusal:
                raise NotRestartedError(self._refusal)

    def _listen(self, retire: Callable[[], None]) -> None:
        while (message := channel.wait(self._end)) is not None:
            word, text = message
            if word == channel.RETIRE:
                retire()
            elif word in (channel.RESTARTED, channel.REFUSED):
                self._refusal = text if word == channel.REFUSED else ""
                self._answered.set()
        # Nobody would ever stop a process that its supervisor has left.
        os.kill(os.getpid(), signal.SIGTERM)
