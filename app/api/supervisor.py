"""The api's first process: it holds the listening sockets and replaces the processes that serve.

`python -m app.api` becomes it. Only the standard library, and no work of its own: it starts
serving processes on the sockets it was given, one in each of its slots, which all accept on them. A
serving process that asks for a restart is replaced in its slot: when the new one is ready the old
one retires; when it never is, the old one goes on. SIGHUP replaces all, one after another.

How many slots there are is read from the settings file at the start and at each restart: once the
first new process is ready, slots are added, or the surplus ones retire. One process at most is
there besides those that serve, and none starts while another still retires: the budget of memory,
threads and connections counts one more. A serving process that dies leaves the others serving, or
callers in the socket's queue, until its slot has a new one.

uvicorn's own supervisor is not used: it closes idle kept-alive connections at once, which resets
a request on its way to them; it is deaf to signals while the old process drains; and it tells
nobody how a restart ended.
"""

import json
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from app.api import channel

# Starting takes about a second; on a machine whose processors are taken, many times that.
READY_SECONDS_MAX = 60.0
# Lame duck, requests in flight, closing the pool; more than the sum of their limits.
RETIRING_SECONDS_MAX = 60.0
# A slot whose process cannot start is tried again, while others serve.
AGAIN_SECONDS = 5.0
SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
NEVER = float("inf")
LOGGER = "app.api.supervisor"
# Where prometheus_client shares metrics between processes; see app/api/sharing.py.
METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


@dataclass(eq=False, slots=True)
class Child:
    """A serving process; it is killed at `until` (monotonic seconds) unless it was quicker.

    `seat` is a number that no other living process has: its metrics go on in the files of the
    process that had it before.
    """

    pid: int
    slot: int
    seat: int
    channel: socket.socket
    until: float
    ready: bool = False
    reason: str = ""


class Supervisor:
    """Keeps a process in each slot serving on the sockets with these file descriptors.

    `settings` is the file that says how many slots: its field `processes`.
    """

    def __init__(
        self,
        listeners: Sequence[int],
        settings: Path,
        *,
        module: str = "app.api.serve",
        log_format: str = "json",
    ) -> None:
        self._listeners = listeners
        self._settings = settings
        self._log_as_text = log_format == "text"
        self._module = module
        self._selector = selectors.DefaultSelector()
        self._wanted = 1
        self._serving: dict[int, Child] = {}
        self._coming: Child | None = None
        self._retiring: set[Child] = set()
        # Slots to be given a new process, one after the other, and when to try a failed one again.
        self._due: deque[int] = deque()
        self._again: dict[int, float] = {}
        self._ending = False
        self._exit_code = 0

    def run(self) -> int:
        """Supervise until SIGTERM or SIGINT, or a first start that fails; return the exit code."""
        signals = _signal_socket()
        self._selector.register(signals, selectors.EVENT_READ, None)
        self._wanted = self._read_wanted()
        self._metrics = tempfile.mkdtemp(prefix="sluice-metrics-")
        try:
            for slot in range(self._wanted):
                self._serving[slot] = self._start(slot, NEVER)
            while self._children():
                for key, _ in self._selector.select(self._patience()):
                    if key.data is None:
                        for number in dict.fromkeys(signals.recv(4096)):
                            self._on_signal(signal.Signals(number))
                    else:
                        self._listen(key.data)
                self._kill_late()
                self._advance()
        finally:
            shutil.rmtree(self._metrics, ignore_errors=True)
        return self._exit_code

    def _read_wanted(self) -> int:
        """Return how many slots the settings file asks for; of one that cannot be used, as many."""
        try:
            return max(1, int(json.loads(self._settings.read_bytes())["processes"]))
        except (OSError, ValueError, KeyError, TypeError):
            # A new process says what is wrong with the file.
            return self._wanted

    def _children(self) -> list[Child]:
        coming = [] if self._coming is None else [self._coming]
        return [*self._serving.values(), *coming, *self._retiring]

    def _patience(self) -> float | None:
        until = min([*(child.until for child in self._children()), *self._again.values()])
        return None if until == NEVER else max(0.0, until - time.monotonic())

    def _on_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number == signal.SIGHUP:
            for slot in range(self._wanted):
                self._replace(slot)
        else:
            self._end()

    def _start(self, slot: int, until: float, *arguments: str) -> Child:
        taken = {child.seat for child in self._children()}
        seat = next(number for number in range(len(taken) + 1) if number not in taken)
        ours, theirs = channel.pair()
        with theirs:
            theirs.set_inheritable(True)
            command = [sys.executable, "-m", self._module]
            command += [f"--listener={listener}" for listener in self._listeners]
            command += [f"--channel={theirs.fileno()}", f"--slot={slot}", f"--seat={seat}"]
            command += arguments
            environment = {**os.environ, METRICS_VARIABLE: self._metrics}
            pid = os.posix_spawn(sys.executable, command, environment)
        child = Child(pid, slot, seat, ours, until)
        self._selector.register(ours, selectors.EVENT_READ, child)
        self._log("info", "process started", child)
        return child

    def _replace(self, slot: int) -> None:
        """Have a new process take over the slot, unless that is under way."""
        if self._ending or slot >= self._wanted:
            return
        if slot not in self._due and not (self._coming and self._coming.slot == slot):
            self._due.append(slot)
        elif slot in self._serving:
            self._refuse(slot, "another restart is under way")

    def _refuse(self, slot: int, reason: str) -> None:
        child = self._serving[slot]
        self._log("error", "not restarted; the old process goes on", child, reason=reason)
        channel.send(child.channel, channel.REFUSED, reason)

    def _advance(self) -> None:
        """Start what is due: in the slot of a dead process at once, else one at a time."""
        if self._ending:
            return
        now = time.monotonic()
        for slot in [slot for slot, at in self._again.items() if now >= at]:
            del self._again[slot]
            self._serving[slot] = self._start(slot, NEVER)
        if self._due and self._coming is None and not self._retiring:
            slot = self._due.popleft()
            self._coming = self._start(slot, now + READY_SECONDS_MAX, "--replacement")

    def _listen(self, child: Child) -> None:
        """Take every message that is there; an end of the channel is seen as a death."""
        for word, text in channel.receive(child.channel):
            if word == channel.READY:
                self._on_ready(child)
            elif word == channel.FAILED:
                child.reason = text
            elif word == channel.RESTART:
                self._replace(child.slot)
        if channel.is_closed(child.channel):
            with suppress(KeyError, ValueError):
                self._selector.unregister(child.channel)

    def _on_ready(self, child: Child) -> None:
        if child not in self._retiring:
            self._begin(child)
        self._log("info", "process is ready", child)

    def _begin(self, child: Child) -> None:
        """Count on a process that is ready, and have those retire whose place it takes."""
        child.ready, child.until = True, NEVER
        # What failed while nobody was ready yet has waited for this.
        soon = time.monotonic() + AGAIN_SECONDS
        self._again = {slot: min(at, soon) for slot, at in self._again.items()}
        if child is self._coming:
            old, self._serving[child.slot] = self._serving.get(child.slot), child
            self._coming = None
            self._again.pop(child.slot, None)
            if old is not None:
                channel.send(old.channel, channel.RESTARTED)
                self._retire(old)
        # Whatever it was started for, it has the settings of now.
        self._resize()

    def _resize(self) -> None:
        """Have as many slots as the settings that a process has just become ready with."""
        self._wanted = self._read_wanted()
        for slot in [slot for slot in self._serving if slot >= self._wanted]:
            self._retire(self._serving.pop(slot), channel.SURPLUS)
        self._due = deque(slot for slot in self._due if slot < self._wanted)
        self._again = {slot: at for slot, at in self._again.items() if slot < self._wanted}
        coming = [] if self._coming is None else [self._coming.slot]
        there = {*self._serving, *self._due, *self._again, *coming}
        self._due.extend(slot for slot in range(self._wanted) if slot not in there)

    def _retire(self, child: Child, how: str = "") -> None:
        child.until = time.monotonic() + RETIRING_SECONDS_MAX
        self._retiring.add(child)
        channel.send(child.channel, channel.RETIRE, how)

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
        # What it has counted stays; what it was (sizes, memory) has gone with it.
        for file in Path(self._metrics).glob(f"gauge_live*_{child.seat}.db"):
            file.unlink(missing_ok=True)
        why = {"reason": child.reason} if child.reason else {}
        level = "info" if code == 0 else "error"
        self._log(level, "process ended", child, exit_code=code, **why)
        if child in self._retiring:
            self._retiring.remove(child)
        elif child is self._coming:
            self._coming = None
            reason = child.reason or f"the new process ended with exit code {code}"
            # Those that wait would fail alike. A slot that nobody serves in is tried again.
            for slot in (child.slot, *self._due):
                if slot in self._serving:
                    self._refuse(slot, reason)
                elif not self._ending:
                    self._again[slot] = time.monotonic() + AGAIN_SECONDS
            self._due.clear()
        else:
            del self._serving[child.slot]
            self._after_serving(child, code)

    def _after_serving(self, child: Child, code: int) -> None:
        if self._ending:
            self._exit_code = self._exit_code or code
        elif self._coming is not None and self._coming.slot == child.slot:
            self._serving[child.slot], self._coming = self._coming, None
        elif child.ready:
            # Callers wait in the socket's queue meanwhile, or are taken by the others.
            self._serving[child.slot] = self._start(child.slot, NEVER)
        elif self._serving:
            # It is tried again while others serve; they may still have to come up.
            serve = any(other.ready for other in self._serving.values())
            self._again[child.slot] = time.monotonic() + AGAIN_SECONDS if serve else NEVER
        else:
            # What did not come up in any slot would fail again: leave it to the restart policy.
            self._exit_code = code if code > 0 else 1
            self._end()

    def _kill_late(self) -> None:
        for child in self._children():
            if time.monotonic() >= child.until:
                late = f"not ready within {READY_SECONDS_MAX:g} s"
                if child in self._retiring or self._ending:
                    late = f"requests in hand after {RETIRING_SECONDS_MAX:g} s"
                child.reason = child.reason or late
                child.until = NEVER
                self._log("error", "process is late and is killed", child)
                os.kill(child.pid, signal.SIGKILL)

    def _end(self) -> None:
        """Let every process finish what it has in hand."""
        self._ending = True
        self._again.clear()
        for child in self._children():
            child.until = min(child.until, time.monotonic() + RETIRING_SECONDS_MAX)
            os.kill(child.pid, signal.SIGTERM)

    def _log(self, level: str, event: str, child: Child, **more: object) -> None:
        """Write a line as `app.log` does, which would be too much to import."""
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        fields = {"pid": child.pid, "process": child.slot + 1, **more, "service": "api"}
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
    descriptors = [int(number) for number in sys.argv[3:]]
    sys.exit(Supervisor(descriptors, Path(sys.argv[1]), log_format=sys.argv[2]).run())
