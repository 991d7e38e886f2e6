"""The ground of a campaign: the running stack, and the operators who work on it meanwhile.

An operator ends what he has begun at any step, tells nobody, and has it finished later.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from subprocess import TimeoutExpired

from tests import command
from tests.fix_clients import Application
from tests.fix_faults import hold
from tests.fix_ops import EnvDir
from tests.fix_sql import Sql
from tests.fix_stack import Stack

OPERATION_SECONDS = 120
# Before one has come to its end here.
OPERATION_SECONDS_USUAL = 6.0
INTERRUPTIONS_MAX = 4
FINISH_SECONDS = 240


@dataclass(frozen=True, slots=True)
class Ground:
    """What a campaign breaks, the env directory of its operators, and who works behind the path."""

    stack: Stack
    sql: Sql
    env: EnvDir
    application: Application
    say: Callable[[str], None]
    # How long each operation took that came to its end.
    seconds: dict[str, float] = field(default_factory=dict)


Block = Callable[[Ground, Random], AbstractContextManager[None]]


def operation(target: str, **choices: Sequence[int]) -> Block:
    """Run an operation: its operator ends it up to four times, at any step, then has it finished.

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
        for _ in range(random.randint(0, INTERRUPTIONS_MAX)):
            _interrupt(ground, words, random)
        ended_well = not _run(ground, words)
        try:
            yield
        finally:
            if not ended_well:
                _until_done(" ".join(words), lambda: _run(ground, words))
            if target == "rotate-passwords":
                _take_secrets(ground)

    return block


def _interrupt(ground: Ground, words: Sequence[str], random: Random) -> None:
    """Start an operation and end it and all that it has started, unless it has ended before."""
    end = random.choice((signal.SIGINT, signal.SIGKILL))
    after = random.random() * ground.seconds.get(words[2], OPERATION_SECONDS_USUAL)
    process = command.start(*words, env=_variables(ground), own_group=True, merged=True)
    hold(after)
    if process.poll() is None:
        os.killpg(process.pid, end)
        ground.say(f"  {words[2]}: {end.name} after {after:.1f} s")
    with suppress(TimeoutExpired):
        command.finished(process, seconds=OPERATION_SECONDS)


def _run(ground: Ground, words: Sequence[str]) -> str:
    """Run an operation to its end; return why it failed, if it has."""
    began = time.monotonic()
    process = command.start(*words, env=_variables(ground), own_group=True, merged=True)
    try:
        ended = command.finished(process, seconds=OPERATION_SECONDS)
    except TimeoutExpired:
        return f"it was ended after {OPERATION_SECONDS} s"
    if ended.exit_code:
        # The only replica is not restarted under its clients.
        if "add one first: make scale-pgbouncer N=2" in ended.text:
            _run(ground, ["make", "--no-print-directory", "scale-pgbouncer", "N=2"])
        return ended.text
    ground.seconds[words[2]] = time.monotonic() - began
    return ""


def _variables(ground: Ground) -> dict[str, str]:
    return {
        "COMPOSE_PROJECT_NAME": ground.stack.project,
        "SLUICE_ENV_DIR": str(ground.env.path),
    }


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
