"""Hold every PgBouncer still for a moment: clients wait, nothing fails, and it always ends.

The dead-man runs in a container of its own beside the command. It resumes every PgBouncer as soon
as the command is gone, and PAUSE_DEAD_MAN_SECONDS after the pause began when the command is there
but hangs.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from infra.ops import pause_record
from infra.ops.clients import pgbouncer
from infra.ops.clients.pgbouncer import PgBouncerAdmin
from infra.ops.clients.processes import Answer, OpsSettings, Target, everywhere
from infra.ops.outcome import Exit, FailedError, RefusedError
from infra.ops.pause_record import PauseRecord, Phase
from infra.ops.waiting import gone, wait_until

# While paused no server connection is made; the first one after it must not wait.
LOGIN_RETRY_SECONDS = "0.1"
# Longest wait of a queued client at which the usual query_wait_timeout may come back.
QUEUE_CALM_SECONDS = 1.0
RESUME_ROUND_SECONDS = 0.2
DEAD_MAN_POLL_SECONDS = 0.2
# Checks and a checkpoint come before the pause; a command that died in them never pauses.
DEAD_MAN_LIFETIME_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class PauseLimits:
    """The settings PAUSE_*, in seconds."""

    drain_seconds: int
    max_seconds: int
    query_wait_timeout_seconds: int
    dead_man_seconds: int


def limits(settings: OpsSettings) -> PauseLimits:
    """Return the limits that ops.json gives."""
    return PauseLimits(**settings.values["pause"])


class CannotPauseError(RefusedError):
    """A replica could not be paused in time; all serve again."""


@dataclass(slots=True)
class Pause:
    """One pause: when it was asked for (monotonic seconds), and how long it lasted."""

    began: float
    drained: float = 0.0
    ended: float = 0.0
    dns_max_ttl_seconds: float = 0.0
    not_resumed: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Return the time from the first PAUSE to the last RESUME."""
        return self.ended - self.began


@contextmanager
def paused(
    settings: OpsSettings,
    replicas: tuple[Target, ...],
    limits: PauseLimits,
    *,
    shield: Callable[[], AbstractContextManager[None]],
    on_released: Callable[[], None],
) -> Iterator[Pause]:
    """Pause every replica for the block, and put everything back whatever happens in it.

    `shield` keeps signals away while that is being done; `on_released` is called when it
    is done everywhere.

    Raises:
        CannotPauseError: a replica did not pause within `drain_seconds`; all serve again.
        FailedError: the same, and one does not serve again; the dead-man goes on trying.

    """
    pause = Pause(began=time.monotonic())

    def put_back() -> None:
        with shield():
            pause.not_resumed = release(settings, replicas, limits, pause=pause)
            if not pause.not_resumed:
                on_released()

    try:
        with ExitStack() as stack:
            admins = _connect(stack, settings, replicas)
            pause.dns_max_ttl_seconds = _patience(admins, limits)
            pause.began = time.monotonic()
            _pause_all(admins, limits)
            pause.drained = time.monotonic()
    except BaseException as error:
        put_back()
        if isinstance(error, CannotPauseError) and pause.not_resumed:
            left = "; ".join(pause.not_resumed)
            raise FailedError(
                f"{error}; not resumed, and tried again for minutes: {left}"
            ) from error
        raise
    try:
        yield pause
    finally:
        put_back()


def release(
    settings: OpsSettings,
    replicas: tuple[Target, ...],
    limits: PauseLimits,
    *,
    pause: Pause | None = None,
) -> list[str]:
    """RESUME every replica, let the queues empty, put the settings back by RELOAD.

    Repeats for as long as queued clients can still be saved. Returns what could not be
    done, by replica; empty is success. Safe to call when nothing is paused.
    """
    until = time.monotonic() + limits.query_wait_timeout_seconds
    left = _until_done(replicas, lambda target: _resume(settings, target), until)
    if pause:
        pause.ended = time.monotonic()
    # Whoever queued during the pause has waited for longer than the usual limit allows.
    until = time.monotonic() + limits.query_wait_timeout_seconds
    left += _until_done(replicas, lambda target: _restore(settings, target, until), until)
    return [f"{answer.target}: {answer.error}" for answer in left]


def _connect(
    stack: ExitStack, settings: OpsSettings, replicas: tuple[Target, ...]
) -> dict[Target, PgBouncerAdmin]:
    answers = everywhere(replicas, lambda target: PgBouncerAdmin(target, settings))
    admins = {
        answer.target: stack.enter_context(answer.value) for answer in answers if answer.value
    }
    if failed := [answer for answer in answers if not answer.ok]:
        raise CannotPauseError(_named(failed))
    return admins


def _patience(admins: dict[Target, PgBouncerAdmin], limits: PauseLimits) -> float:
    """Let queued clients wait for longer than the pause; return the longest DNS lifetime."""

    def prepare(target: Target) -> float:
        admin = admins[target]
        config = admin.config()
        # query_timeout counts for queued clients too; 0 is no limit.
        for name in ("query_wait_timeout", "query_timeout"):
            if 0 < float(config[name]) < limits.query_wait_timeout_seconds:
                admin.set(name, limits.query_wait_timeout_seconds)
        admin.set("server_login_retry", LOGIN_RETRY_SECONDS)
        return float(config["dns_max_ttl"])

    answers = everywhere(admins, prepare)
    if failed := [answer for answer in answers if not answer.ok]:
        raise CannotPauseError(_named(failed))
    return max((answer.get() for answer in answers), default=0.0)


def _pause_all(admins: dict[Target, PgBouncerAdmin], limits: PauseLimits) -> None:
    def pause(target: Target) -> bool:
        admins[target].pause(seconds=limits.drain_seconds)
        return True

    answers = everywhere(admins, pause)
    if failed := [answer for answer in answers if not answer.ok]:
        raise CannotPauseError(_named(failed))


def _resume(settings: OpsSettings, target: Target) -> bool:
    with PgBouncerAdmin(target, settings) as admin:
        try:
            admin.resume()
        except psycopg.Error:
            # It refuses when it is not paused, which is what is wanted.
            if admin.state().get("paused") != "no":
                raise
    return True


def _restore(settings: OpsSettings, target: Target, until: float) -> bool:
    with PgBouncerAdmin(target, settings) as admin:
        wait_until(
            lambda: _longest_wait(admin) <= QUEUE_CALM_SECONDS,
            seconds=until - time.monotonic(),
            every=RESUME_ROUND_SECONDS,
        )
        admin.reload()
    return True


def _longest_wait(admin: PgBouncerAdmin) -> float:
    return max((int(row["maxwait"]) for row in admin.pools() if row["cl_waiting"]), default=0)


def _until_done(
    targets: tuple[Target, ...], work: Callable[[Target], bool], until: float
) -> list[Answer[bool]]:
    """Run the work on each target until it has succeeded there; return what is left."""
    left = targets

    def failed() -> list[Answer[bool]]:
        nonlocal left
        answers = [one for one in everywhere(left, work) if not one.ok]
        left = tuple(one.target for one in answers)
        return answers

    return wait_until(failed, gone, seconds=until - time.monotonic(), every=RESUME_ROUND_SECONDS)


def _named(failed: Sequence[Answer[Any]]) -> str:
    return "; ".join(f"{answer.target}: {answer.error}" for answer in failed)


def watch(settings: OpsSettings, directory: Path) -> int:
    """Watch one operation until it is over; return 1 when a replica could not be resumed.

    One that does not answer is tried again: what it was sent before it stopped it may do when it
    goes on, PAUSE too.
    """
    bounds = limits(settings)
    failed = False
    # By what it says, not by its time: the clock begins anew where the host does.
    before = pause_record.read(directory)

    def look() -> int | None:
        nonlocal before, failed
        with pause_record.orphaned(directory) as (record, free):
            is_of_this = record is not None and record != before
            if _must_act(record, bounds, free=free):
                failed = _act(settings, directory, bounds) != Exit.OK
                if not is_of_this and not failed:
                    # It belonged to another operation: go on watching this one.
                    before = pause_record.read(directory)
                return Exit.OK if is_of_this and not failed else None
            is_over = record is not None and record.phase is Phase.OVER
            return Exit.OK if free and is_over and is_of_this else None

    with pause_record.watching(directory):
        code = wait_until(
            look,
            lambda one: one is not None,
            seconds=DEAD_MAN_LIFETIME_SECONDS,
            every=DEAD_MAN_POLL_SECONDS,
        )
    return Exit.FAILED if code is None and failed else Exit.OK


def _must_act(record: PauseRecord | None, limits: PauseLimits, *, free: bool) -> bool:
    if record is None or record.phase is not Phase.PAUSED:
        return False
    return free or time.monotonic() - record.at > limits.dead_man_seconds


def _act(settings: OpsSettings, directory: Path, limits: PauseLimits) -> int:
    _say("the operator's command is gone or hangs: RESUME")
    left = release(settings, pgbouncer.replicas(settings), limits)
    for fault in left:
        _say(fault)
    if left:
        return Exit.FAILED
    pause_record.mark_over(directory)
    _say("every PgBouncer serves again")
    return Exit.OK


def _say(text: str) -> None:
    print(f"dead-man: {text}", flush=True)  # noqa: T201  # its container's log
