"""The benchmark of the result tables runs as the worker and leaves nothing behind."""

from __future__ import annotations

import json

from tests.fix_sql import Sql
from tests.fix_stack import Stack


def test_the_benchmark_compares_a_batch_with_a_copy_and_leaves_no_row(
    stack: Stack, sql: Sql
) -> None:
    result = stack.compose(
        "run", "--rm", "--no-deps", "-T", "worker",
        "python", "-m", "app.assessments.benchmark", "--rounds", "10", "--json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["rounds"] == 10
    assert report["ratio"] > 0
    left = "assessment_id < '00000000-0000-0000-0000-000000000010'"
    assert sql.value(f"SELECT count(*) FROM risk.aal_scaled_results WHERE {left}") == "0"
