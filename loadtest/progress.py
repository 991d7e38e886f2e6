"""Progress of a measurement in steps of known length: how far, and how long to go."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Steps:
    """A bar on a terminal, a line per step elsewhere; `seconds` is the expected total."""

    def __init__(self, title: str, seconds: float) -> None:
        self._title = title
        self._expected = max(seconds, 1e-9)
        self._spent = 0.0
        self._started = time.monotonic()
        self._live = sys.stderr.isatty()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[left]} left"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        """Show the bar."""
        if self._live:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._expected, left=self.left())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the bar as it is."""
        if self._live:
            self._bar.stop()

    def left(self) -> str:
        """Return the time left, by the pace so far once there is one."""
        elapsed = time.monotonic() - self._started
        pace = elapsed / self._spent if self._spent else 1.0
        seconds = max(0.0, (self._expected - self._spent) * pace)
        return clock(seconds)

    def begin(self, what: str) -> None:
        """Name the step that starts now."""
        if self._task is not None:
            self._bar.update(self._task, description=what, left=self.left())

    def end(self, what: str, seconds: float) -> None:
        """Count a step that was expected to take `seconds`."""
        self._spent += seconds
        if self._task is not None:
            self._bar.update(self._task, completed=self._spent, left=self.left())
            self._bar.console.print(what)
            return
        percent = 100 * min(1.0, self._spent / self._expected)
        sys.stderr.write(f"[{percent:3.0f} %, {self.left()} left] {what}\n")
        sys.stderr.flush()


def clock(seconds: float) -> str:
    """Return seconds as minutes:seconds."""
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
