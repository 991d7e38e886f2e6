"""PostgreSQL's settings that are derived of the sizes, each with its formula beside it."""

from dataclasses import dataclass
from decimal import Decimal

from infra.config import resources, sizing
from infra.config.settings import Values


@dataclass(frozen=True, slots=True)
class Derived:
    """One server setting: name, value as PostgreSQL reads it, and how it came about."""

    name: str
    value: str
    formula: str


def derived_settings(values: Values) -> tuple[Derived, ...]:
    """Return every derived server setting, in the order of postgresql.conf."""
    return (
        *_connection_settings(values),
        *_memory_settings(values),
        *_log_settings(values),
        *_process_settings(values),
        *_disk_settings(values),
    )


def _connection_settings(values: Values) -> tuple[Derived, ...]:
    names = {
        "max_connections": "POSTGRES_MAX_CONNECTIONS",
        "superuser_reserved_connections": "POSTGRES_SUPERUSER_RESERVED_CONNECTIONS",
        "reserved_connections": "POSTGRES_RESERVED_CONNECTIONS",
        "max_wal_senders": "POSTGRES_BACKUP_CONNECTIONS",
    }
    return tuple(
        Derived(name, str(values.integer(setting)), setting) for name, setting in names.items()
    )


def _memory_settings(values: Values) -> tuple[Derived, ...]:
    buffers = resources.shared_buffers_kb(values)
    cache = resources.memory_kb(values) - sizing.total(resources.fixed_parts(values)) + buffers
    return (
        Derived(
            "shared_buffers",
            f"{buffers}kB",
            "POSTGRES_MEMORY_MB x POSTGRES_SHARED_BUFFERS_PERCENT / 100",
        ),
        Derived(
            "effective_cache_size",
            f"{max(cache, buffers)}kB",
            "memory - session overhead - autovacuum: shared_buffers + page cache left to the tier",
        ),
        Derived("work_mem", f"{resources.work_mem_kb(values)}kB", _work_mem_formula(values)),
        Derived(
            "maintenance_work_mem",
            f"{resources.maintenance_work_mem_kb(values)}kB",
            "POSTGRES_MAINTENANCE_WORK_MEM_MB, or memory / 8 / POSTGRES_AUTOVACUUM_WORKERS, "
            "1 MB..2 GB",
        ),
        Derived(
            "autovacuum_work_mem",
            f"{resources.maintenance_work_mem_kb(values)}kB",
            "maintenance_work_mem",
        ),
        Derived(
            "wal_buffers",
            f"{min(max(buffers // 32, 64), 16 * resources.KB_PER_MB)}kB",
            "shared_buffers / 32, 64 kB..16 MB",
        ),
    )


def _work_mem_formula(values: Values) -> str:
    if values.integer("POSTGRES_WORK_MEM_KB"):
        return "POSTGRES_WORK_MEM_KB"
    busy = sizing.pooled(values) + sizing.direct(values)
    return (
        f"(memory - fixed) / 2 / ({busy} pooled and direct sessions x "
        f"{resources.WORK_MEM_FACTOR}), bounded so that POSTGRES_MAX_CONNECTIONS sessions fit"
    )


def _log_settings(values: Values) -> tuple[Derived, ...]:
    chosen = values.integer("POSTGRES_SLOW_STATEMENT_MS")
    slow = f"{chosen}ms" if chosen >= 0 else str(chosen)
    return (
        Derived("log_min_duration_statement", slow, "POSTGRES_SLOW_STATEMENT_MS"),
        Derived("auto_explain.log_min_duration", slow, "POSTGRES_SLOW_STATEMENT_MS"),
    )


def _process_settings(values: Values) -> tuple[Derived, ...]:
    cpus = resources.processors(values)
    gather = min(cpus // 2, 4)
    return (
        Derived("max_worker_processes", str(cpus + 4), "POSTGRES_CPUS rounded up + 4"),
        Derived("max_parallel_workers", str(cpus), "POSTGRES_CPUS rounded up"),
        Derived("max_parallel_workers_per_gather", str(gather), "POSTGRES_CPUS / 2, at most 4"),
        Derived("max_parallel_maintenance_workers", str(gather), "POSTGRES_CPUS / 2, at most 4"),
        Derived(
            "autovacuum_max_workers",
            str(values.integer("POSTGRES_AUTOVACUUM_WORKERS")),
            "POSTGRES_AUTOVACUUM_WORKERS",
        ),
    )


def _disk_settings(values: Values) -> tuple[Derived, ...]:
    maximum = values.integer("POSTGRES_MAX_WAL_MB")
    solid = values.text("POSTGRES_STORAGE") == "ssd"
    cost, concurrency = (Decimal("1.1"), 200) if solid else (Decimal("4.0"), 2)
    return (
        Derived("max_wal_size", f"{maximum}MB", "POSTGRES_MAX_WAL_MB"),
        Derived(
            "min_wal_size", f"{maximum}MB", "max_wal_size: data cannot take the space of the log"
        ),
        *(
            [Derived("wal_keep_size", f"{maximum}MB", "max_wal_size: for a standby that was away")]
            if sizing.is_replicated(values)
            else []
        ),
        Derived(
            "temp_file_limit",
            f"{resources.temp_file_limit_kb(values)}kB",
            f"POSTGRES_DISK_MB / {resources.DISK_SHARE} / ({resources.spilling_processes(values)} "
            "pooled, direct and parallel processes); owners have none",
        ),
        Derived(
            "sluice.ballast",
            f"{resources.ballast_mb(values)}MB",
            "POSTGRES_DISK_MB / 64, 64 MB..1 GB: the file that `make free-disk` gives back",
        ),
        Derived(
            "checkpoint_timeout",
            f"{values.integer('POSTGRES_CHECKPOINT_TIMEOUT_SECONDS')}s",
            "POSTGRES_CHECKPOINT_TIMEOUT_SECONDS",
        ),
        Derived("random_page_cost", str(cost), "POSTGRES_STORAGE: ssd 1.1, hdd 4.0"),
        Derived("effective_io_concurrency", str(concurrency), "POSTGRES_STORAGE: ssd 200, hdd 2"),
    )
