"""What storing result rows costs against a bare COPY of the same rows, interleaved in one run.

    python -m app.assessments.benchmark --settings /etc/sluice/worker.json

Compare the ratio: the times depend on the machine and on what else runs there. All of it is one
transaction that is rolled back; its COPY is of text that is ready before the clock starts.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from app.assessments.batch import Task, TaskResults
from app.assessments.write_results import write_results
from app.database import Work, make_database
from app.log import configure_logging
from app.metrics import make_registry
from app.pool import Deadline
from app.risk.types import RiskLevel, RiskResult, RiskType, Scenario
from app.settings import WorkerSettings, load_settings, settings_path

YEAR_FIRST = 2021
# Of one site: four scenarios times eighty years.
TASKS_MAX = 320
# One transaction of the worker's role may take 30 s.
ROUNDS_MAX = 200
SECONDS_MAX = 25.0
KEY = "assessment_id, site_no, scenario, year, risk_type"
TABLES = {
    "exposure_results": ("exposure_score",),
    "vulnerability_results": ("vulnerability_score",),
    "aal_scaled_results": (
        "hazard_score", "base_aal", "final_aal", "expected_loss", "integrated_risk", "risk_level",
    ),
}  # fmt: skip


class _Measured(Exception):  # noqa: N818  # no error: it carries the times out and rolls back
    def __init__(self, ours: list[float], copies: list[float]) -> None:
        super().__init__()
        self.ours = ours
        self.copies = copies


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; a database that does not answer in time ends it with its error."""
    parser = argparse.ArgumentParser(prog="app.assessments.benchmark", description=__doc__)
    parser.add_argument("--settings", type=Path, default=settings_path("worker"))
    parser.add_argument("--rounds", type=int, default=100, choices=range(1, ROUNDS_MAX + 1))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a line")
    options = parser.parse_args(arguments)
    configure_logging("benchmark", "WARNING")
    settings = load_settings(options.settings, WorkerSettings)
    database = make_database(settings, make_registry())
    database.open(deadline=Deadline.after(SECONDS_MAX))
    tasks = min(settings.worker.batch_tasks, TASKS_MAX)
    try:
        measure = _measuring(options.rounds, tasks)
        database.run(measure, deadline=Deadline.after(SECONDS_MAX), name="benchmark")
    except _Measured as measured:
        report = _report(measured, tasks)
    finally:
        database.close(1.0)
    sys.stdout.write(f"{json.dumps(report) if options.json else _line(report)}\n")
    return 0


def _measuring(rounds: int, tasks: int) -> Callable[[Work], None]:
    def measure(connection: Work) -> None:
        ours: list[float] = []
        copies: list[float] = []
        for number in range(rounds):
            entries = _entries(tasks)
            # Sites in order, as an assessment's are; each way has an assessment of its own.
            turns: list[tuple[list[float], Callable[[], None]]] = [
                (ours, lambda n=number, e=entries: write_results(connection, OURS, n, e)),  # type: ignore[misc]
                (copies, _copying(connection, number, entries)),
            ]
            for seconds, write in turns if number % 2 else reversed(turns):
                started = perf_counter()
                write()
                seconds.append(perf_counter() - started)
        raise _Measured(ours, copies)

    return measure


OURS, COPIED = uuid.UUID(int=1), uuid.UUID(int=2)


def _entries(tasks: int) -> list[TaskResults]:
    return [
        TaskResults(
            Task(list(Scenario)[n // 80], YEAR_FIRST + n % 80, 1),
            tuple(_result(risk_type) for risk_type in RiskType),
        )
        for n in range(tasks)
    ]


def _result(risk_type: RiskType) -> RiskResult:
    score, share = random.uniform(0, 100), random.random()  # noqa: S311  # no secret
    return RiskResult(
        risk_type, score, (), score, (), score, share, share, share * 1e9, score, RiskLevel.LOW, ()
    )


def _copying(connection: Work, site_no: int, entries: list[TaskResults]) -> Callable[[], None]:
    texts = {
        f"COPY risk.{table} ({KEY}, {', '.join(columns)}) FROM STDIN": "".join(
            f"{COPIED}\t{site_no}\t{entry.task.scenario}\t{entry.task.year}\t{result.risk_type}\t"
            + "\t".join(str(getattr(result, column)) for column in columns)
            + "\n"
            for entry in entries
            for result in entry.results
        )
        for table, columns in TABLES.items()
    }

    def copy() -> None:
        for statement, text in texts.items():
            with connection.cursor() as cursor, cursor.copy(statement) as copying:
                copying.write(text)

    return copy


def _report(measured: _Measured, tasks: int) -> dict[str, Any]:
    rows = tasks * len(RiskType) * len(TABLES)
    ours, copied = median(measured.ours), median(measured.copies)
    return {
        "rounds": len(measured.ours),
        "rows_of_a_batch": rows,
        "write_ms": ours * 1000,
        "copy_ms": copied * 1000,
        "rows_per_second": rows / ours,
        "ratio": ours / copied,
    }


def _line(report: dict[str, Any]) -> str:
    return (
        f"a batch of {report['rows_of_a_batch']} rows is stored in {report['write_ms']:.2f} ms "
        f"({report['rows_per_second']:,.0f} rows/s), {report['ratio']:.2f} times the "
        f"{report['copy_ms']:.2f} ms of a COPY; medians of {report['rounds']} rounds in turns"
    )


if __name__ == "__main__":
    sys.exit(main())
