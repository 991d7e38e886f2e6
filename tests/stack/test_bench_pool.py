"""The pool benchmark runs in the compose network and compares four ways in one run."""

from __future__ import annotations

import json

from tests.fix_stack import Stack


def test_the_benchmark_compares_four_ways_with_their_ratios(stack: Stack) -> None:
    result = stack.compose(
        "run", "--rm", "--no-deps", "-T", "api",
        "python", "-m", "app.pool.benchmark", "--rounds", "20", "--json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout[result.stdout.index("{\n") :])
    assert report["constraints"]
    medians = [way["acquire_p50_us"] for way in report["ways"]]
    assert len(medians) == 4
    # From bare pool to a connection per operation; with so wide a margin that no load on the
    # machine turns it round.
    assert max(medians) == medians[-1] > 20 * min(medians)
