"""The starting points beside stack.env: what differs from the defaults, and for what machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Preset:
    """One env file: its title, the machine it is for, and the knobs that differ."""

    title: str
    machine: str
    values: Mapping[str, str] = field(default_factory=dict)


_LAPTOP_MACHINE = (
    "For a machine with 2 cores and 4 GB of memory to spare that runs every tier beside other "
    "work; also the default of every knob."
)

PRESETS: Final[Mapping[str, Preset]] = {
    "stack": Preset("the one env file of the stack.", _LAPTOP_MACHINE),
    "laptop": Preset(
        "preset laptop. Copy it over stack.env to start from it.",
        _LAPTOP_MACHINE,
    ),
    "small": Preset(
        "preset small. Copy it over stack.env to start from it.",
        "For one machine with 4 cores, 16 GB of memory and an SSD that runs every tier.",
        {
            "POSTGRES_MEMORY_MB": "6144",
            "POSTGRES_CPUS": "4.0",
            "POSTGRES_MAX_CONNECTIONS": "80",
            "POSTGRES_MAX_WAL_MB": "4096",
            "PGBOUNCER_MEMORY_MB": "256",
            "PGBOUNCER_MAX_CLIENT_CONNECTIONS": "2000",
            "PGBOUNCER_BATCH_POOL_SIZE": "4",
            "API_POOL_MAX_SIZE": "24",
            "API_CPUS": "2.0",
            "API_MEMORY_MB": "512",
            "WORKER_MEMORY_MB": "512",
        },
    ),
    "medium": Preset(
        "preset medium. Copy it over stack.env to start from it.",
        "For one machine with 8 cores, 32 GB of memory and an SSD that runs every tier.",
        {
            "POSTGRES_MEMORY_MB": "16384",
            "POSTGRES_CPUS": "8.0",
            "POSTGRES_MAX_CONNECTIONS": "100",
            "POSTGRES_MAX_WAL_MB": "8192",
            "POSTGRES_CHECKPOINT_TIMEOUT_SECONDS": "600",
            "PGBOUNCER_MEMORY_MB": "512",
            "PGBOUNCER_OPEN_FILES": "8192",
            "PGBOUNCER_MAX_CLIENT_CONNECTIONS": "5000",
            "PGBOUNCER_INTERACTIVE_POOL_SIZE": "8",
            "PGBOUNCER_INTERACTIVE_RESERVE_SIZE": "4",
            "PGBOUNCER_BATCH_POOL_SIZE": "8",
            "API_POOL_MAX_SIZE": "32",
            "API_CPUS": "2.0",
            "API_MEMORY_MB": "1024",
            "WORKER_REPLICAS": "4",
            "WORKER_MEMORY_MB": "512",
        },
    ),
    "large": Preset(
        "preset large. Copy it over stack.env to start from it.",
        "For one machine with 32 cores, 128 GB of memory, NVMe storage and an open-file limit "
        "above 16,384 that runs every tier.",
        {
            "POSTGRES_MEMORY_MB": "65536",
            "POSTGRES_CPUS": "24.0",
            "POSTGRES_MAX_CONNECTIONS": "200",
            "POSTGRES_AUTOVACUUM_WORKERS": "6",
            "POSTGRES_MAX_WAL_MB": "32768",
            "POSTGRES_CHECKPOINT_TIMEOUT_SECONDS": "900",
            "PGBOUNCER_REPLICAS": "4",
            "PGBOUNCER_MEMORY_MB": "1024",
            "PGBOUNCER_OPEN_FILES": "16384",
            "PGBOUNCER_MAX_CLIENT_CONNECTIONS": "10000",
            "PGBOUNCER_INTERACTIVE_POOL_SIZE": "12",
            "PGBOUNCER_INTERACTIVE_RESERVE_SIZE": "4",
            "PGBOUNCER_INTERACTIVE_MIN_POOL_SIZE": "6",
            "PGBOUNCER_BATCH_POOL_SIZE": "12",
            "API_POOL_MAX_SIZE": "64",
            "API_POOL_MAX_WAITING": "256",
            "API_THREADS": "100",
            "API_EVENT_STREAMS_MAX": "200",
            "API_CPUS": "4.0",
            "API_MEMORY_MB": "2048",
            "WORKER_REPLICAS": "12",
            "WORKER_MEMORY_MB": "512",
        },
    ),
}
