"""What a change does to the budget: connections of each tier, memory, disk, timeouts."""

from dataclasses import dataclass

from infra.config import sizing
from infra.config.names import CLIENTS
from infra.config.settings import Values


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
        """Tell whether the number changes."""
        return self.before is not None and self.before != self.after

    def as_dict(self) -> dict[str, object]:
        """Return the row as JSON holds it."""
        return {name: getattr(self, name) for name in self.__slots__}


def rows(before: Values | None, after: Values) -> tuple[Row, ...]:
    """Return every number of the budget before and after."""
    old = {} if before is None else _numbers(before)
    return tuple(
        Row(part, name, unit, old.get((part, name, unit)), number)
        for (part, name, unit), number in _numbers(after).items()
    )


def _numbers(values: Values) -> dict[tuple[str, str, str], float]:
    return _connections(values) | _memory(values) | _disk(values) | _timeouts(values)


def _connections(values: Values) -> dict[tuple[str, str, str], float]:
    workers = values.integer("WORKER_REPLICAS")
    found: dict[tuple[str, str, str], float] = {
        ("app", "api pool", "connections"): values.integer("API_POOL_MAX_SIZE"),
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


def _memory(values: Values) -> dict[tuple[str, str, str], float]:
    sizes = {
        "shared_buffers": sizing.shared_buffers_kb(values),
        "work_mem": sizing.work_mem_kb(values),
        "maintenance_work_mem": sizing.maintenance_work_mem_kb(values),
        "worst case": sizing.memory_demand_kb(values),
        "left of the container's memory": sizing.memory_kb(values)
        - sizing.memory_demand_kb(values),
    }
    return {("memory", name, "MB"): round(kb / 1024, 1) for name, kb in sizes.items()}


def _disk(values: Values) -> dict[tuple[str, str, str], float]:
    sizes = {
        "write-ahead log": sizing.wal_demand_mb(values),
        "temp_file_limit": round(sizing.temp_file_limit_kb(values) / 1024, 1),
        "ballast": sizing.ballast_mb(values),
        "left for data": sizing.data_mb(values),
    }
    return {("disk", name, "MB"): size for name, size in sizes.items()}


def _timeouts(values: Values) -> dict[tuple[str, str, str], float]:
    times = [name for client in CLIENTS for name in (*client.timeouts, client.pool_timeout)]
    times.append("PGBOUNCER_QUERY_WAIT_TIMEOUT_SECONDS")
    return {("time", name, _unit(name)): float(values.number(name)) for name in times}


def _unit(name: str) -> str:
    return "ms" if name.endswith("_MS") else "s"
