"""What the tiers take at their limits: memory, threads, open files and disk, each counted once.

The rules judge these numbers, plan shows them, and PostgreSQL's derived settings (derived.py) are
made of them.
"""

from decimal import ROUND_CEILING

from infra.config import sizing
from infra.config.settings import Values
from infra.config.sizing import Part, total

KB_PER_MB = 1024

# compose.yaml: pids_limit of the api's container.
API_THREADS_LIMIT = 1024
# Of a process beside API_THREADS and APP_POOL_CONNECTORS: 4 for streams, 4 for probes, one each for
# main, control, hints, handover, the copies of metrics and for the pool's scheduler, watchdog,
# check and probe, and 12 allowed for calls of the control plane.
API_OTHER_THREADS = 29
# The supervisor and what it leaves to the kernel.
API_BASE_MB = 16
# Measured: a process with its pool under load, and its connections at their bound.
API_PROCESS_MB = 88
# Of each answer with results, and a process has API_THREADS at once: a piece of 512 kB
# (PIECE_BYTES_MAX in app/assessments/read_results.py) and what its connection holds of the answer.
# Measured: 450 kB for callers who take nothing, with sites of short names.
API_RESULTS_KB = 672
# Measured: 65 kB for each event stream.
API_EVENT_STREAM_KB = 80


def api_threads(values: Values) -> int:
    """Return the threads of the api's container during a restart, which has one process more."""
    processes = values.integer("API_PROCESSES") + 1
    chosen = values.integer("API_THREADS") + values.integer("APP_POOL_CONNECTORS")
    return processes * (chosen + API_OTHER_THREADS)


def api_memory_parts(values: Values) -> tuple[Part, ...]:
    """Return the worst case of the api's container, in kB: a restart has one process more."""
    processes = values.integer("API_PROCESSES") + 1
    answers = values.integer("API_THREADS")
    streams = values.integer("API_EVENT_STREAMS_MAX")
    each = f"{processes} processes x"
    return (
        Part("supervisor", API_BASE_MB * KB_PER_MB, "once"),
        Part("processes", processes * API_PROCESS_MB * KB_PER_MB, f"{each} {API_PROCESS_MB} MB"),
        Part(
            "answers with results",
            processes * answers * API_RESULTS_KB,
            f"{each} {answers} threads x {API_RESULTS_KB} kB",
        ),
        Part(
            "event streams",
            processes * streams * API_EVENT_STREAM_KB,
            f"{each} {streams} x {API_EVENT_STREAM_KB} kB",
        ),
    )


def api_memory_mb(values: Values) -> int:
    """Return the memory of the api's container in MB, rounded up."""
    return -(-total(api_memory_parts(values)) // KB_PER_MB)


# Listening sockets, log, epoll, DNS and the administrator's own descriptors.
OPEN_FILES_SLACK = 64
# Measured: 5,000 TLS clients took 187 MiB in one process.
PGBOUNCER_BASE_KB = 16 * KB_PER_MB
PGBOUNCER_CLIENT_KB = 40
# Measured: a prepared statement of 20 MB took 77 MB while it was prepared.
PGBOUNCER_PACKET_COPIES = 4
# A task has 9 rows of results, each with 12 values and three lists of missing inputs.
TASK_PACKET_KB = 8


def file_demand(values: Values) -> int:
    """Return the open files of one replica at its limits."""
    accepted = values.integer("PGBOUNCER_MAX_CLIENT_CONNECTIONS")
    return accepted + sizing.per_replica(values) + OPEN_FILES_SLACK


def pgbouncer_memory_kb(values: Values) -> int:
    """Return the memory of a replica full of TLS clients, one with its longest message, in kB."""
    accepted = values.integer("PGBOUNCER_MAX_CLIENT_CONNECTIONS") * PGBOUNCER_CLIENT_KB
    packet = values.integer("PGBOUNCER_MAX_PACKET_KB") * PGBOUNCER_PACKET_COPIES
    return PGBOUNCER_BASE_KB + accepted + packet


def app_packet_kb(values: Values) -> int:
    """Return the longest statement of the app with its values, in kB: a batch's results."""
    return values.integer("WORKER_BATCH_TASKS") * TASK_PACKET_KB


# One statement can hold several sorts and hashes, and a hash may take twice work_mem
# (hash_mem_multiplier): two full allocations per session are taken as the worst case.
WORK_MEM_FACTOR = 2
# Private memory of a session before any sort: catalogue caches, TLS, prepared plans.
SESSION_OVERHEAD_KB = 3 * KB_PER_MB
WORK_MEM_MIN_KB = 64
# work_mem below this makes ordinary sorts of this workload spill to disk.
WORK_MEM_USEFUL_KB = 1024
# Write-ahead log and temporary files may each take this part of the disk; the data have the rest.
DISK_SHARE = 4
# max_wal_size is a target that a checkpoint behind schedule exceeds.
WAL_FACTOR = 2
_MAINTENANCE_MAX_KB = 2048 * KB_PER_MB
_WORK_MEM_MAX_KB = 256 * KB_PER_MB


def memory_kb(values: Values) -> int:
    """Return the memory limit of the PostgreSQL container in kB."""
    return values.integer("POSTGRES_MEMORY_MB") * KB_PER_MB


def shared_buffers_kb(values: Values) -> int:
    """Return shared_buffers in kB, a whole number of 8 kB pages."""
    share = memory_kb(values) * values.integer("POSTGRES_SHARED_BUFFERS_PERCENT") // 100
    return share // 8 * 8


def maintenance_work_mem_kb(values: Values) -> int:
    """Return maintenance_work_mem in kB: the operator's, or 1/8 of memory shared out."""
    chosen = values.integer("POSTGRES_MAINTENANCE_WORK_MEM_MB") * KB_PER_MB
    share = memory_kb(values) // 8 // values.integer("POSTGRES_AUTOVACUUM_WORKERS")
    return chosen or min(max(share // KB_PER_MB, 1) * KB_PER_MB, _MAINTENANCE_MAX_KB)


def fixed_parts(values: Values) -> tuple[Part, ...]:
    """Return the memory that is gone before any session sorts, in kB."""
    sessions = values.integer("POSTGRES_MAX_CONNECTIONS")
    workers = values.integer("POSTGRES_AUTOVACUUM_WORKERS")
    return (
        Part("shared_buffers", shared_buffers_kb(values), "once"),
        Part("sessions", sessions * SESSION_OVERHEAD_KB, f"{sessions} x overhead"),
        Part(
            "autovacuum",
            workers * maintenance_work_mem_kb(values),
            f"{workers} x maintenance_work_mem",
        ),
    )


def work_mem_kb(values: Values) -> int:
    """Return work_mem in kB: the operator's, or derived from the sessions of the budget.

    Half of the memory that is left goes to the sessions the budget knows of; the bound is
    that max_connections sessions at the stated factor still fit.
    """
    chosen = values.integer("POSTGRES_WORK_MEM_KB")
    if chosen:
        return chosen
    left = max(memory_kb(values) - total(fixed_parts(values)), 0)
    busy = sizing.pooled(values) + sizing.direct(values)
    target = left // 2 // (busy * WORK_MEM_FACTOR)
    bound = left // (values.integer("POSTGRES_MAX_CONNECTIONS") * WORK_MEM_FACTOR)
    return max(min(target, bound, _WORK_MEM_MAX_KB), WORK_MEM_MIN_KB)


def memory_parts(values: Values) -> tuple[Part, ...]:
    """Return the worst case that must fit into the container, in kB."""
    sessions = values.integer("POSTGRES_MAX_CONNECTIONS")
    buffers, overhead, autovacuum = fixed_parts(values)
    sorts = Part(
        "sorts and hashes",
        sessions * work_mem_kb(values) * WORK_MEM_FACTOR,
        f"{sessions} x work_mem x {WORK_MEM_FACTOR}",
    )
    return buffers, overhead, sorts, autovacuum


def memory_demand_kb(values: Values) -> int:
    """Return the worst case that must fit into the container, in kB."""
    return total(memory_parts(values))


def processors(values: Values) -> int:
    """Return the processors rounded up: a part of one still runs one process."""
    return int(values.number("POSTGRES_CPUS").to_integral_value(rounding=ROUND_CEILING))


def wal_demand_mb(values: Values) -> int:
    """Return the disk space that the write-ahead log may take, in MB."""
    return values.integer("POSTGRES_MAX_WAL_MB") * wal_factor(values)


def wal_factor(values: Values) -> int:
    """Return how many times max_wal_size the log may take: with standbys once more is kept."""
    return WAL_FACTOR + sizing.is_replicated(values)


def spilling_processes(values: Values) -> int:
    """Return the processes that may have temporary files at once; the limit is for each.

    Without those of owners, who have no limit: a large index is sorted on disk.
    """
    limited = sizing.direct(values) - sum(sizing.owner_sessions(values).values())
    return sizing.pooled(values) + limited + processors(values)


def temp_file_limit_kb(values: Values) -> int:
    """Return temp_file_limit in kB: the share of the disk over all that may spill."""
    share = values.integer("POSTGRES_DISK_MB") * KB_PER_MB // DISK_SHARE
    return share // spilling_processes(values)


def disk_reserve_mb(values: Values) -> int:
    """Return the free disk space below which the volume may fill up at any moment, in MB."""
    return wal_demand_mb(values) + temp_file_limit_kb(values) // KB_PER_MB


def ballast_mb(values: Values) -> int:
    """Return the size of the file that is given back on a full disk, in MB.

    At least four segments of the log: a server that cannot write one does not start.
    """
    return min(max(values.integer("POSTGRES_DISK_MB") // 64, 64), 1024)


def disk_share_mb(values: Values) -> int:
    """Return the disk space that the log, and temporary files, may each take, in MB."""
    return values.integer("POSTGRES_DISK_MB") // DISK_SHARE


def disk_parts(values: Values) -> tuple[Part, ...]:
    """Return the disk space that is not for tables and indexes, in MB."""
    processes = spilling_processes(values)
    return (
        Part("write-ahead log", wal_demand_mb(values), f"{wal_factor(values)} x max_wal_size"),
        Part("unarchived log", values.integer("BACKUP_QUEUE_MB"), "BACKUP_QUEUE_MB"),
        Part("temporary files", disk_share_mb(values), f"{processes} processes x temp_file_limit"),
        Part("ballast", ballast_mb(values), "given back by make free-disk"),
    )


def data_mb(values: Values) -> int:
    """Return the disk space that is left for tables and indexes, in MB."""
    return values.integer("POSTGRES_DISK_MB") - total(disk_parts(values))
