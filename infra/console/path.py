"""Two parts of the page: the path with its bottleneck, as `status` sees it, and the plan."""

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.config import catalogue, documents
from infra.config.names import MONITOR
from infra.console.board import Document
from infra.ops import plan, plan_view
from infra.ops.clients import app_control
from infra.ops.clients.app_control import Control
from infra.ops.clients.processes import OpsSettings
from infra.ops.running import read_record
from infra.ops.status import view
from infra.ops.status.bottleneck import bottleneck
from infra.ops.status.collect import Collector
from infra.ops.status.sample import Sample, ServerPool

# A look takes a little less than the second between two of them.
LOOK_SECONDS = 0.8
LOOKS = 5
# With the look, what does not answer is seen within three seconds.
CALL_SECONDS = 1.5
HISTORY_SECONDS = 600.0
_PLAN = ("file", "ok", "faults", "warnings", "differences", "unreachable", "restart", "recreate")


@dataclass(frozen=True, slots=True)
class Files:
    """Where the env file is, and the operator's files."""

    env_file: Path
    directory: Path

    @property
    def settings(self) -> Path:
        """Where the tiers are."""
        return self.directory / "ops.json"

    @property
    def compiled(self) -> Path:
        """The record of the last compile."""
        return self.directory / "compiled.json"

    def stamp(self) -> tuple[tuple[str, int], ...]:
        """Return another value once a file of the directory is another: a rotation, an `apply`."""
        found = (one for one in self.directory.iterdir() if one.is_file())
        return tuple(sorted((one.name, one.stat().st_mtime_ns) for one in found))


class PathWatch:
    """Looks at the path with sessions that stay open, and keeps what charts need of ten minutes."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._stamp: tuple[tuple[str, int], ...] = ()
        self._open: tuple[OpsSettings, Control, Collector] | None = None
        # What charts need of each look, and when it was.
        self._points: deque[tuple[float, dict[str, float | None]]] = deque()

    def look(self) -> Document:
        """Return the path as `make status JSON=yes` has it, without the texts of statements."""
        settings, collector = self._collector()
        sample = collector.sample()
        found = point(sample)
        self._remember(found)
        document = view.as_dict(sample)
        server = document["server"]
        # Whoever may open the page need not see what callers send.
        for session in (*server["blocked"], *server["holders"], *server["idle"], server["oldest"]):
            if session:
                del session["query"]
        document["bottleneck"]["tier"] = bottleneck(sample).tier
        return document | {"point": found, "budget": settings.values["budget"]}

    def history(self) -> Document:
        """Return what was kept: `times`, and by name the `lines` of charts, one value a time."""
        points = list(self._points)
        names = points[-1][1] if points else {}
        return {
            "times": [round(at, 2) for at, _ in points],
            "lines": {name: [one[name] for _, one in points] for name in names},
        }

    def _remember(self, found: dict[str, float | None]) -> None:
        now = time.monotonic()
        self._points.append((now, found))
        while self._points[0][0] < now - HISTORY_SECONDS:
            self._points.popleft()

    def _collector(self) -> tuple[OpsSettings, Collector]:
        stamp = self._files.stamp()
        if self._open and stamp != self._stamp:
            _, control, collector = self._open
            control.close()
            collector.close()
            self._open = None
        if not self._open:
            settings = OpsSettings.read(self._files.settings)
            control = app_control.connect(settings, keep=True, state_seconds=CALL_SECONDS)
            collector = Collector(
                settings,
                control,
                recorded=read_record(self._files.compiled),
                processors=settings.values["postgres"]["processors"],
                host=None,
                seconds=LOOK_SECONDS,
                looks=LOOKS,
                call_seconds=CALL_SECONDS,
                application_name="sluice-console",
            )
            self._open, self._stamp = (settings, control, collector), stamp
        return self._open[0], self._open[2]


def point(sample: Sample) -> dict[str, float | None]:
    """Return the numbers of the charts; None is what is not known, of a tier that is silent.

    Times in milliseconds, rates per second; PgBouncer's own entry of checks is left out.
    """
    app = [one for one in sample.app if not one.error]
    silent = any(one.error for one in sample.poolers)
    pools = [pool for one in sample.poolers for pool in one.pools if pool.user != MONITOR]
    minute, server = sample.last_minute, sample.server
    done = sum(pool.transactions_per_second for pool in pools)
    return {
        "p95_ms": minute.p95_seconds * 1000 if minute and minute.p95_seconds else None,
        "requests_per_second": minute.requests / 60 if minute else None,
        "transaction_ms": _mean_ms(pools, "transaction_ms"),
        "wait_ms": _mean_ms(pools, "wait_ms"),
        "transactions_per_second": None if silent else done,
        "app_waiting": sum(one.waiting for one in app) if app else None,
        "pgbouncer_waiting": None if silent else sum(pool.clients_waiting for pool in pools),
        "app_in_use": sum(one.in_use for one in app) if app else None,
        "servers_active": None if silent else sum(pool.servers_active for pool in pools),
        "sessions": None if server.error else server.connections,
    }


def _mean_ms(pools: Iterable[ServerPool], name: str) -> float | None:
    """Return the mean over all transactions, None where there was none."""
    weighed = [(one.transactions_per_second, getattr(one, name)) for one in pools]
    total = sum(weight for weight, _ in weighed)
    return sum(weight * value for weight, value in weighed) / total if total else None


def planned(files: Files) -> Document:
    """Return what `make plan` would say, and the running values of the settings in stack.env."""
    made = plan.make(files.env_file, files.compiled, files.settings)
    whole: dict[str, Any] = plan_view.as_dict(made)
    listed = [one.name for one in catalogue.by_name().values() if one.listed]
    before = made.before.values if made.before else None
    return {name: whole[name] for name in _PLAN if name in whole} | {
        "drift": [str(one) for one in made.drift],
        "running": {name: documents.plain(before[name]) for name in listed} if before else {},
    }
