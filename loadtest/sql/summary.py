"""The repeats of every pgbench case as one line each, with memory and processor beside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from loadtest.findings import Finding, at_least
from loadtest.histogram import Histogram
from loadtest.samples import Series
from loadtest.spread import Spread, spread

CORES_NS = 1e9
KB_PER_MIB = 1024.0
MICROSECONDS = 1e6
BASE_CLIENTS = 8
DIRECT_BASE_CLIENTS = 380
READ = "read extended"
TIERS = ("postgres", "pgbouncer", "pgbench")


@dataclass(frozen=True, slots=True)
class Line:
    """One case: transactions per second, latency in ms, MiB, and cores in use."""

    kind: str
    path: str
    clients: int
    tps: Spread | None
    histogram: Histogram
    login_seconds: float | None
    failures: tuple[str, ...]
    backends: float | None
    backends_pss_mib: float | None
    backends_own_mib: float | None
    pooler_pss_mib: float | None
    cores: dict[str, float]

    def processor_us(self, tier: str) -> float | None:
        """Return the processor time of a tier per transaction, in microseconds."""
        if self.tps is None or tier not in self.cores:
            return None
        return self.cores[tier] / self.tps.median * MICROSECONDS


def lines(runs: Iterable[dict[str, Any]], series: Sequence[Series]) -> list[Line]:
    """Return one line per case in the order of first appearance."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        groups[run["kind"], run["path"], run["clients"]].append(run)
    return [_line(*key, found, series) for key, found in groups.items()]


def find(all_lines: Iterable[Line], kind: str, path: str, clients: int) -> Line | None:
    """Return the line of a case, or None."""
    for line in all_lines:
        if (line.kind, line.path, line.clients) == (kind, path, clients):
            return line
    return None


def findings(all_lines: Sequence[Line]) -> list[Finding]:
    """Return what the run says about ten thousand clients and a thousand backends."""
    read = {(line.path, line.clients): line for line in all_lines if line.kind == READ and line.tps}
    most = max((clients for path, clients in read if path == "pgbouncer"), default=0)
    found = [
        at_least(
            f"reads through PgBouncer with {most:,} clients, of those with {BASE_CLIENTS} "
            "(>= 90 %)",
            _percent(read.get(("pgbouncer", most)), read.get(("pgbouncer", BASE_CLIENTS))),
            90,
            " %",
        ),
    ]
    found += _profile(read.get(("pgbouncer", BASE_CLIENTS)), read.get(("pgbouncer", most)))
    direct = read.get(("direct", DIRECT_BASE_CLIENTS))
    share = _percent(direct, read.get(("direct", BASE_CLIENTS)))
    found.append(
        Finding(
            f"beside it: reads direct with {DIRECT_BASE_CLIENTS} clients, of those with "
            f"{BASE_CLIENTS}",
            "-" if share is None else f"{share:.3g} %",
            None if share is None else True,
        )
    )
    return [*found, *_memory(read)]


def _profile(few: Line | None, many: Line | None) -> list[Finding]:
    """Return where the processors' time goes, with few clients and with many."""
    if few is None or many is None or few is many:
        return []
    parts = [
        f"{tier} {before:.0f} -> {after:.0f}"
        for tier in TIERS
        if (before := few.processor_us(tier)) and (after := many.processor_us(tier))
    ]
    claim = (
        f"what limits it: processor time per read in us, {few.clients:,} -> {many.clients:,} "
        "clients (pgbench is the generator)"
    )
    return [Finding(claim, ", ".join(parts) or "-", True if parts else None)]


def _memory(read: dict[tuple[str, int], Line]) -> list[Finding]:
    both = sorted(
        clients for path, clients in read if path == "direct" and ("pgbouncer", clients) in read
    )
    clients = both[-1] if both else 0
    direct, pooled = read.get(("direct", clients)), read.get(("pgbouncer", clients))
    own, whole = (_saved_percent(direct, pooled, f"backends_{kind}_mib") for kind in ("own", "pss"))
    claim = f"memory that all backends add at {clients:,} clients, below direct"
    return [
        at_least(f"{claim}: PSS without shared memory (>= 90 %)", own, 90, " %"),
        Finding(
            "beside it: with shared_buffers, which is there once whatever the number of backends",
            "-" if whole is None else f"{whole:.3g} %",
            None if whole is None else True,
        ),
    ]


def _saved_percent(direct: Line | None, pooled: Line | None, name: str) -> float | None:
    before, after = getattr(direct, name, None), getattr(pooled, name, None)
    return None if not before or after is None else 100 * (1 - after / before)


def _percent(line: Line | None, base: Line | None) -> float | None:
    if line is None or base is None or line.tps is None or base.tps is None:
        return None
    return 100 * line.tps.median / base.tps.median


def _line(
    kind: str, path: str, clients: int, runs: list[dict[str, Any]], series: Sequence[Series]
) -> Line:
    complete = [run for run in runs if run["tps"] and not run["errors"]]
    histogram = Histogram()
    for run in complete:
        histogram.merge(Histogram.from_json(run["histogram"]))
    failures = tuple(
        run["messages"][-1] if run["messages"] else "no transaction"
        for run in runs
        if run not in complete
    )
    logins = [run["login_seconds"] for run in complete if run["login_seconds"] is not None]
    inside = [one.between(*run["window"]) for run in complete for one in series]
    return Line(
        kind,
        path,
        clients,
        spread([run["tps"] for run in complete]) if complete else None,
        histogram,
        median(logins) if logins else None,
        failures,
        _median(inside, "lab-postgres", "backends_count"),
        _mebibytes(inside, "lab-postgres", "backends_pss_kb"),
        _mebibytes(inside, "lab-postgres", "backends_own_kb"),
        _mebibytes(inside, "lab-pgbouncer", "process_pss_kb"),
        _cores(inside, complete),
    )


def _median(series: Iterable[Series], service: str, name: str) -> float | None:
    values = [value for one in series if one.service == service for value in one.values(name)]
    return median(values) if values else None


def _mebibytes(series: Iterable[Series], service: str, name: str) -> float | None:
    value = _median(series, service, name)
    return None if value is None else value / KB_PER_MIB


def _cores(series: Iterable[Series], runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return processors in use by tier: the difference of its counter over the window."""
    found: dict[str, list[float]] = defaultdict(list)
    for one in series:
        used = [(sample["t"], sample["cpu_ns"]) for sample in one.samples if "cpu_ns" in sample]
        if len(used) > 1 and used[-1][0] > used[0][0]:
            spent = (used[-1][1] - used[0][1]) / CORES_NS
            found[one.service.removeprefix("lab-")].append(spent / (used[-1][0] - used[0][0]))
    cores = {service: median(values) for service, values in found.items()}
    generator = [run["client_cores"] for run in runs if run["client_cores"] is not None]
    if generator:
        cores["pgbench"] = median(generator)
    return cores
