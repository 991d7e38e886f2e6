"""The api's first process: it holds the listening socket and replaces the process that serves.

`python -m app.api` becomes it. Only the standard library, and no work of its own: it starts a
serving process on the socket it was given, and on SIGHUP, or when the serving process asks, a
second one. When that is ready the first retires; when it never is, the first goes on.

uvicorn's own supervisor is not used: it closes idle kept-alive connections at once, which resets
a request on its way to them; it is deaf to signals while the old process drains; and it tells
nobody how a restart ended.
"""

import json
import os
import selectors
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType

from app.api import channel

# Starting takes about a second; on a machine whose processors are taken, many times that.
READY_SECONDS_MAX = 60.0
# Lame duck, requests in flight, closing the pool; more than the sum of their limits.
RETIRING_SECONDS_MAX = 60.0
SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
NEVER = float("inf")
LOGGER = "app.api.supervisor"


@dataclass(eq=False, slots=True)
class Child:
    """A serving process; it is killed at `until` (monotonic seconds) unless it was quicker."""

    pid: int
    channel: socket.socket
    until: float
    ready: bool = False
    reason: str = ""


class Supervisor:
    """Keeps one process serving on the socket with this file descriptor."""

    def __init__(
        self, listener: int, *, module: str = "app.api.serve", log_format: str = "json"
    ) -> None:
        self._listener = listener
        self._log_as_text = log_format == "text"
        self._module = module
        self._selector = selectors.DefaultSelector()
        self._serving: Child | None = None
        self._coming: Child | None = None
        self._retiring: set[Child] = set()
        self._ending = False
        self._exit_code = 0

    def run(self) -> int:
        """Supervise until SIGTERM or SIGINT, or a first start that fails; return the exit code."""
        signals = _signal_socket()
        self._selector.register(signals, selectors.EVENT_READ, None)
        self._serving = self._start(NEVER)
        while self._children():
            for key, _ in self._selector.select(self._patience()):
                if key.data is None:
                    for number in dict.fromkeys(signals.recv(4096)):
                        self._on_signal(signal.Signals(number))
                else:
                    self._listen(key.data)
            self._kill_late()
        return self._exit_code

    def _children(self) -> list[Child]:
        present = (self._serving, self._coming, *self._retiring)
        return [child for child in present if child is not None]

    def _patience(self) -> float | None:
        until = min(child.until for child in self._children())
        return None if until == NEVER else max(0.0, until - time.monotonic())

    def _on_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number == signal.SIGHUP:
            self._replace()
        else:
            self._end()

    def _start(self, until: float, *arguments: str) -> Child:
        ours, theirs = channel.pair()
        with theirs:
            theirs.set_inheritable(True)
            command = [sys.executable, "-m", self._module]
            command += [f"--listener={self._listener}", f"--channel={theirs.fileno()}", *arguments]
            pid = os.posix_spawn(sys.executable, command, os.environ)
        child = Child(pid, ours, until)
        self._selector.register(ours, selectors.EVENT_READ, child)
        self._log("info", "process started", pid=pid)
        return child

    def _replace(self) -> None:
        """Start a process beside the serving one, unless one is coming already."""
        if self._ending or self._serving is None:
            return
        if self._coming is not None:
            self._refuse("another restart is under way")
            return
        self._coming = self._start(time.monotonic() + READY_SECONDS_MAX, "--replacement")

    def _refuse(self, reason: str) -> None:
        self._log("error", "not restarted; the old process goes on", reason=reason)
        if self._serving is not None:
            channel.send(self._serving.channel, channel.REFUSED, reason)

    def _listen(self, child: Child) -> None:
        """Take every message that is there; an end of the channel is seen as a death."""
        for word, text in channel.receive(child.channel):
            if word == channel.READY:
                self._on_ready(child)
            elif word == channel.FAILED:
                child.reason = text
            elif word == channel.RESTART:
                self._replace()
        if channel.is_closed(child.channel):
            with suppress(KeyError, ValueError):
                self._selector.unregister(child.channel)

    def _on_ready(self, child: Child) -> None:
        child.ready, child.until = True, NEVER
        self._log("info", "process is ready", pid=child.pid)
        if child is not self._coming:
            return
        old, self._serving, self._coming = self._serving, child, None
        if old is not None:
            old.until = time.monotonic() + RETIRING_SECONDS_MAX
            self._retiring.add(old)
            channel.send(old.channel, channel.RESTARTED)
            channel.send(old.channel, channel.RETIRE)

    def _reap(self) -> None:
        """Note every process that has ended; as process 1 also those of strangers."""
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = found
                for child in self._children():
                    if child.pid == pid:
                        self._listen(child)
                        self._on_death(child, os.waitstatus_to_exitcode(status))

    def _on_death(self, child: Child, code: int) -> None:
        with suppress(KeyError, ValueError):
            self._selector.unregister(child.channel)
        child.channel.close()
        self._log("info" if code == 0 else "error", "process ended", pid=child.pid, exit_code=code)
        if child in self._retiring:
            self._retiring.remove(child)
        elif child is self._coming:
            self._coming = None
            self._refuse(child.reason or f"the new process ended with exit code {code}")
        else:
            self._serving = None
            self._after_serving(child, code)

    def _after_serving(self, child: Child, code: int) -> None:
        if self._ending:
            self._exit_code = code
        elif self._coming is not None:
            self._serving, self._coming = self._coming, None
        elif child.ready:
            # Callers wait in the socket's queue meanwhile.
            self._serving = self._start(NEVER)
        else:
            # What did not come up once would fail again: leave it to the restart policy.
            self._exit_code = code if code > 0 else 1
            self._end()

    def _kill_late(self) -> None:
        for child in self._children():
            if time.monotonic() >= child.until:
                child.reason = child.reason or f"not ready within {READY_SECONDS_MAX:g} s"
                child.until = NEVER
                self._log("error", "process is late and is killed", pid=child.pid)
                os.kill(child.pid, signal.SIGKILL)

    def _end(self) -> None:
        """Let every process finish what it has in hand."""
        self._ending = True
        for child in self._children():
            os.kill(child.pid, signal.SIGTERM)

    def _log(self, level: str, event: str, **fields: object) -> None:
        """Write a line as `app.log` does, which would be too much to import."""
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        fields |= {"service": "api"}
        if self._log_as_text:
            shown = "".join(f" {name}={json.dumps(value)}" for name, value in fields.items())
            line = f"{now} {level:<8} {LOGGER}: {event}{shown}"
        else:
            place = {"logger": LOGGER, "level": level, "timestamp": now}
            line = json.dumps({"event": event, **place, **fields})
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def _signal_socket() -> socket.socket:
    """Return a socket that receives each signal's number as one byte."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    # Kept open by the interpreter's use of its number.
    signal.set_wakeup_fd(theirs.detach())
    for number in SIGNALS:
        signal.signal(number, _noted)
    return ours


def _noted(_number: int, _frame: FrameType | None) -> None:
    """Have a handler, so that process 1 gets the signal; the byte is in the socket."""


if __name__ == "__main__":
    sys.exit(Supervisor(int(sys.argv[1]), log_format=sys.argv[2]).run())
