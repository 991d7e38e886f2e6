"""The faults that a campaign draws from: each is done in a block and undone at its end.

A fault takes the ground, which is the running stack, and the campaign's random numbers; it may do
what it does at any moment, beside any other. Networks are broken inside the containers' own
namespaces, so that nothing but this stack feels it.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from random import Random
from subprocess import TimeoutExpired
from uuid import uuid4

from docker.errors import APIError, NotFound
from docker.models.containers import Container

from tests import command
from tests.command import Done
from tests.fix_clients import Application
from tests.fix_faults import hold
from tests.fix_ops import EnvDir
from tests.fix_sql import Sql
from tests.fix_stack import Stack, run_in

SESSIONS = "pg_stat_activity WHERE usename IN ('risk_api', 'risk_worker', 'proof')"
# What a backend does when it is killed: a submission, a claim of tasks, results of a batch, the end
# of an assessment, any COMMIT.
MOMENTS = (
    *(f"/*action='{name}'*/%" for name in ("submit", "claim", "complete", "finish")),
    "COMMIT%",
)
# Looks about a thousand times a second; whatever is found is at work then and there.
KILL_WITHIN = """
DO $$
DECLARE victim integer;
BEGIN
    FOR look IN 1..3000 LOOP
        PERFORM pg_stat_clear_snapshot();
        SELECT pid INTO victim FROM pg_stat_activity
        WHERE state = 'active' AND query LIKE '{moment}' AND pid <> pg_backend_pid() LIMIT 1;
        IF FOUND THEN
            EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', 'kill -9 ' || victim);
            RETURN;
        END IF;
        PERFORM pg_sleep(0.0005);
    END LOOP;
END $$
"""
OPERATION_SECONDS = 120
FINISH_SECONDS = 240
RELEASE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Ground:
    """What a campaign breaks, the env directory of its operators, and who works behind the path."""

    stack: Stack
    sql: Sql
    env: EnvDir
    application: Application
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
        with ExitStack() as undo:
            for one in _some(ground, random, service, every=every):
                undo.callback(_unpause, one)
                with suppress(APIError):
                    one.pause()
            yield

    return block


def _unpause(container: Container) -> None:
    with suppress(APIError):
        container.unpause()


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
    """Kill a backend within a statement, as the kernel does where memory ends; all others end."""
    moment = random.choice(MOMENTS)
    ground.say(f"  a backend is killed within {moment}")
    _ask(ground, KILL_WITHIN.format(moment=moment.replace("'", "''")))
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
    script = f"echo $$ >{file}; for n in $(seq {count}); do {starts}; done; wait"
    with ExitStack() as undo:
        for container in ground.stack.containers("postgres"):
            undo.callback(_release, container, file)
            with suppress(APIError):
                container.exec_run(["sh", "-c", script], detach=True)
        yield


def _release(container: Container, file: str) -> None:
    """End what a file has the processes of; what has stopped in the meantime took them along."""
    kill = f"test ! -f {file} || kill $(cat {file}) 2>/dev/null; rm -f {file}"
    until = time.monotonic() + RELEASE_SECONDS
    while time.monotonic() < until:
        with suppress(TimeoutExpired):
            if run_in(container, ["sh", "-c", kill])[0] == 0:
                return
        try:
            container.reload()
        except NotFound:
            return
        if container.status not in ("running", "paused"):
            return
        hold(0.5)
    raise AssertionError(f"{container.name}: its sessions cannot be ended: {container.status}")


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
        with ExitStack() as undo:
            for pid in pids:
                undo.callback(_unfilter, pid, rule)
                _check_filter(pid, _iptables(pid, "--insert", rule))
            yield

    return block


def _iptables(pid: int, change: str, rule: Sequence[str]) -> Done:
    words = ("nsenter", "--net", f"--target={pid}", "iptables", "--wait", change, "INPUT", *rule)
    return command.run(*words, seconds=20)


def _check_filter(pid: int, done: Done) -> None:
    """Check a change of the filter of a namespace; one that has ended took its filter along."""
    assert done.exit_code == 0 or not os.path.exists(f"/proc/{pid}"), done.text


def _unfilter(pid: int, rule: Sequence[str]) -> None:
    if _iptables(pid, "--check", rule).exit_code == 0:
        _check_filter(pid, _iptables(pid, "--delete", rule))


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
        try:
            ended_well = command.finished(process, seconds=OPERATION_SECONDS).exit_code == 0
        except TimeoutExpired:
            ground.say(f"  {target}: ended after {OPERATION_SECONDS} s")
            ended_well = False
        try:
            yield
        finally:
            if not ended_well:
                _finish(ground, words)
            if target == "rotate-passwords":
                _take_secrets(ground)

    return block


def _variables(ground: Ground) -> dict[str, str]:
    return {
        "COMPOSE_PROJECT_NAME": ground.stack.project,
        "SLUICE_ENV_DIR": str(ground.env.path),
    }


def _finish(ground: Ground, words: Sequence[str]) -> None:
    """Run an operation until it succeeds, as the one who was interrupted is told to."""

    def done() -> str:
        process = command.start(*words, env=_variables(ground), own_group=True, merged=True)
        try:
            ended = command.finished(process, seconds=OPERATION_SECONDS)
        except TimeoutExpired:
            return f"it was ended after {OPERATION_SECONDS} s"
        return "" if ended.exit_code == 0 else ended.text

    _until_done(" ".join(words), done)


def _take_secrets(ground: Ground) -> None:
    """Give the application its new passwords, as the operator does who has rotated them."""

    def done() -> str:
        try:
            ground.application.take_secrets()
        except (AssertionError, TimeoutExpired) as error:
            return str(error)
        return ""

    _until_done("make client-url", done)


def _until_done(what: str, act: Callable[[], str]) -> None:
    """Repeat what returns why it failed, until it has not."""
    until = time.monotonic() + FINISH_SECONDS
    while problem := act():
        if time.monotonic() > until:
            raise AssertionError(f"{what} does not come to its end:\n{problem}")
        hold(3)


def _of_operators(target: str, **choices: Sequence[int]) -> Fault:
    return Fault(f"make {target}", _operation(target, **choices), (0.1, 1), 10)


POOL_SIZES = {"PGBOUNCER_INTERACTIVE_POOL_SIZE": (2, 3, 4), "API_POOL_MAX_SIZE": (8, 12, 16)}

FAULTS = (
    Fault("PostgreSQL is killed", _killed("postgres"), (0.5, 5), 10),
    Fault("PostgreSQL is stopped", _stopped("postgres"), (0.5, 5), 10),
    Fault("PostgreSQL is frozen", _frozen("postgres"), (2, 15), 10),
    Fault("a backend is killed in a statement", _backend_killed, (1, 3), 10),
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


# Afterwards ------------------------------------------------------------------------------------


def why_not_here() -> str:
    """Return what this host lacks for the faults; empty where it lacks nothing."""
    if os.geteuid() != 0:
        return "faults are done as root of the Docker host; run it with sudo"
    for program, package in (("nsenter", "util-linux"), ("iptables", "iptables")):
        if not shutil.which(program):
            return f"this host has no {program}; install the package {package}"
    return ""


def clear(ground: Ground) -> None:
    """Undo whatever a fault that was itself cut off has left of the containers."""
    label = f"com.docker.compose.project={ground.stack.project}"
    for one in ground.stack.client.containers.list(all=True, filters={"label": label}):
        if one.status == "paused":
            one.unpause()
        elif (
            one.status == "exited"
            and one.attrs["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
        ):
            one.start()
    for one in ground.stack.containers("pgbouncer"):
        one.reload()
        for rule in (DROP, RESET):
            _unfilter(int(one.attrs["State"]["Pid"]), rule)
    # `env` of the last round is not the stack's.
    ground.env.reset()
