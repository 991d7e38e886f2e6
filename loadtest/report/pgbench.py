"""The page of `make load-sql`: the repeats of a case as one line, with memory and cores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from loadtest.figures import Finding, Histogram, Spread, at_least, spread, summary_ms
from loadtest.measure.pgbench import PATHS, is_complete
from loadtest.report.parts import Cell, Content, Section, Table, against, distribution
from loadtest.run_directory import KB_PER_MIB, NS_PER_SECOND, RunDirectory, Series, reduced

MICROSECONDS = 1e6
BASE_CLIENTS = 8
DIRECT_BASE_CLIENTS = 380
READ = "read extended"
# What is to pass PgBouncer of a direct connection's throughput, in per cent.
WANTED = {
    (READ, 8): 88,
    ("read prepared", 8): 75,
    (READ, 64): 100,
    (READ, 1000): 150,
}
TIERS = ("postgres", "pgbouncer", "pgbench")
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
LIMITS = (
    "Processors in use during the measured seconds, by tier. A tier that uses all it has (one core "
    "for a PgBouncer process) is the limit; where their sum is all the machine has, the machine "
    "is, and the processor time per read says whose share has grown. pgbench is the generator: it "
    "looks at the sockets of all its clients at every turn, so its own share grows with them."
)


def content(run: RunDirectory, series: Sequence[Series]) -> Content | None:
    """Return the page of a run; None without a result."""
    data = run.read("load-sql")
    if data is None:
        return None
    found = lines(data["runs"], series)
    kinds = list(dict.fromkeys(line.kind for line in found))
    throughput = {kind: _throughput_table(kind, found) for kind in kinds}
    memory = _memory_table(found)
    sections = [_section(kind, found, throughput[kind]) for kind in kinds]
    sections.insert(1, Section("What limits it", LIMITS, [memory]))
    failures = [[_name(line), text] for line in found for text in line.failures]
    if failures:
        sections.append(Section("Failed runs", "", [Table("", ("case", "message"), failures)]))
    if data["skipped"]:
        rows = [[one["name"], one["reason"]] for one in data["skipped"]]
        sections.append(Section("Left out", "", [Table("", ("case", "reason"), rows)]))
    return Content(data["options"], findings(found), sections, [*throughput.values(), memory])


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
    """Return what the run says about ten thousand clients and a thousand backends.

    Nothing of a client count that the run did not have.
    """
    read = {(line.path, line.clients): line for line in all_lines if line.kind == READ and line.tps}
    most = max((clients for path, clients in read if path == "pgbouncer"), default=0)
    few, many = read.get(("pgbouncer", BASE_CLIENTS)), read.get(("pgbouncer", most))
    found = _pooled_against_direct(all_lines)
    if few and many and many is not few:
        claim = (
            f"reads through PgBouncer with {most:,} clients, of those with {BASE_CLIENTS} (>= 90 %)"
        )
        found += [at_least(claim, _percent(many, few), 90, " %"), *_profile(few, many)]
    direct = read.get(("direct", DIRECT_BASE_CLIENTS))
    share = _percent(direct, read.get(("direct", BASE_CLIENTS)))
    if share is not None:
        found.append(
            Finding(
                f"beside it: reads direct with {DIRECT_BASE_CLIENTS} clients, of those with "
                f"{BASE_CLIENTS}",
                f"{share:.3g} %",
                True,
            )
        )
    return [*found, *_memory(read)]


def _pooled_against_direct(all_lines: Sequence[Line]) -> list[Finding]:
    """Return what of a direct connection's throughput passes PgBouncer; see WANTED."""
    found = []
    for (kind, clients), wanted in WANTED.items():
        pooled, direct = (find(all_lines, kind, path, clients) for path in PATHS)
        share = _percent(pooled, direct)
        if share is not None:
            claim = f"{kind} through PgBouncer with {clients:,} clients, of direct (>= {wanted} %)"
            found.append(at_least(claim, share, wanted, " %"))
    return found


def _profile(few: Line, many: Line) -> list[Finding]:
    """Return where the processors' time goes, with few clients and with many."""
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
    if not both or both[-1] == BASE_CLIENTS:
        return []
    clients = both[-1]
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
    complete = [run for run in runs if is_complete(run)]
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
        Histogram.merged(Histogram.from_json(run["histogram"]) for run in complete),
        median(logins) if logins else None,
        failures,
        reduced(inside, "lab-postgres", "backends_count", median),
        reduced(inside, "lab-postgres", "backends_pss_kb", median, per=KB_PER_MIB),
        reduced(inside, "lab-postgres", "backends_own_kb", median, per=KB_PER_MIB),
        reduced(inside, "lab-pgbouncer", "process_pss_kb", median, per=KB_PER_MIB),
        _cores(inside, complete),
    )


def _cores(series: Iterable[Series], runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return processors in use by tier: the difference of its counter over the window."""
    found: dict[str, list[float]] = defaultdict(list)
    for one in series:
        used = [(sample["t"], sample["cpu_ns"]) for sample in one.samples if "cpu_ns" in sample]
        if len(used) > 1 and used[-1][0] > used[0][0]:
            spent = (used[-1][1] - used[0][1]) / NS_PER_SECOND
            found[one.service.removeprefix("lab-")].append(spent / (used[-1][0] - used[0][0]))
    cores = {service: median(values) for service, values in found.items()}
    generator = [run["client_cores"] for run in runs if run["client_cores"] is not None]
    if generator:
        cores["pgbench"] = median(generator)
    return cores


def _throughput_table(kind: str, lines: Sequence[Line]) -> Table:
    """Return throughput and latency of one kind of transaction."""
    return Table(
        kind.capitalize(),
        COLUMNS,
        [_row(line, lines) for line in lines if line.kind == kind],
        "tps: transactions per second once every client is logged in, over the repeats. "
        "Latency as a client saw it, waiting for a server connection included.",
    )


def _memory_table(lines: Sequence[Line]) -> Table:
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


def _section(kind: str, lines: Sequence[Line], table: Table) -> Section:
    mine = [line for line in lines if line.kind == kind]
    curves = {
        path: [
            (line.clients, line.tps.median, line.tps.minimum, line.tps.maximum)
            for line in mine
            if line.path == path and line.tps
        ]
        for path in PATHS
    }
    charted = [
        against(
            f"{kind.capitalize()}: throughput against clients",
            {name: points for name, points in curves.items() if points},
            "clients (logarithmic)",
            "transactions per second",
            "Median of the repeats; the bar is their range.",
        ),
        distribution(
            f"{kind.capitalize()}: latency",
            {f"{line.path}, {line.clients:,}": line.histogram for line in mine},
        ),
    ]
    return Section(kind.capitalize(), "", [table], charted)


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
