"""The budget as tables: the whole of it, and what a change does to it.

Connections of each tier, memory, disk and timeouts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.table import Table

from infra.config import extra, resources, sizing
from infra.config.derived import derived_settings
from infra.config.names import SERVICES
from infra.config.settings import Values
from infra.config.sizing import Part

# A list leaves no room for the second column.
_SETTING_WIDTH: Final = 44


def whole(values: Values) -> list[Table]:
    """Return the tables of the whole budget."""
    return [
        _settings(values),
        _server_connections(values),
        _client_connections(values),
        _memory(values),
        _api_memory(values),
        _disk(values),
        _derived(values),
    ]


def _settings(values: Values) -> Table:
    """Every setting as the env file would have it, and where its value comes from."""
    shown = table("Settings", "Setting", "From")
    for setting in extra.concerned(values):
        value = values[setting.name]
        formula = values.derived.get(setting.name)
        usual = value == setting.default
        file = setting.name.partition(":")[0] if ":" in setting.name else "stack.env"
        origin = formula or ("default" if usual else f"{file}; default {setting.default}")
        style = "" if usual or formula else "bold"
        text = f"{setting.name}={value}"
        if len(text) > _SETTING_WIDTH:
            text = text.replace("=", "=\n", 1)
        shown.add_row(text, origin, style=style)
    return shown


def _server_connections(values: Values) -> Table:
    shown = _parts("PostgreSQL sessions", ("From", "Sessions"), sizing.session_parts(values))
    limit = values.integer("POSTGRES_MAX_CONNECTIONS")
    shown.add_row(f"left of {limit}", str(sizing.spare(values)), "POSTGRES_MAX_CONNECTIONS")
    return shown


def _client_connections(values: Values) -> Table:
    title = "Client connections of one PgBouncer, worst case"
    shown = _parts(title, ("From", "Connections"), sizing.client_parts(values))
    limit = values.integer("PGBOUNCER_MAX_CLIENT_CONNECTIONS")
    left = limit - sizing.client_demand(values)
    shown.add_row(f"left of {limit}", str(left), "PGBOUNCER_MAX_CLIENT_CONNECTIONS")
    files = values.integer("PGBOUNCER_OPEN_FILES")
    spare = files - resources.file_demand(values)
    shown.add_row(f"open files left of {files}", str(spare), "PGBOUNCER_OPEN_FILES")
    return shown


def _memory(values: Values) -> Table:
    title = "PostgreSQL memory, worst case"
    shown = _parts(title, ("Part", "MB"), resources.memory_parts(values), form=_megabytes)
    left = resources.memory_kb(values) - resources.memory_demand_kb(values)
    limit = values.integer("POSTGRES_MEMORY_MB")
    shown.add_row(f"left of {limit}", _megabytes(left), "POSTGRES_MEMORY_MB")
    return shown


def _api_memory(values: Values) -> Table:
    parts = resources.api_memory_parts(values)
    shown = _parts("Api memory, worst case", ("Part", "MB"), parts, form=_megabytes)
    limit = values.integer("API_MEMORY_MB")
    left = limit * resources.KB_PER_MB - sizing.total(parts)
    shown.add_row(f"left of {limit}", _megabytes(left), "API_MEMORY_MB")
    return shown


def _disk(values: Values) -> Table:
    shown = _parts("Data volume, worst case", ("Part", "MB"), resources.disk_parts(values))
    limit = values.integer("POSTGRES_DISK_MB")
    shown.add_row("data", str(resources.data_mb(values)), f"the rest of POSTGRES_DISK_MB={limit}")
    return shown


def _parts(
    title: str,
    columns: tuple[str, str],
    parts: tuple[Part, ...],
    *,
    form: Callable[[int], str] = str,
) -> Table:
    """Return a table of the parts of a sum, ready for what is left of the limit."""
    shown = table(title, *columns, "How")
    for part in parts:
        shown.add_row(part.name, form(part.size), part.how)
    shown.add_section()
    return shown


def _derived(values: Values) -> Table:
    shown = table("Derived PostgreSQL settings", "Setting", "From")
    for item in derived_settings(values):
        shown.add_row(f"{item.name}={item.value}", item.formula)
    return shown


@dataclass(frozen=True, slots=True)
class Row:
    """One number of the budget, before (None when nothing is known of it) and after."""

    part: str
    name: str
    unit: str
    before: float | None
    after: float

    @property
    def changed(self) -> bool:
        """Return True if the number changes."""
        return self.before is not None and self.before != self.after

    def as_dict(self) -> dict[str, object]:
        """Return the row as JSON holds it."""
        return {name: getattr(self, name) for name in self.__slots__}


def effect(before: Values | None, after: Values) -> tuple[Row, ...]:
    """Return every number of the budget before and after."""
    old = {} if before is None else _numbers(before)
    return tuple(
        Row(part, name, unit, old.get((part, name, unit)), number)
        for (part, name, unit), number in _numbers(after).items()
    )


def _numbers(values: Values) -> dict[tuple[str, str, str], float]:
    return (
        _connections_numbers(values)
        | _memory_numbers(values)
        | _disk_numbers(values)
        | _timeouts_numbers(values)
    )


def _connections_numbers(values: Values) -> dict[tuple[str, str, str], float]:
    workers = values.integer("WORKER_REPLICAS")
    found: dict[tuple[str, str, str], float] = {
        ("app", "api pools together", "connections"): sizing.api_pools(values),
        ("app", "worker pools together", "connections"): workers
        * values.integer("WORKER_POOL_MAX_SIZE"),
        ("pgbouncer", "clients of one replica, worst case", "connections"): (
            sizing.client_demand(values)
        ),
        ("pgbouncer", "clients one replica accepts", "connections"): values.integer(
            "PGBOUNCER_MAX_CLIENT_CONNECTIONS"
        ),
    }
    replicas = values.integer("PGBOUNCER_REPLICAS")
    for pool in sizing.pools(values):
        name = f"pool {pool.entry}, {replicas} replicas"
        found["pgbouncer", name, "connections"] = pool.limit * replicas
    found["postgres", "pooled sessions", "connections"] = sizing.pooled(values)
    found["postgres", "direct sessions", "connections"] = sizing.direct(values)
    found["postgres", "reserved", "connections"] = sizing.reserved(values)
    found["postgres", "left of max_connections", "connections"] = sizing.spare(values)
    found["postgres", "max_connections", "connections"] = values.integer("POSTGRES_MAX_CONNECTIONS")
    return found


def _memory_numbers(values: Values) -> dict[tuple[str, str, str], float]:
    sizes = {
        "shared_buffers": resources.shared_buffers_kb(values),
        "work_mem": resources.work_mem_kb(values),
        "maintenance_work_mem": resources.maintenance_work_mem_kb(values),
        "worst case": resources.memory_demand_kb(values),
        "left of the container's memory": resources.memory_kb(values)
        - resources.memory_demand_kb(values),
    }
    return {("memory", name, "MB"): round(kb / 1024, 1) for name, kb in sizes.items()}


def _disk_numbers(values: Values) -> dict[tuple[str, str, str], float]:
    sizes = {
        "write-ahead log": resources.wal_demand_mb(values),
        "temp_file_limit": round(resources.temp_file_limit_kb(values) / 1024, 1),
        "ballast": resources.ballast_mb(values),
        "left for data": resources.data_mb(values),
    }
    return {("disk", name, "MB"): size for name, size in sizes.items()}


def _timeouts_numbers(values: Values) -> dict[tuple[str, str, str], float]:
    times = [name for client in SERVICES for name in (*client.timeouts, client.pool_timeout)]
    times.append("PGBOUNCER_QUERY_WAIT_TIMEOUT_SECONDS")
    return {("time", name, _unit(name)): float(values.number(name)) for name in times}


def _unit(name: str) -> str:
    return "ms" if name.endswith("_MS") else "s"


def effect_table(before: Values | None, after: Values) -> Table | None:
    """Return the numbers of the budget that change; None where none does."""
    changed = [row for row in effect(before, after) if row.changed and row.before is not None]
    if not changed:
        return None
    shown = table("Effect on the budget", "Part", "Number", "Before", "After", "By", "Unit")
    for row in changed:
        by = row.after - (row.before or 0)
        numbers = (f"{row.before:g}", f"{row.after:g}", f"{by:+g}")
        shown.add_row(row.part, row.name, *numbers, row.unit)
    return shown


def table(title: str, *columns: str) -> Table:
    """Return an empty table that fits into 80 columns."""
    # Without lines between columns every name fits into 80 of them.
    shown = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for column in columns:
        # A name that is broken in two cannot be read, copied or searched for.
        shown.add_column(column, overflow="fold", no_wrap=column == "Setting")
    return shown


def _megabytes(size_kb: int) -> str:
    return f"{size_kb / 1024:.1f}"
