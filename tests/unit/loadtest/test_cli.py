"""Bad settings of the load test commands: named, with the value and the rule."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from loadtest import cli
from tests.command import run


@pytest.mark.parametrize("value", ["8,64", "8 64", " 8, 64 "])
def test_counts_may_have_commas_or_spaces_between(value: str) -> None:
    assert cli.counts("CLIENTS", value) == (8, 64)


@pytest.mark.parametrize(
    ("command", "setting"), [("load-sql", "CLIENTS"), ("compare-lab", "PROCESSES")]
)
@pytest.mark.parametrize("value", ["eight", "8,,64", "0", "-1", "1.5"])
def test_a_count_that_is_no_whole_number_is_refused(command: str, setting: str, value: str) -> None:
    result = CliRunner(env={setting: value}).invoke(cli.create_app(), [command])
    assert result.exit_code == 2
    assert f"{setting}={value}: must be whole numbers from 1" in result.stderr


def test_nothing_imports_ssl_before_locust_has_patched_it() -> None:
    script = "import loadtest.cli, loadtest.tune.steps, sys; print('ssl' in sys.modules)"
    done = run(sys.executable, "-c", script)
    assert done.stdout == "False\n", done.text
