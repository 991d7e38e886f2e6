"""The faults that a campaign draws from: each is done in a block and undone at its end.

A fault takes the ground, which is the running stack, and the campaign's random numbers; it may do
what it does at any moment, beside any other. Networks are broken inside the containers' own
namespaces, so that nothing but this stack feels it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from subprocess import TimeoutExpired
from uuid import uuid4

from docker.errors import APIError, NotFound
from docker.models.containers import Container

from tests import command
from tests.chaos.ground import Block, Ground, operation
from tests.command import Done
from tests.fix_faults import hold
from tests.fix_stack import run_in

SESSIONS = "pg_stat_activity WHERE usename IN ('risk_api', 'risk_worker', 'proof')"
# What a backend does when it is killed, and how its statement begins.
MOMENTS = {
    "a submission": "/*action='submit'*/%",
    "a claim of tasks": "/*action='claim'*/%",
    "results of a batch": "/*action='complete'*/%",
    "the end of an assessment": "/*action='finish'*/%",
    "a COMMIT": "COMMIT%",
}
# Looks about a thousand times a second; whatever is found is at work then and there. Where it has
# killed it may end with an error, as every session does then.
KILL_WITHIN = """
DO $$
DECLARE victim integer;
BEGIN
    FOR look IN 1..15000 LOOP
        PERFORM pg_stat_clear_snapshot();
        SELECT pid INTO victim FROM pg_stat_activity
        WHERE state = 'active' AND query LIKE '{moment}' AND pid <> pg_backend_pid() LIMIT 1;
        IF FOUND THEN
            EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', 'cat >/dev/null; kill -9 ' || victim);
            RETURN;
        END IF;
        PERFORM pg_sleep(0.0005);
    END LOOP;
    RAISE EXCEPTION 'no backend was met in {what}';
END $$
"""
ENDED_BY_A_KILL = ("another server process", "server closed the connection", "connection to server")
ALTERS = 3
RELEASE_SECONDS = 60
MEMORY_SECONDS = 4


class NotDone(Exception):  # noqa: N818 - no failure of what is tested
    """A fault could not be done, because of another one; alone each can."""


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


def _memory_filled(service: str) -> Block:
    """Fill a container's memory, until the kernel ends what belongs there and not what fills it."""

    @contextmanager
    def block(ground: Ground, random: Random) -> Iterator[None]:
        (victim,) = _some(ground, random, service, every=False)
        # Twice: a container may have as much swap, where the host has some.
        fill = f"head -c {2 * victim.attrs['HostConfig']['Memory']} /dev/zero | tail >/dev/null"
        words = ["timeout", "--signal=KILL", str(MEMORY_SECONDS), "sh", "-c", fill]
        processes: list[str] = []
        try:
            with suppress(APIError):
                processes = [row[1] for row in victim.top()["Processes"]]
                _set_first_to_go(processes, "1000")
                victim.exec_run(words, detach=True)
            yield
        finally:
            _set_first_to_go(processes, "0")

    return block


def _set_first_to_go(processes: Sequence[str], score: str) -> None:
    for one in processes:
        # It may have ended.
        with suppress(FileNotFoundError, ProcessLookupError):
            Path(f"/proc/{one}/oom_score_adj").write_text(score, encoding="ascii")


@contextmanager
def _api_process_killed(ground: Ground, random: Random) -> Iterator[None]:
    """Kill one process that answers requests; its supervisor starts another one."""
    container = ground.stack.container("api")
    words = ["sh", "-c", "kill -9 $(cat /proc/1/task/1/children | cut -d' ' -f1)"]
    try:
        code, said = run_in(container, words)
    except APIError as error:
        raise NotDone(str(error)) from error
    if code:
        raise NotDone(said)
    yield


# PostgreSQL ------------------------------------------------------------------------------------


def _ask(ground: Ground, statement: str) -> list[dict[str, str]]:
    """Run a statement.

    Raises:
        NotDone: the server does not answer, by another fault's doing, or refuses it.

    """
    try:
        return ground.sql.rows(statement)
    except (AssertionError, TimeoutExpired) as error:
        raise NotDone(str(error)) from error


def _backend_killed(moment: str) -> Block:
    """Kill a backend within a statement, as the kernel does where memory ends; all others end."""

    @contextmanager
    def block(ground: Ground, random: Random) -> Iterator[None]:
        try:
            like = MOMENTS[moment].replace("'", "''")
            _ask(ground, KILL_WITHIN.format(moment=like, what=moment))
        except NotDone as problem:
            if not any(one in str(problem) for one in ENDED_BY_A_KILL):
                raise
        yield

    return block


@contextmanager
def _backends_ended(ground: Ground, random: Random) -> Iterator[None]:
    victims = f"(SELECT pid FROM {SESSIONS} ORDER BY random() LIMIT 2) AS victims"
    ends = f"SELECT pg_terminate_backend(pid) FROM {victims}"
    _ask(ground, ends)
    yield
    with suppress(NotDone):
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
    for left in reversed(range(ALTERS)):
        try:
            _ask(ground, f"{table} ADD COLUMN IF NOT EXISTS chaos integer")
            break
        except NotDone:
            if not left:
                raise
    try:
        yield
    finally:
        with suppress(NotDone):
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


# The catalogue ---------------------------------------------------------------------------------


def _of_operators(target: str, **choices: Sequence[int]) -> Fault:
    return Fault(f"make {target}", operation(target, **choices), (0.1, 1), 10)


POOL_SIZES = {"PGBOUNCER_INTERACTIVE_POOL_SIZE": (2, 3, 4), "API_POOL_MAX_SIZE": (8, 12, 16)}

FAULTS = (
    Fault("PostgreSQL is killed", _killed("postgres"), (0.5, 5), 10),
    Fault("PostgreSQL is stopped", _stopped("postgres"), (0.5, 5), 10),
    Fault("PostgreSQL is frozen", _frozen("postgres"), (2, 15), 10),
    *(Fault(f"a backend is killed in {one}", _backend_killed(one), (1, 3), 10) for one in MOMENTS),
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
    Fault("PostgreSQL's memory is full", _memory_filled("postgres"), (5, 6), 10),
    Fault("a PgBouncer's memory is full", _memory_filled("pgbouncer"), (5, 6), 10),
    Fault("an api's memory is full", _memory_filled("api"), (5, 6), 10, cuts_callers=True),
    Fault("a worker's memory is full", _memory_filled("worker"), (5, 6), 5),
    Fault("a worker is stopped", _stopped("worker"), (0.5, 3), 5),
    Fault("a worker is frozen", _frozen("worker"), (2, 15), 5),
    _of_operators("apply", **POOL_SIZES),
    _of_operators("restart-postgres"),
    _of_operators("restart-pgbouncer"),
    _of_operators("restart-app"),
    _of_operators("scale-pgbouncer", N=(1, 2, 3)),
    _of_operators("reconnect"),
    _of_operators("backup"),
    _of_operators("rotate-passwords"),
    _of_operators("rotate-certificates"),
)


# Those that a campaign draws from: the ones with this text in their names.
ONLY = os.environ.get("CHAOS_ONLY", "")
CHOSEN = tuple(one for one in FAULTS if ONLY in one.name)


# Afterwards ------------------------------------------------------------------------------------


def why_not_here() -> str:
    """Return why the faults cannot be done on this host; empty where they can."""
    if not CHOSEN:
        names = ", ".join(one.name for one in FAULTS)
        return f"ONLY={ONLY}: no fault has that in its name; there are: {names}"
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
