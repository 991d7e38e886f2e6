"""Faults of the path that its bottleneck is found by, each undone at the end of its block."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from docker.errors import APIError

from tests.fix_ops import Commands, EnvDir
from tests.fix_probe import Probe
from tests.fix_sql import Sql
from tests.fix_stack import Stack, poll, run_in

# Reads, for the most part, as fast as they are answered.
CALLERS: dict[str, Any] = {
    "threads": 24,
    "pause_seconds": 0.0,
    "kinds": {"status": 9, "submit": 1},
}
WRITERS = CALLERS | {"kinds": {"submit": 1}}
# One server connection of each replica for requests.
SMALL_POOL = {
    "PGBOUNCER_INTERACTIVE_MIN_POOL_SIZE": 1,
    "PGBOUNCER_INTERACTIVE_POOL_SIZE": 1,
    "PGBOUNCER_INTERACTIVE_RESERVE_SIZE": 0,
}
# At most: each ends with its block.
SECONDS = 180
HOLD = "hold_transactions"


@contextmanager
def applied(ops: Commands, env: EnvDir, **settings: object) -> Iterator[None]:
    """Apply other values of live settings for the block."""
    done = ops.apply(env.set(**settings))
    try:
        assert done.exit_code == 0, done.text
        yield
    finally:
        done = ops.run("apply", "--wait", "60")
    assert done.exit_code == 0, done.text


@contextmanager
def session(stack: Stack, statement: str) -> Iterator[None]:
    """Have a superuser's session run a statement beside the path; end it with the block."""
    postgres = stack.container("postgres")
    words = ["psql", "--username=postgres", "--dbname=risk", "--command", statement]
    postgres.exec_run(words, detach=True)
    try:
        yield
    finally:
        quoted = statement.replace("'", "''")
        ends = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = '{quoted}'"
        run_in(postgres, ["psql", "--command", ends])


@contextmanager
def processors_taken(stack: Stack) -> Iterator[None]:
    """Give PostgreSQL half a processor, and more queries than processors."""
    postgres = stack.container("postgres")
    # Rows that fit in memory: writing temporary files would be a wait, not work.
    rows = "generate_series(1, 3000)"
    burn = f"SELECT count(*) FROM {rows} AS a, {rows} AS b, {rows} AS c"
    given = postgres.attrs["HostConfig"]["NanoCpus"] / 1e9
    limit = ["docker", "update", "--cpus"]
    with session(stack, burn):
        for _ in range(int(given) + 2):
            postgres.exec_run(["psql", "--dbname=risk", "--command", burn], detach=True)
        subprocess.run([*limit, "0.5", str(postgres.name)], check=True, capture_output=True)
        try:
            yield
        finally:
            subprocess.run(
                [*limit, str(given), str(postgres.name)], check=True, capture_output=True
            )
    stack.wait_healthy(seconds=120)


@contextmanager
def lock_held(stack: Stack, sql: Sql) -> Iterator[str]:
    """Hold a lock that every request needs; yield the process that does."""
    held = f"BEGIN; LOCK TABLE risk.assessments; SELECT pg_sleep({SECONDS})"
    holders = f"SELECT pid FROM pg_stat_activity WHERE query = '{held}'"
    with session(stack, held):
        (holder,) = poll(lambda: sql.rows(holders), seconds=30, what="the lock is held")
        yield holder["pid"]


@contextmanager
def checkpoint_storm(stack: Stack) -> Iterator[None]:
    """Have one checkpoint follow the other, so that who writes the log waits for the disk."""
    postgres = stack.container("postgres")
    # One session goes on writing pages, another one has them written to the disk.
    storm = """
        touch /tmp/storm
        psql --quiet --dbname=risk --command \
            'CREATE TABLE public.storm AS SELECT generate_series(1, 200000) AS n'
        while [ -e /tmp/storm ]; do
            psql --quiet --dbname=risk --command 'UPDATE public.storm SET n = n WHERE n % 9 = 0'
        done &
        while [ -e /tmp/storm ]; do
            for i in $(seq 30); do echo 'CHECKPOINT;'; done | psql --quiet --dbname=risk
        done
    """
    postgres.exec_run(["sh", "-c", storm], detach=True)
    try:
        yield
    finally:
        run_in(postgres, ["rm", "-f", "/tmp/storm"])  # noqa: S108  # of its container
        drop = ["psql", "--dbname=risk", "--command", "DROP TABLE IF EXISTS public.storm"]
        assert run_in(postgres, drop)[0] == 0


@contextmanager
def transactions_left_idle(stack: Stack, probe: Probe, sql: Sql) -> Iterator[None]:
    """Have a client of the api's pool hold all of its server connections and do nothing."""
    idle = (
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'risk_api'"
        " AND state = 'idle in transaction' AND state_change < now() - interval '0.5 s'"
    )
    with ThreadPoolExecutor(1) as threads:
        # On each replica as many as there are with the reserve, and more.
        held = threads.submit(probe, HOLD, "4", str(SECONDS))
        try:
            poll(lambda: int(sql.value(idle)) > 1, seconds=60, what="transactions are left idle")
            yield
        finally:
            end_probe(stack, HOLD)
        assert held.result()["held"] > 0


def end_probe(stack: Stack, module: str) -> None:
    """Send SIGTERM to a probe that runs on the pool's network."""
    network = f"{stack.project}_pool"
    for one in stack.client.containers.list(filters={"network": network}, ignore_removed=True):
        if f"tests.stack.probes.{module}" in (one.attrs["Config"]["Cmd"] or []):
            # It may have come to its end by itself.
            with suppress(APIError):
                one.kill("SIGTERM")
