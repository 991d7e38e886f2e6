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

from docker.errors import APIError
from docker.models.containers import Container

from tests import command
from tests.fix_faults import hold
from tests.fix_ops import EnvDir
from tests.fix_sql import Sql
from tests.fix_stack import Stack, run_in

ROLES = "('risk_api', 'risk_worker', 'proof')"
END_BACKENDS = (
    "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity"
    f" WHERE usename IN {ROLES} ORDER BY random() LIMIT 2) AS victims"
)
# As the kernel does where a container's memory ends: one backend, and with it all of them.
KILL_BACKEND = (
    "kill -9 $(psql --no-align --tuples-only --command"
    f' "SELECT pid FROM pg_stat_activity WHERE usename IN {ROLES} ORDER BY random() LIMIT 1")'
)
# Each waits for its turn behind whoever reads, and holds up whoever comes after it.
CHANGED_TYPES = (
    "ALTER TABLE risk.assessments ADD COLUMN chaos integer",
    "ALTER TABLE risk.assessments DROP COLUMN chaos",
)
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


@contextmanager
def _backend_killed(ground: Ground, random: Random) -> Iterator[None]:
    run_in(ground.stack.container("postgres"), ["sh", "-c", KILL_BACKEND])
    yield


@contextmanager
def _backends_ended(ground: Ground, random: Random) -> Iterator[None]:
    ground.sql.rows(END_BACKENDS)
    yield
    # The server may be gone by the doing of another fault.
    with suppress(AssertionError):
        ground.sql.rows(END_BACKENDS)


@contextmanager
def _session(ground: Ground, words: Sequence[str], mark: str) -> Iterator[None]:
    """Have something connect to PostgreSQL beside the path; end its sessions with the block."""
    postgres = ground.stack.container("postgres")
    postgres.exec_run(["env", f"PGAPPNAME={mark}", *words], detach=True)
    try:
        yield
    finally:
        ends = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE application_name = '{mark}'"
        )
        with suppress(AssertionError):
            ground.sql.rows(ends)


@contextmanager
def _lock_held(ground: Ground, random: Random) -> Iterator[None]:
    held = "BEGIN; LOCK TABLE risk.assessments; SELECT pg_sleep(60)"
    with _session(ground, ["psql", "--dbname=risk", "--command", held], "chaos-lock"):
        yield


@contextmanager
def _sessions_taken(ground: Ground, random: Random) -> Iterator[None]:
    """Take what PostgreSQL has left of connections, as a superuser's script gone wrong."""
    try:
        count = ground.sql.value("SHOW max_connections")
    except AssertionError:
        # It is down already: there is nothing to take.
        yield
        return
    words = f"for n in $(seq {count}); do psql --command 'SELECT pg_sleep(60)' & done; wait"
    with _session(ground, ["sh", "-c", words], "chaos-sessions"):
        yield


@contextmanager
def _types_changed(ground: Ground, random: Random) -> Iterator[None]:
    add, drop = CHANGED_TYPES
    with suppress(AssertionError):
        ground.sql.rows(f"SET lock_timeout = '2s'; {add}")
    try:
        yield
    finally:
        with suppress(AssertionError):
            ground.sql.rows(
                f"SET lock_timeout = '2s'; {drop.replace('COLUMN', 'COLUMN IF EXISTS')}"
            )


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
