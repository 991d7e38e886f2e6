"""The dead-man of a planned pause: RESUME everywhere when the operator's command has died.

It runs in a container of its own beside the command. It acts as soon as the command is
gone, and PAUSE_DEAD_MAN_SECONDS after the pause began when the command is there but hangs.
"""

import time
from pathlib import Path

from infra.ops import exits, pause, pause_record, pgbouncer_admin
from infra.ops.pause import PauseLimits
from infra.ops.pause_record import PauseRecord, Phase
from infra.ops.settings import OpsSettings

POLL_SECONDS = 0.2
# Checks and a checkpoint come before the pause; a command that died in them never pauses.
LIFETIME_SECONDS = 180.0


def watch(settings: OpsSettings, directory: Path) -> int:
    """Watch one operation until it is over; return 1 when a replica could not be resumed."""
    began = time.monotonic()
    limits = pause.limits(settings)
    with pause_record.watching(directory):
        while time.monotonic() - began < LIFETIME_SECONDS:
            with pause_record.orphaned(directory) as (record, free):
                if _must_act(record, limits, free=free):
                    code = _act(settings, directory, limits)
                    # One from before belongs to another operation: go on watching this one.
                    if record and record.at > began:
                        return code
                elif free and record and record.phase is Phase.OVER and record.at > began:
                    return exits.OK
            time.sleep(POLL_SECONDS)
    return exits.OK


def _must_act(record: PauseRecord | None, limits: PauseLimits, *, free: bool) -> bool:
    if record is None or record.phase is not Phase.PAUSED:
        return False
    return free or time.monotonic() - record.at > limits.dead_man_seconds


def _act(settings: OpsSettings, directory: Path, limits: PauseLimits) -> int:
    _say("the operator's command is gone or hangs: RESUME")
    left = pause.release(settings, pgbouncer_admin.replicas(settings), limits)
    for fault in left:
        _say(fault)
    if left:
        return exits.FAILED
    pause_record.mark_over(directory)
    _say("every PgBouncer serves again")
    return exits.OK


def _say(text: str) -> None:
    print(f"dead-man: {text}", flush=True)  # noqa: T201  # its container's log
