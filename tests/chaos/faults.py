"""The faults that a campaign draws from: each is done in a block and undone at its end.

A fault takes the ground, which is the running stack, and the campaign's random numbers; it may do
what it does at any moment, beside any other. Networks are broken inside the containers' own
namespaces, so that nothing but this stack feels it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from random import Random
from subprocess import TimeoutExpired
from uuid import uuid4

from docker.errors import APIError
from docker.models.containers import Container

from tests import command
from tests.fix_faults import hold
from tests.fix_ops import EnvDir
from tests.fix_sql import Sql
from tests.fix_stack import Stack, run_in

SESSIONS = "pg_stat_activity WHERE usename IN ('risk_api', 'risk_worker', 'proof')"
OPERATION_SECONDS = 120
FINISH_TRIES = 5


@dataclass(frozen=True, slots=True)
class Ground:
    """What a campaign breaks, and the env directory of its operators."""

    stack: Stack
    sql: Sql
    env: EnvDir
    say: Callable[[str], None]


Block = Callable[[Ground, Random], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, how many seconds it lasts, and how soon after it no request fails any more."""

    name: str
    block: Block
    lasts: tuple[float, float]
    recovery_seconds: float
    # Requests that an api process has in hand end without an answer.
    cuts_callers: bool = False


# Processes -------------------------------------------------------------------------------------


def _some(ground: Ground, random: Random, service: str, *, every: bool) -> list[Container]:
    found = ground.stack.containers(service, all_states=True)
    return found if every else [random.choice(found)]


def _killed(service: str, *, every: bool = False) -> Block:
    @contextmanager
    def block(ground: Ground, random: Random) -> Iterator[None]:
        victims = _some(ground, random, service, every=every)
        for one in victims:
            # Another fault may have ended it, or an operation replaced it.
            with suppress(APIError):
                one.kill("SIGKILL")
        try:
            yield
        finally:
            for one in victims:
                with suppress(APIError):
                    one.start()

    return block


def _stopped(service: str) -> Block:
    @contextmanager
    def block(ground: Ground, random: Random) -> Iterator[None]:
        (victim,) = _some(ground, random, service, every=False)
        with suppress(APIError):
            victim.stop(timeout=60)
        try:
            yield
        finally:
            with suppress(APIError):
                victim.start()

    return block


def _frozen(service: str, *, every: bool = False) -> Block:
    @contextmanager
    def block(ground: Ground, random: Random) -> Iterator[None]:
        frozen = []
        for one in _some(ground, random, service, every=every):
            with suppress(APIError):
                one.pause()
                frozen.append(one)
        try:
            yield
        finally:
            for one in frozen:
                with suppress(APIError):
                    one.unpause()

    return block


@contextmanager
def _api_process_killed(ground: Ground, random: Random) -> Iterator[None]:
    """Kill one process that answers requests; its supervisor starts another one."""
    container = ground.stack.container("api")
    words = ["sh", "-c", "kill -9 $(cat /proc/1/task/1/children | cut -d' ' -f1)"]
    run_in(container, words)
    yield


# PostgreSQL ------------------------------------------------------------------------------------


def _ask(ground: Ground, statement: str) -> list[dict[str, str]]:
    """Run a statement; without rows where the server does not answer, by another fault's doing."""
    try:
        return ground.sql.rows(statement)
    except (AssertionError, TimeoutExpired):
        return []


@contextmanager
def _backend_killed(ground: Ground, random: Random) -> Iterator[None]:
    for row in _ask(ground, f"SELECT pid FROM {SESSIONS} ORDER BY random() LIMIT 1"):
        run_in(ground.stack.container("postgres"), ["sh", "-c", f"kill -9 {row['pid']}"])
    yield


@contextmanager
def _backends_ended(ground: Ground, random: Random) -> Iterator[None]:
    victims = f"(SELECT pid FROM {SESSIONS} ORDER BY random() LIMIT 2) AS victims"
    ends = f"SELECT pg_terminate_backend(pid) FROM {victims}"
    _ask(ground, ends)
    yield
    _ask(ground, ends)


@contextmanager
def _beside(ground: Ground, statement: str, count: int) -> Iterator[None]:
    """Have sessions of the superuser run a statement beside the path, until the block ends."""
    file = f"/tmp/chaos-{uuid4().hex}"  # noqa: S108  # of the container
    starts = f'psql --dbname=risk --command "{statement}" & echo $! >>{file}'
    with suppress(AssertionError, APIError):
        script = f"for n in $(seq {count}); do {starts}; done; wait"
        ground.stack.container("postgres").exec_run(["sh", "-c", script], detach=True)
    try:
        yield
    finally:
        with suppress(AssertionError, TimeoutExpired):
            run_in(ground.stack.container("postgres"), ["sh", "-c", f"kill $(cat {file})"])


@contextmanager
def _lock_held(ground: Ground, random: Random) -> Iterator[None]:
    with _beside(ground, "BEGIN; LOCK TABLE risk.assessments; SELECT pg_sleep(60)", 1):
        yield


@contextmanager
def _sessions_taken(ground: Ground, random: Random) -> Iterator[None]:
    """Take what PostgreSQL has left of connections, as a superuser's script gone wrong."""
    rows = _ask(ground, "SHOW max_connections")
    with _beside(ground, "SELECT pg_sleep(60)", sum(int(row["max_connections"]) for row in rows)):
        yield


@contextmanager
def _types_changed(ground: Ground, random: Random) -> Iterator[None]:
    # Each waits for its turn behind whoever reads, and holds up whoever comes after it.
    table = "SET lock_timeout = '2s'; ALTER TABLE risk.assessments"
    _ask(ground, f"{table} ADD COLUMN IF NOT EXISTS chaos integer")
    try:
        yield
    finally:
        _ask(ground, f"{table} DROP COLUMN IF EXISTS chaos")


# Networks --------------------------------------------------------------------------------------


def _filtered(service: str, rule: Sequence[str], *, every: bool) -> Block:
    @contextmanager
    def block(ground: Ground, random: Random) -> Iterator[None]:
        pids = []
        for one in _some(ground, random, service, every=every):
            one.reload()
            if pid := int(one.attrs["State"]["Pid"]):
                pids.append(pid)
        for pid in pids:
            _iptables(pid, "--insert", rule)
        try:
            yield
        finally:
            for pid in pids:
                _iptables(pid, "--delete", rule)

    return block


def _iptables(pid: int, change: str, rule: Sequence[str]) -> None:
    """Change the filter of a container's namespace; one that has ended took its filter along."""
    words = ("nsenter", "--net", f"--target={pid}", "iptables", "--wait", change, "INPUT", *rule)
    done = command.run(*words, seconds=20)
    assert done.exit_code == 0 or not os.path.exists(f"/proc/{pid}"), done.text


TO_PGBOUNCER = ("--protocol", "tcp", "--destination-port", "6432")
DROP = (*TO_PGBOUNCER, "--jump", "DROP")
RESET = (*TO_PGBOUNCER, "--jump", "REJECT", "--reject-with", "tcp-reset")


# Operators -------------------------------------------------------------------------------------


def _operation(target: str, **choices: Sequence[int]) -> Block:
    """Run an operation; two times of three its operator ends it, and then has it finished.

    `choices` are values of settings to draw from, or of the target's own N.
    """

    @contextmanager
    def block(ground: Ground, random: Random) -> Iterator[None]:
        words = ["make", "--no-print-directory", target]
        chosen = {name: random.choice(values) for name, values in choices.items()}
        if "N" in chosen:
            words.append(f"N={chosen['N']}")
        elif chosen:
            ground.env.set(**chosen)
        end = random.choice((None, signal.SIGINT, signal.SIGKILL))
        after = random.uniform(0.5, 6.0)
        process = command.start(*words, env=_variables(ground), own_group=True, merged=True)
        if end is not None:
            hold(after)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, end)
            ground.say(f"  {target}: {end.name} after {after:.1f} s")
        done = command.finished(process, seconds=OPERATION_SECONDS)
        try:
            yield
        finally:
            if done.exit_code != 0:
                _finish(ground, words)

    return block


def _variables(ground: Ground) -> dict[str, str]:
    return {
        "COMPOSE_PROJECT_NAME": ground.stack.project,
        "SLUICE_ENV_DIR": str(ground.env.path),
    }


def _finish(ground: Ground, words: Sequence[str]) -> None:
    """Run an operation until it succeeds, as the one who was interrupted is told to."""
    text = ""
    for _ in range(FINISH_TRIES):
        done = command.run(*words, env=_variables(ground), merged=True, seconds=OPERATION_SECONDS)
        if done.exit_code == 0:
            return
        text = done.text
        hold(3)
    raise AssertionError(f"{' '.join(words)} does not come to its end:\n{text}")


def _of_operators(target: str, **choices: Sequence[int]) -> Fault:
    return Fault(f"make {target}", _operation(target, **choices), (0.1, 1), 10)


POOL_SIZES = {"PGBOUNCER_INTERACTIVE_POOL_SIZE": (2, 3, 4), "API_POOL_MAX_SIZE": (8, 12, 16)}

FAULTS = (
    Fault("PostgreSQL is killed", _killed("postgres"), (0.5, 5), 10),
    Fault("PostgreSQL is stopped", _stopped("postgres"), (0.5, 5), 10),
    Fault("PostgreSQL is frozen", _frozen("postgres"), (2, 15), 10),
    Fault("a backend is killed", _backend_killed, (1, 3), 10),
    Fault("backends are ended", _backends_ended, (0.5, 2), 5),
    Fault("a table is locked", _lock_held, (2, 8), 5),
    Fault("PostgreSQL has no connection left", _sessions_taken, (3, 8), 10),
    Fault("a table gets and loses a column", _types_changed, (0.5, 2), 5),
    Fault("a PgBouncer is killed", _killed("pgbouncer"), (0.5, 5), 10),
    Fault("every PgBouncer is killed", _killed("pgbouncer", every=True), (0.5, 5), 10),
    Fault("a PgBouncer is frozen", _frozen("pgbouncer"), (2, 15), 10),
    Fault("every PgBouncer is frozen", _frozen("pgbouncer", every=True), (2, 15), 10),
    Fault(
        "packets to a PgBouncer are lost", _filtered("pgbouncer", DROP, every=False), (2, 15), 10
    ),
    Fault("packets to PgBouncer are lost", _filtered("pgbouncer", DROP, every=True), (2, 15), 10),
    Fault(
        "PgBouncer's connections are reset", _filtered("pgbouncer", RESET, every=True), (0.2, 3), 10
    ),
    Fault("an api process is killed", _api_process_killed, (0.5, 2), 10, cuts_callers=True),
    Fault("a worker is killed", _killed("worker"), (0.5, 5), 5),
    Fault("a worker is stopped", _stopped("worker"), (0.5, 3), 5),
    Fault("a worker is frozen", _frozen("worker"), (2, 15), 5),
    _of_operators("apply", **POOL_SIZES),
    _of_operators("restart-postgres"),
    _of_operators("restart-pgbouncer"),
    _of_operators("restart-app"),
    _of_operators("scale-pgbouncer", N=(1, 2, 3)),
    _of_operators("rotate-passwords"),
    _of_operators("rotate-certificates"),
)
