"""What a checkout costs, against the alternatives, interleaved in one run.

    python -m app.pool.benchmark --settings /etc/sluice/api.json

Compare the ratios: the times depend on the machine and on what else runs there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import quantiles
from threading import Thread
from time import perf_counter
from typing import Any

import psycopg
import psycopg_pool
from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

from .connection import connect_arguments, driver_arguments, read_password
from .pool import DatabasePool
from .types import ConnectionSettings, ConnectRecord, Deadline, PoolSettings

BATCH = 50  # checkouts of one way before the next way has its turn
CONNECTS = 2  # of a batch, for the way that is a thousand times slower

OURS, CONNECTING = 1, 3  # places in what `ways` returns

Borrow = Callable[[], AbstractContextManager[Connection[TupleRow]]]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to get a connection; `share` is how many of a batch it makes."""

    name: str
    borrow: Borrow
    share: int = BATCH


@dataclass(frozen=True, slots=True)
class Figure:
    """Times of one way in microseconds; ratios are against the bare pool."""

    way: str
    samples: int
    acquire_p50_us: float
    acquire_p99_us: float
    cycle_p50_us: float
    cycle_p99_us: float
    acquire_p50_ratio: float = 1.0
    acquire_p99_ratio: float = 1.0
    cycle_p50_ratio: float = 1.0
    cycle_p99_ratio: float = 1.0


class Samples:
    """Seconds to acquire, and to acquire and return, for one way."""

    def __init__(self) -> None:
        self.acquire: list[float] = []
        self.cycle: list[float] = []

    def take(self, way: Way) -> None:
        """Measure one checkout and return."""
        started = perf_counter()
        loan = way.borrow()
        loan.__enter__()
        acquired = perf_counter()
        loan.__exit__(None, None, None)
        self.cycle.append(perf_counter() - started)
        self.acquire.append(acquired - started)


def ways(connection: ConnectionSettings, pool: PoolSettings, stack: ExitStack) -> list[Way]:
    """Open every way; the bare pool comes first, the ratios are against it."""
    bare, checked = (
        stack.enter_context(_library_pool(connection, pool, check))
        for check in (None, ConnectionPool.check_connection)
    )
    ours = DatabasePool(connection, pool, name="benchmark")
    stack.callback(ours.close, 5.0)
    ours.open(deadline=Deadline.after(30.0))
    bare.wait(30.0)
    checked.wait(30.0)
    return [
        Way("psycopg_pool, no check", bare.connection),
        Way("this layer", lambda: ours.connection(deadline=Deadline.after(10.0), name="benchmark")),
        Way("psycopg_pool, check_connection", checked.connection),
        Way("a connection per operation", partial(_connect, connection), CONNECTS),
    ]


def measure(known: list[Way], rounds: int, threads: int) -> list[Figure]:
    """Run every way in turn, `rounds` times in each thread; return figures in order."""
    samples = [[Samples() for _ in known] for _ in range(threads)]
    workers = [Thread(target=_rounds, args=(known, mine, rounds)) for mine in samples]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    figures = [_figure(way, [mine[i] for mine in samples]) for i, way in enumerate(known)]
    return [_against(figure, figures[0]) for figure in figures]


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the exit status is always zero."""
    options = _parser().parse_args(arguments)
    settings = json.loads(Path(options.settings).read_text(encoding="utf-8"))
    connection = ConnectionSettings(**settings["database"])
    pool = PoolSettings(**settings["pool"])
    with ExitStack() as stack:
        known = ways(connection, pool, stack)
        figures = measure(known, options.rounds, options.threads)
    constraints = _constraints(connection, pool, options)
    report = _as_json if options.json else _as_table
    sys.stdout.write(report(constraints, figures))
    return 0


def _library_pool(
    connection: ConnectionSettings, pool: PoolSettings, check: Any
) -> ConnectionPool[Connection[TupleRow]]:
    return ConnectionPool(
        kwargs=driver_arguments(connection) | {"password": read_password(connection)},
        min_size=pool.min_size,
        max_size=pool.max_size,
        timeout=pool.timeout_seconds,
        max_waiting=pool.max_waiting,
        check=check,
        open=False,
    )


def _connect(connection: ConnectionSettings) -> Connection[TupleRow]:
    keywords = connect_arguments(connection, ConnectRecord())
    del keywords["record"]
    return psycopg.connect(**keywords)


def _rounds(known: list[Way], samples: list[Samples], rounds: int) -> None:
    for _ in range(rounds):
        for way, mine in zip(known, samples, strict=True):
            for _ in range(way.share):
                mine.take(way)


def _figure(way: Way, samples: list[Samples]) -> Figure:
    acquire = sorted(second for mine in samples for second in mine.acquire)
    cycle = sorted(second for mine in samples for second in mine.cycle)
    return Figure(way.name, len(acquire), *_percentiles(acquire), *_percentiles(cycle))


def _percentiles(seconds: list[float]) -> tuple[float, float]:
    cuts = quantiles(seconds, n=100, method="inclusive")
    return cuts[49] * 1e6, cuts[98] * 1e6


def _against(figure: Figure, base: Figure) -> Figure:
    ratios = {
        f"{name}_ratio": getattr(figure, f"{name}_us") / getattr(base, f"{name}_us")
        for name in ("acquire_p50", "acquire_p99", "cycle_p50", "cycle_p99")
    }
    return Figure(**(asdict(figure) | ratios))


def _constraints(
    connection: ConnectionSettings, pool: PoolSettings, options: argparse.Namespace
) -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "psycopg": psycopg.__version__,
        "psycopg_pool": psycopg_pool.__version__,
        "libpq": psycopg.pq.version(),
        "peer": f"{connection.host}:{connection.port}/{connection.dbname}",
        "sslmode": connection.sslmode,
        "min_size": pool.min_size,
        "max_size": pool.max_size,
        "threads": options.threads,
        "rounds": options.rounds,
    }


def _as_json(constraints: dict[str, Any], figures: list[Figure]) -> str:
    ways_found = [asdict(figure) for figure in figures]
    return json.dumps({"constraints": constraints, "ways": ways_found}, indent=2) + "\n"


def _as_table(constraints: dict[str, Any], figures: list[Figure]) -> str:
    lines = ["constraints: " + ", ".join(f"{key}={value}" for key, value in constraints.items())]
    lines.append("times in microseconds; xN is the ratio to the first row in this run")
    titles = "".join(f"{title:>22}" for title in ("acquire p50", "p99", "with return p50", "p99"))
    lines.append(f"{'way':<32}{'samples':>8}{titles}")
    lines.extend(_line(figure) for figure in figures)
    lines.append(_verdict(figures[OURS], figures[CONNECTING]))
    return "\n".join(lines) + "\n"


def _line(figure: Figure) -> str:
    cells = (
        f"{getattr(figure, name + '_us'):.1f} (x{getattr(figure, name + '_ratio'):.1f})"
        for name in ("acquire_p50", "acquire_p99", "cycle_p50", "cycle_p99")
    )
    return f"{figure.way:<32}{figure.samples:>8}" + "".join(f"{cell:>22}" for cell in cells)


def _verdict(ours: Figure, connecting: Figure) -> str:
    p50, p99 = (
        getattr(connecting, f"acquire_{name}_us") / getattr(ours, f"acquire_{name}_us")
        for name in ("p50", "p99")
    )
    return (
        f"this layer's acquisition takes {ours.acquire_p50_ratio:.1f} times the bare pool's p50, "
        f"{ours.acquire_p99_ratio:.1f} times its p99; connecting takes {p50:.0f} times this "
        f"layer's p50, {p99:.0f} times its p99"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="app.pool.benchmark", description=__doc__)
    default = os.environ.get("SLUICE_SETTINGS", "/etc/sluice/api.json")
    parser.add_argument(
        "--settings", default=default, help="settings file (env SLUICE_SETTINGS; %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=200, help="turns of each way (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="at once (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
