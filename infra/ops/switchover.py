"""Make a standby the primary, and restart instances one after the other; clients wait, none fails.

The clients' wait is that of a restart: every PgBouncer is paused, a dead-man watches.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import psycopg

from infra.ops import pause_record
from infra.ops.clients import patroni
from infra.ops.clients.patroni import Instance
from infra.ops.clients.postgres import PostgresAdmin
from infra.ops.clients.processes import OpsSettings
from infra.ops.operation import Operation, Request, operate
from infra.ops.outcome import FailedError, RefusedError
from infra.ops.paused_change import paused_change
from infra.ops.waiting import wait_until

# A container's stop, start, and the log since; a former primary may have to be rewound.
_FOLLOWS_SECONDS: Final = 120.0
_POLL_SECONDS: Final = 0.5
_LED_SECONDS: Final = 5.0
# A smaller max_connections reaches a standby only after it has reached the primary.
_ROUNDS_MAX: Final = 2


def run(settings: OpsSettings, request: Request, candidate: str) -> int:
    """Switch over to `candidate`, or to a standby of one's choice; return the exit code."""

    def work(operation: Operation) -> None:
        if not patroni.is_replicated(settings):
            raise RefusedError(
                "there is one server only, and nothing to switch over to: POSTGRES_INSTANCES=3"
            )
        chosen = _choose(patroni.require(settings), candidate)
        seconds = to(settings, request.directory, operation, chosen)
        operation.ends_as(f"{chosen} is the primary; clients waited for at most {seconds:.2f} s")

    return _operate(request, "switchover", work)


def restart_postgres(settings: OpsSettings, request: Request) -> int:
    """Restart every instance: the standbys, then, after a switchover, the former primary.

    One that does not follow comes first; with two of them it is refused.

    Returns the exit code.
    """

    def work(operation: Operation) -> None:
        _rolling(settings, request.directory, operation)

    return _operate(request, "restart postgres", work)


def _operate(request: Request, name: str, work: Callable[[Operation], None]) -> int:
    try:
        return operate(request, name, work, paused_seconds=None)
    finally:
        if request.directory.is_dir():
            pause_record.operation_over(request.directory)


def to(settings: OpsSettings, directory: Path, operation: Operation, candidate: str) -> float:
    """Make this standby the primary; return for how long clients waited at most, in seconds.

    Raises:
        RefusedError: a precondition is not met; nothing was changed.
        FailedError: it is not the primary, or the former one does not follow.

    """
    leader = patroni.require(settings)[0].name
    before = _started_at(settings)
    # Patroni answers about a second after it is over.
    answers: list[Future[None]] = []

    def change() -> None:
        answers.append(pool.submit(patroni.switchover, settings, leader, candidate))

    def is_over(seconds: float) -> bool:
        if answers[0].done():
            answers[0].result()
        with PostgresAdmin(settings, call_seconds=seconds) as admin:
            return admin.started_at() != before and not admin.is_standby()

    operation.ask_host("dead-man")
    with ThreadPoolExecutor(1) as pool:
        seconds = paused_change(settings, directory, operation, change, is_over)
    operation.done(candidate, "primary")
    operation.say(f"{candidate} is the primary; waiting until {leader} follows it")
    _await(settings, leader, lambda one: one.follows)
    operation.done(leader, "follows")
    return seconds


def _started_at(settings: OpsSettings) -> str:
    """Return when the primary has started.

    Where a server has just come back under another address HAProxy leads nowhere for a moment.

    Raises:
        psycopg.OperationalError: for longer than that.

    """
    error: psycopg.OperationalError | None = None

    def ask() -> str:
        nonlocal error
        try:
            with PostgresAdmin(settings) as admin:
                return admin.started_at()
        except psycopg.OperationalError as refused:
            error = refused
            return ""

    found = wait_until(ask, seconds=_LED_SECONDS, every=_POLL_SECONDS)
    if not found and error:
        raise error
    return found


def _rolling(settings: OpsSettings, directory: Path, operation: Operation) -> None:
    waited = 0.0
    found = patroni.look(settings)
    due = {one.name for one in found}
    ill = [one for one in found if not (one.is_primary or one.follows)]
    # It may need what the restart brings, and the other two have every commit.
    if len(ill) == 1 and patroni.primary(found):
        _restart(settings, operation, ill[0])
        due.remove(ill[0].name)
    for _ in range(_ROUNDS_MAX):
        leader, *standbys = patroni.require(settings)
        for one in standbys:
            if one.name in due:
                _restart(settings, operation, one)
        if leader.name in due:
            waited = max(waited, to(settings, directory, operation, _choose((leader, *standbys))))
            _restart(settings, operation, _of(settings, leader.name))
        due = {one.name for one in patroni.look(settings) if one.pending_restart}
        if not due:
            break
    operation.note(paused_seconds=waited)
    operation.ends_as(f"every instance restarted; clients waited for at most {waited:.2f} s")


def _restart(settings: OpsSettings, operation: Operation, before: Instance) -> None:
    operation.say(f"{before.name}: restarting")
    operation.ask_host("replace-instance", before.name)
    _await(settings, before.name, lambda one: one.follows and one.started != before.started)
    operation.done(before.name, "restarted")


def _await(settings: OpsSettings, name: str, holds: Callable[[Instance], bool]) -> None:
    if not wait_until(
        lambda: holds(_of(settings, name)), seconds=_FOLLOWS_SECONDS, every=_POLL_SECONDS
    ):
        found = _of(settings, name)
        raise FailedError(
            f"{name} does not follow after {_FOLLOWS_SECONDS:g} s: "
            f"{found.error or f'{found.role}, {found.state}'}; see: docker compose logs {name}"
        )


def _of(settings: OpsSettings, name: str) -> Instance:
    return next(one for one in patroni.look(settings) if one.name == name)


def _choose(instances: tuple[Instance, ...], candidate: str = "") -> str:
    """Return the standby to switch to; a synchronous one, with the least lag, of one's own choice.

    Raises:
        RefusedError: `candidate` cannot be it.

    """
    leader, *standbys = instances
    if not candidate:
        chosen = min(
            standbys, key=lambda one: (one.role != "synchronous standby", one.lag_bytes or 0)
        )
        return chosen.name
    if candidate == leader.name:
        raise RefusedError(f"TO={candidate} is the primary already")
    if candidate not in (one.name for one in standbys):
        known = ", ".join(one.name for one in standbys)
        raise RefusedError(f"TO={candidate} is no standby; the standbys are {known}")
    return candidate
