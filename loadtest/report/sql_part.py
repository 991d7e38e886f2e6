"""The page of `make load-sql`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.findings import Finding
from loadtest.histogram import summary_ms
from loadtest.report import charts
from loadtest.report.parts import Cell, Section, Table
from loadtest.samples import Series
from loadtest.sql import summary
from loadtest.sql.summary import BASE_CLIENTS, READ, TIERS, Line, find

COLUMNS = (
    "clients",
    "path",
    "tps, median",
    "min",
    "max",
    "of 8 clients",
    "pooled : direct",
    "p50, ms",
    "p95",
    "p99",
    "login, s",
)
MEMORY_COLUMNS = (
    "clients",
    "path",
    "backends",
    "backends PSS, MiB",
    "without shared memory, MiB",
    "PgBouncer PSS, MiB",
    "postgres, cores",
    "pgbouncer, cores",
    "pgbench, cores",
    "postgres, us per read",
    "pgbouncer, us per read",
    "pgbench, us per read",
)


def findings(data: Mapping[str, Any], series: Sequence[Series]) -> list[Finding]:
    """Return what the run was made to show."""
    return summary.findings(summary.lines(data["runs"], series))


def sections(data: Mapping[str, Any], series: Sequence[Series]) -> list[Section]:
    """Return the page's own sections."""
    lines = summary.lines(data["runs"], series)
    found = [_section(kind, lines) for kind in dict.fromkeys(line.kind for line in lines)]
    found.insert(1, Section("What limits it", _LIMITS, [memory_table(lines)]))
    failures = [[_name(line), text] for line in lines for text in line.failures]
    if failures:
        found.append(Section("Failed runs", "", [Table("", ("case", "message"), failures)]))
    if data["skipped"]:
        rows = [[one["name"], one["reason"]] for one in data["skipped"]]
        found.append(Section("Left out", "", [Table("", ("case", "reason"), rows)]))
    return found


_LIMITS = (
    "Processors in use during the measured seconds, by tier. A tier that uses all it has (one core "
    "for a PgBouncer process) is the limit; where their sum is all the machine has, the machine "
    "is, and the processor time per read says whose share has grown. pgbench is the generator: it "
    "looks at the sockets of all its clients at every turn, so its own share grows with them."
)


def throughput_table(kind: str, lines: Sequence[Line]) -> Table:
    """Return throughput and latency of one kind of transaction."""
    return Table(
        kind.capitalize(),
        COLUMNS,
        [_row(line, lines) for line in lines if line.kind == kind],
        "tps: transactions per second once every client is logged in, over the repeats. "
        "Latency as a client saw it, waiting for a server connection included.",
    )


def memory_table(lines: Sequence[Line]) -> Table:
    """Return memory and processors of the plain reads."""
    rows = [
        [
            line.clients,
            line.path,
            line.backends,
            line.backends_pss_mib,
            line.backends_own_mib,
            line.pooler_pss_mib if line.path == "pgbouncer" else None,
            *(line.cores.get(tier) for tier in TIERS),
            *(line.processor_us(tier) for tier in TIERS),
        ]
        for line in lines
        if line.kind == READ
    ]
    return Table(
        "Memory and processors, plain reads",
        MEMORY_COLUMNS,
        rows,
        "PSS of all client backends; the second figure leaves shared_buffers out, which is there "
        "once whatever the number of clients. Processors are those of the measured seconds.",
    )


def _section(kind: str, lines: Sequence[Line]) -> Section:
    mine = [line for line in lines if line.kind == kind]
    curves = {
        path: [
            (line.clients, line.tps.median, line.tps.minimum, line.tps.maximum)
            for line in mine
            if line.path == path and line.tps
        ]
        for path in ("pgbouncer", "direct")
    }
    charted = [
        charts.against(
            f"{kind.capitalize()}: throughput against clients",
            {name: points for name, points in curves.items() if points},
            "clients (logarithmic)",
            "transactions per second",
            "Median of the repeats; the bar is their range.",
        ),
        charts.distribution(
            f"{kind.capitalize()}: latency",
            {f"{line.path}, {line.clients:,}": line.histogram for line in mine},
        ),
    ]
    return Section(kind.capitalize(), "", [throughput_table(kind, lines)], charted)


def _row(line: Line, lines: Sequence[Line]) -> list[Cell]:
    if line.tps is None:
        return [line.clients, line.path, "failed", *[None] * (len(COLUMNS) - 3)]
    base = find(lines, line.kind, line.path, BASE_CLIENTS)
    other = find(lines, line.kind, "direct", line.clients) if line.path == "pgbouncer" else None
    latency = summary_ms(line.histogram)
    return [
        line.clients,
        line.path,
        line.tps.median,
        line.tps.minimum,
        line.tps.maximum,
        _ratio(line, base),
        _ratio(line, other),
        latency["p50_ms"],
        latency["p95_ms"],
        latency["p99_ms"],
        line.login_seconds,
    ]


def _ratio(line: Line, base: Line | None) -> str | None:
    if base is None or base.tps is None or line.tps is None:
        return None
    return f"{line.tps.median / base.tps.median:.2f}"


def _name(line: Line) -> str:
    return f"{line.kind}, {line.clients} clients, {line.path}"
