"""The page of `make compare`: what it takes from the processes, and what from the samples."""

from __future__ import annotations

from typing import Any

from loadtest.report.compare import PROCESS_COLUMNS, _processes_table
from loadtest.run_directory import Series

PEAK = PROCESS_COLUMNS.index("peak connections")


def processes(target: str) -> dict[str, Any]:
    """Return what sixteen processes report whose pools have eight connections each."""
    return {
        "processes": 16,
        "target": target,
        "operations_per_second": 1000.0,
        "failed_operations": 0,
        "timeouts": 0,
        "acquisition": {"p50_ms": 1.0, "p99_ms": 2.0},
        "pool_connections": 128,
        "started": 10.0,
        "ended": 20.0,
    }


def test_of_direct_processes_the_pools_say_what_the_sampler_had_no_turn_to_see() -> None:
    seen = [Series("lab-postgres", "1", ({"t": 11.0, "connections": 22.0},))]
    table = _processes_table([processes("direct"), processes("pgbouncer")], seen)
    assert [row[PEAK] for row in table.rows] == [128, 22]
