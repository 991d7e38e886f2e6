"""Show the path once, again and again, or as JSON: a sample as tables of one screen."""

import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from infra.config.settings import Value
from infra.ops.clients import app_control
from infra.ops.clients.processes import OpsSettings
from infra.ops.outcome import Exit, print_document
from infra.ops.status.bottleneck import Verdict, bottleneck, is_without_etcd
from infra.ops.status.collect import Collector
from infra.ops.status.sample import (
    AppProcess,
    Backups,
    HostFacts,
    Pooler,
    Sample,
    Server,
    ServerPool,
)

# A container has no terminal to ask when its output is piped.
PLAIN_WIDTH = 150


def show(
    settings: OpsSettings,
    recorded: Mapping[str, Value] | None = None,
    *,
    as_json: bool,
    watch: bool,
    every_seconds: float,
    host: HostFacts | None = None,
) -> int:
    """Print the path as it is over `every_seconds`; return 1 when a process did not answer.

    `recorded` is what was compiled last, with which the roles are compared.
    """
    control = app_control.connect(settings)
    with closing(
        Collector(
            settings,
            control,
            recorded=recorded,
            processors=settings.values["postgres"]["processors"],
            # Facts of the start would be stale on the next screen.
            host=None if watch else host,
            seconds=every_seconds,
        )
    ) as collector:
        if watch:
            return _watch(collector)
        sample = collector.sample()
    if as_json:
        print_document(as_dict(sample))
    else:
        # A command that is longer than the line stays whole.
        _console().print(screen(sample), crop=False)
    return _exit_code(sample)


def _watch(collector: Collector) -> int:
    code: int = Exit.OK
    # As process 1 of its container it would not notice SIGTERM at all.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Live(console=_console(), screen=sys.stdout.isatty(), auto_refresh=False) as live:
            while True:
                sample = collector.sample()
                code = _exit_code(sample)
                live.update(screen(sample, verdict_first=True), refresh=True)
    except KeyboardInterrupt:
        return code


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)


def _exit_code(sample: Sample) -> int:
    return Exit.FAILED if sample.unreachable else Exit.OK


def as_dict(sample: Sample) -> dict[str, Any]:
    """Return the sample and the verdict as JSON holds them."""
    document = asdict(sample)
    document["server"]["connections"] = sample.server.connections
    return document | {
        "unreachable": list(sample.unreachable),
        "bottleneck": asdict(bottleneck(sample)),
    }


def screen(sample: Sample, *, verdict_first: bool = False) -> RenderableType:
    """Return everything, the bottleneck last: the lines nearest to the prompt.

    Where a low screen may cut the end off, ask for `verdict_first`.
    """
    verdict = Group(*_verdict(bottleneck(sample)))
    rest: tuple[RenderableType, ...] = (
        _app(sample.app),
        _poolers(sample.poolers),
        _server(sample.server),
        *_instances(sample),
        *_sessions(sample.server),
        *_roles(sample.server),
        *(Text(f"Paused: {one.name}", style="yellow") for one in sample.poolers if one.paused),
        *_work(sample),
        *_backups(sample.server.backups),
        *_host(sample),
        *(Text(f"Unreachable: {line}", style="bold red") for line in sample.unreachable),
    )
    return Group(verdict, *rest) if verdict_first else Group(*rest, verdict)


def _verdict(verdict: Verdict) -> Iterator[Text]:
    """Yield the line, and each command on one of its own, whole, so that it can be pasted."""
    named = not verdict.setting or verdict.setting in verdict.line
    setting = "" if named else f" Setting: {verdict.setting}."
    style = "bold green" if verdict.where == "none" else "bold yellow"
    yield Text.assemble(("Bottleneck: ", style), verdict.line, (setting, "bold"))
    for command in verdict.command.splitlines():
        yield Text(command, style="bold", no_wrap=True, overflow="ignore")


def _work(sample: Sample) -> Iterator[Text]:
    """Yield what callers got, and what is left to do."""
    if not (minute := sample.last_minute):
        yield Text("Requests: not known, no api process answers", style="yellow")
    elif minute.p95_seconds is None:
        yield Text("Requests: none in the last minute")
    else:
        yield Text(
            f"Requests: {minute.requests} in the last minute, {minute.errors} errors "
            f"({100 * minute.errors / minute.requests:.1f} %), p95 {minute.p95_seconds:.3f} s",
            style="yellow" if minute.errors else "",
        )
    if sample.server.tasks_queued is None:
        yield Text("Tasks: not known")
    else:
        running = sample.server.tasks_running
        yield Text(f"Tasks: {sample.server.tasks_queued} queued, {running} running")


def _backups(found: Backups | None) -> Iterator[Text]:
    """Yield how old the last backup is, how far back a restore can go, and what is wrong."""
    if found is None:
        yield Text("Backups: not known")
        return
    if not found.enabled:
        yield Text("Backups: off", style="yellow")
        return
    if found.age_seconds is None or found.full_age_seconds is None:
        yield Text("Backups: none yet", style="yellow")
    else:
        yield Text(
            f"Backups: the last {found.age_seconds / 3600:.1f} h ago, full "
            f"{found.full_age_seconds / 86_400:.1f} d ago; restore from {found.recoverable_from}"
        )
    if found.drill_age_seconds is not None:
        yield Text(
            f"Last drill: {found.drill_age_seconds / 86_400:.1f} d ago; recovery point "
            f"{found.drill_point_seconds:.0f} s, recovery time {found.drill_recovery_seconds:.0f} s"
        )
    else:
        yield Text("Last drill: never; make drill")
    yield from (Text(f"Backups: {line}", style="bold red") for line in found.problems)


def _host(sample: Sample) -> Iterator[Text]:
    """Yield what the host and the certificates say."""
    if sample.host is None:
        yield Text("Containers and disk: not known here, nor with WATCH=yes; see make status")
    else:
        for one in sample.host.containers:
            if one.state != "running" or one.health not in ("", "healthy") or one.restarts:
                yield Text(
                    f"Container {one.name}: {one.state} {one.health}, since {one.since}, "
                    f"exit code {one.exit_code}, {one.restarts} restart(s)",
                    style="yellow",
                )
        if disk := sample.host.disk:
            free, size = disk.free / 2**30, disk.size / 2**30
            style = "bold red" if disk.free < disk.reserve else ""
            yield Text(f"Data volume: {free:.1f} GiB free of {size:.1f} GiB", style=style)
        else:
            yield Text("Data volume: not known, PostgreSQL's container does not run")
    if sample.certificates:
        first = sample.certificates[0]
        yield Text(f"Certificates: {first.name} is the first to expire, in {first.days} days")


def _app(processes: tuple[AppProcess, ...]) -> Table:
    table = _table("App pools", "Process", "In use", "Idle", "Size", "Max", "Waiting", "Restart")
    for one in processes:
        if one.error:
            table.add_row(one.name, "unreachable", style="bold red")
            continue
        waiting = f"{one.waiting} of {one.max_waiting}"
        numbers = (one.in_use, one.idle, one.size, one.max_size, waiting)
        table.add_row(one.name, *map(str, numbers), ", ".join(one.needs_restart))
    return table


def _poolers(poolers: tuple[Pooler, ...]) -> Table:
    # PgBouncer's own words, so that twelve columns fit into eighty.
    table = _table(
        f"PgBouncer (cl: clients, sv: server connections{_way(poolers)})",
        "No.",
        "Pool",
        "cl\nact",
        "cl\nwait",
        "maxwait\ns",
        "sv\nact",
        "sv\nidle",
        "size",
        "query\n/s",
        "query\nms",
        "xact\nms",
        "wait\nms",
    )
    table.padding = 0
    for pooler in poolers:
        if pooler.error:
            table.add_row(_number(pooler), "unreachable", style="bold red")
        for pool in pooler.pools:
            table.add_row(*_pool(pooler, pool), style="yellow" if pooler.paused else "")
    return table


def _way(poolers: tuple[Pooler, ...]) -> str:
    hops = sorted({one.server_hop for one in poolers if one.server_hop})
    return f" by {' and '.join(hops)}" if hops else ""


def _pool(pooler: Pooler, pool: ServerPool) -> Iterator[str]:
    yield _number(pooler)
    yield pool.database
    yield str(pool.clients_active)
    yield str(pool.clients_waiting)
    yield f"{pool.max_wait_seconds:.6f}"
    yield str(pool.servers_active)
    yield str(pool.servers_idle)
    yield f"{pool.pool_size}+{pool.reserve_size}"
    yield f"{pool.queries_per_second:.1f}"
    yield f"{pool.query_ms:.2f}"
    yield f"{pool.transaction_ms:.2f}"
    yield f"{pool.wait_ms:.2f}"


def _number(pooler: Pooler) -> str:
    """Return the number of the replica's container: the rest of the name is the same for all."""
    return pooler.name.rpartition("-")[2]


def _server(server: Server) -> Table:
    title = f"PostgreSQL: {server.connections} sessions of {server.max_connections}"
    table = _table(title, "Role", "Sessions", "Limit", "By state")
    if server.error:
        table.add_row("postgres", "unreachable", style="bold red")
    for role in server.roles:
        states = ", ".join(f"{count} {state}" for state, count in role.by_state.items())
        limit = "none" if role.limit < 0 else str(role.limit)
        table.add_row(role.role, str(role.total), limit, states)
    return table


def _instances(sample: Sample) -> Iterator[RenderableType]:
    """Yield a table of three, and whether etcd has a quorum."""
    if not sample.instances:
        return
    table = _table("Instances", "Instance", "Role", "State", "Timeline", "Lag kB", "Restart")
    for one in sample.instances:
        if one.error:
            table.add_row(one.name, "unreachable", style="bold red")
            continue
        lag = "" if one.lag_bytes is None else str(one.lag_bytes // 1024)
        due = "due" if one.pending_restart else ""
        row = (one.role, one.state, str(one.timeline), lag, due)
        table.add_row(one.name, *row, style="" if one.is_primary or one.follows else "yellow")
    yield table
    if is_without_etcd(sample):
        yield Text("etcd: no quorum", style="bold red")
    else:
        yield Text("etcd: has a quorum")


def _sessions(server: Server) -> Iterator[Text]:
    if one := server.oldest:
        yield Text(
            f"Oldest transaction: {one.seconds:.1f} s, process {one.pid} ({one.user}): {one.query}"
        )
    for one in server.blocked:
        by = ", ".join(map(str, one.blocked_by))
        yield Text(
            f"Blocked: process {one.pid} ({one.user}) for {one.seconds:.1f} s by {by}: {one.query}"
        )


def _roles(server: Server) -> Iterator[Text]:
    if server.outside is None:
        yield Text("Roles: not compared with what was compiled")
    elif server.outside:
        for line in server.outside:
            yield Text(f"Not as compiled: {line}", style="yellow")
    else:
        yield Text("Roles: as compiled; what clients have SET in the pools: make apply looks")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.padding, table.pad_edge = (0, 1, 0, 0), False
    for column in columns:
        # One process, one line: a folded table is too high for a screen.
        table.add_column(column, no_wrap=True)
    return table
