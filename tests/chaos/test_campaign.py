"""What must hold whatever happens to the path: a campaign of faults, and checkers that can see.

`make chaos MINUTES=60 SEED=7` runs a longer one of another seed, `make chaos EACH=3` one that does
each fault three times, alone.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import time
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from loadtest.report import pages
from loadtest.run_directory import RunDirectory
from tests.chaos.campaign import Campaign, alone, drawn, seconds_max
from tests.chaos.faults import CHOSEN, ONLY, clear, why_not_here
from tests.chaos.ground import Ground
from tests.chaos.verdict import (
    NAME,
    as_series,
    await_workloads,
    conclude,
    join,
    judge,
    make_tables,
    workloads,
)
from tests.fix_clients import Application, MakeApplication
from tests.fix_faults import MakeLoad, hold
from tests.fix_ops import Commands, EnvDir
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import REPOSITORY, Stack

SEED = int(os.environ.get("CHAOS_SEED") or 20)
# How often each fault is done alone, if that is what is asked for; a round has a minute then.
EACH = int(os.environ.get("CHAOS_EACH") or 0)
MINUTES = int(os.environ.get("CHAOS_MINUTES") or EACH * len(CHOSEN) or 3)
WORK_SECONDS = 6
FOUND_OUT_SECONDS = 60
# What the checkers call what follows from each way to be careless.
NAMED = {
    "lost-update": "lost update",
    "doubled-retry": "phantom",
    "dirty-read": "dirty read",
    "stale-read": "stale",
}


@pytest.fixture
def proof(make_application: MakeApplication, sql: Sql) -> Application:
    """Return the workloads' application, which has joined and has its tables."""
    application = make_application(NAME)
    join(application)
    make_tables(sql)
    return application


@pytest.fixture
def image(stack: Stack) -> str:
    """Return the image that has app.pool."""
    return str(stack.container("api").attrs["Config"]["Image"])


def test_careless_applications_are_found_out_and_a_careful_one_is_not(
    proof: Application, image: str, sql: Sql, tmp_path: Path
) -> None:
    def found(seed: int, careless: Collection[str]) -> list[str]:
        make_tables(sql)
        out = tmp_path / str(seed)
        with workloads(
            proof, image, out, seed=seed, seconds_max=FOUND_OUT_SECONDS, careless=careless
        ):
            hold(WORK_SECONDS)
        judged = judge(out / "history.jsonl", sql)
        return [violation for one in judged.values() for violation in one]

    assert found(0, ()) == []
    # What a careless one does wrong happens by chance: on a busy machine not within a few seconds.
    violations: list[str] = []
    until = time.monotonic() + FOUND_OUT_SECONDS
    for seed in itertools.count(1):
        violations += found(seed, tuple(NAMED))
        missed = {
            one for one in NAMED.values() if not any(text.startswith(one) for text in violations)
        }
        if not missed or time.monotonic() > until:
            break
    assert not missed, violations


@pytest.fixture
def able() -> None:
    """Fail, before anything is done, on a host where faults cannot be done."""
    if lacking := why_not_here():
        pytest.fail(lacking, pytrace=False)


@pytest.fixture
def ground(
    able: None, stack: Stack, sql: Sql, ops: Commands, env: EnvDir, proof: Application
) -> Iterator[Ground]:
    """Return what the campaign breaks; afterwards everything runs as the env file says."""
    made = Ground(stack, sql, env, proof, say)
    yield made
    clear(made)
    done = ops.make("scale-pgbouncer", f"N={ops.setting('PGBOUNCER_REPLICAS')}", env=env)
    assert done.exit_code == 0, done.text
    done = proof.apply()
    assert done.exit_code == 0, done.text
    stack.wait_healthy(seconds=120)
    # A fault adds it, and leaves it where the server did not answer.
    drop = "SET lock_timeout = '20s'; ALTER TABLE risk.assessments DROP COLUMN IF EXISTS chaos"
    sql.rows(drop)


def say(text: str) -> None:
    """Tell who watches; pytest keeps it for a failure otherwise."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


@pytest.mark.slow
def test_a_campaign_of_faults_breaks_no_promise(
    ground: Ground,
    proof: Application,
    image: str,
    sql: Sql,
    console: AdminConsole,
    make_load: MakeLoad,
    deadline_seconds: float,
    tmp_path: Path,
) -> None:
    history = tmp_path / "history.jsonl"
    with (
        workloads(proof, image, tmp_path, seed=SEED, seconds_max=seconds_max(MINUTES)),
        make_load(seconds_max=seconds_max(MINUTES)) as load,
    ):
        campaign = Campaign(ground, load, console, SEED)
        campaign.run(alone(SEED, CHOSEN, EACH) if EACH else drawn(SEED, CHOSEN), MINUTES)
        await_workloads(history)
    record = campaign.record
    if EACH and (left := EACH * len(CHOSEN) - len(record.recoveries)):
        record.violations["R"].append(f"{left} rounds were not begun or did not end")
    conclude(record, load, sql, history, deadline_seconds=deadline_seconds)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    run = RunDirectory(REPOSITORY / "loadtest" / "results" / f"{stamp}-chaos")
    run.path.mkdir(parents=True)
    run.write("chaos", as_series(record, load, each=EACH or None, only=ONLY or None))
    say(f"page: {pages.write(run).relative_to(REPOSITORY)}")
    # From a temporary directory, which may be of another file system.
    shutil.move(history, run.path / "history.jsonl")
    broken = {name: found for name, found in record.violations.items() if found}
    assert not broken, broken
