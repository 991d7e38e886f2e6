"""The tables of `plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from infra.compiler import catalogue, connections, derive

if TYPE_CHECKING:
    from infra.compiler.knobs import Values
    from infra.ops.plan import Plan


def print_plan(plan: Plan, console: Console) -> None:
    """Print every table of a plan without faults, its warnings last."""
    console.print(_knobs(plan.values))
    console.print(_server_connections(plan.values))
    console.print(_client_connections(plan.values))
    console.print(_memory(plan.values))
    console.print(_derived(plan))
    if plan.differences:
        console.print(_differences(plan))
    elif plan.differences is not None:
        console.print("No knob has changed since the last compile.")
    for warning in plan.warnings:
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)
    console.print(f"{plan.file}: the budget holds", markup=False, soft_wrap=True)


def _knobs(values: Values) -> Table:
    table = _table("Knobs", "Knob", "Value", "Default", "Range", "Unit", "Change")
    for knob in catalogue.all_knobs():
        value = values[knob.name]
        style = "" if value == knob.default else "bold"
        row = (knob.name, value, knob.default, knob.range, knob.unit, knob.change)
        table.add_row(*map(str, row), style=style)
    return table


def _server_connections(values: Values) -> Table:
    table = _table("PostgreSQL sessions", "From", "Sessions", "How")
    replicas = values.integer("PGBOUNCER_REPLICAS")
    for pool in connections.pools(values):
        how = f"{replicas} replicas x ({pool.size} + {pool.reserve} reserve)"
        table.add_row(f"pool {pool.entry} ({pool.user})", str(pool.limit * replicas), how)
    table.add_row("direct", str(connections.direct(values)), "owner, operator, monitor, backup")
    table.add_row("reserved", str(connections.reserved(values)), "superuser, operator and monitor")
    table.add_section()
    limit = values.integer("POSTGRES_MAX_CONNECTIONS")
    table.add_row("left", str(connections.spare(values)), f"of POSTGRES_MAX_CONNECTIONS={limit}")
    return table


def _client_connections(values: Values) -> Table:
    table = _table("Client connections of one PgBouncer, worst case", "From", "Connections", "How")
    api = values.integer("API_POOL_MAX_SIZE")
    replicas, size = values.integer("WORKER_REPLICAS"), values.integer("WORKER_POOL_MAX_SIZE")
    limit = values.integer("PGBOUNCER_MAX_CLIENT_CONNECTIONS")
    headroom = values.integer("PGBOUNCER_ADMIN_HEADROOM_CONNECTIONS")
    table.add_row("api", str(api), "API_POOL_MAX_SIZE")
    table.add_row("worker", str(replicas * size), f"{replicas} replicas x {size}")
    table.add_row("operators, checks, exporters", str(headroom), "headroom")
    table.add_section()
    left = limit - connections.client_demand(values)
    table.add_row("left", str(left), f"of PGBOUNCER_MAX_CLIENT_CONNECTIONS={limit}")
    files = values.integer("PGBOUNCER_OPEN_FILES")
    spare = files - connections.file_demand(values)
    table.add_row("open files left", str(spare), f"of PGBOUNCER_OPEN_FILES={files}")
    return table


def _memory(values: Values) -> Table:
    table = _table("PostgreSQL memory, worst case", "Part", "MB", "How")
    sessions = values.integer("POSTGRES_MAX_CONNECTIONS")
    workers = values.integer("POSTGRES_AUTOVACUUM_WORKERS")
    parts = (
        ("shared_buffers", derive.shared_buffers_kb(values), "once"),
        ("sessions", sessions * derive.SESSION_OVERHEAD_KB, f"{sessions} x overhead"),
        (
            "sorts and hashes",
            sessions * derive.work_mem_kb(values) * derive.WORK_MEM_FACTOR,
            f"{sessions} x work_mem x {derive.WORK_MEM_FACTOR}",
        ),
        (
            "autovacuum",
            workers * derive.maintenance_work_mem_kb(values),
            f"{workers} x maintenance_work_mem",
        ),
    )
    for name, size_kb, how in parts:
        table.add_row(name, _megabytes(size_kb), how)
    table.add_section()
    left = derive.memory_kb(values) - derive.memory_demand_kb(values)
    limit = values.integer("POSTGRES_MEMORY_MB")
    table.add_row("left", _megabytes(left), f"of POSTGRES_MEMORY_MB={limit}")
    return table


def _derived(plan: Plan) -> Table:
    table = _table("Derived PostgreSQL settings", "Setting", "Value", "Formula")
    for item in plan.derived:
        table.add_row(item.name, item.value, item.formula)
    return table


def _differences(plan: Plan) -> Table:
    table = _table("Changed since the last compile", "Knob", "Was", "Now", "Change")
    for item in plan.differences or ():
        table.add_row(item.name, str(item.was), str(item.now), item.change)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _megabytes(size_kb: int) -> str:
    return f"{size_kb / 1024:.1f}"
