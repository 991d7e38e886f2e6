"""The three ways that run in the lab, one after another on the same data."""

from __future__ import annotations

import sys
import time
import uuid
from dataclasses import dataclass
from typing import Any

import psycopg

from app.client.sample import SITES
from loadtest.incident import processes, results
from loadtest.incident.flight import fly
from loadtest.incident.pattern import tasks
from loadtest.incident.ways import WAYS, arguments
from loadtest.run_directory import RunDirectory

# The longest of all is a connection per operation: some 300 s for 320 tasks on two cores.
FLIGHT_SECONDS_MAX = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How much to compare: `site_years` of 80 years, N processes, seconds each."""

    site_years: int = 80
    failure_seconds: float = 60.0
    process_counts: tuple[int, ...] = (1, 4, 16)
    process_seconds: float = 10.0


def run(comparison: Comparison, directory: RunDirectory) -> int:
    """Run every way and store each result at once; 1 when two ways disagree."""
    cell_id = _cell()
    found: dict[str, Any] = {"site": SITES[0][0], "site_years": comparison.site_years, "ways": {}}
    digests: dict[str, str] = {}
    for name in ("pool_pgbouncer", "pool_direct", "as_it_was", "per_operation"):
        limit = comparison.failure_seconds if name == "as_it_was" else FLIGHT_SECONDS_MAX
        found["ways"][name], rows = _one(name, cell_id, comparison.site_years, limit)
        if name != "as_it_was":
            digests[name] = results.digest(rows)
            directory.write(f"rows-{name}", rows)
        directory.write("compare-lab", found)
    found["digests"] = digests
    found["processes"] = _processes(comparison, cell_id)
    directory.write("compare-lab", found)
    if len(set(digests.values())) != 1:
        sys.stderr.write(f"results differ between the ways: {digests}\n")
        return 1
    return 0


def _one(
    name: str, cell_id: int, years: int, seconds_max: float
) -> tuple[dict[str, Any], results.Rows]:
    assessment_id = str(uuid.uuid4())
    way = WAYS[name]()
    try:
        flight = fly(way, tasks(assessment_id, cell_id, years), seconds_max=seconds_max, label=name)
    finally:
        way.close()
    # Backends of the last connections take a moment to end; the next way must not meet them.
    time.sleep(2.0)
    return flight.as_dict(), results.from_tables(assessment_id)


def _processes(comparison: Comparison, cell_id: int) -> list[dict[str, Any]]:
    found = []
    for count in comparison.process_counts:
        for target in ("pgbouncer", "direct"):
            result = processes.measure(target, count, comparison.process_seconds, cell_id)
            sys.stderr.write(
                f"{count} processes, {target}: {result['operations_per_second']:.0f} "
                f"operations/s, {result['failed_operations']} failed\n"
            )
            found.append(result)
            time.sleep(2.0)
    return found


def _cell() -> int:
    _, latitude, longitude = SITES[0]
    with psycopg.connect(**arguments("direct")) as connection:
        row = connection.execute(
            "SELECT reference.cell_at(%s, %s)", (latitude, longitude)
        ).fetchone()
    if row is None or row[0] is None:
        raise LookupError("the lab's reference data have no cell for the sample site")
    return int(row[0])
