"""Give every login role and every control token a new secret while the stack serves.

Old and new are written down first and kept until the new are proven, so that a run that was
interrupted, wherever it was, is repaired by running it again. After the switch every
connection is replaced: no session that the old password opened is left in a pool.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from infra.config import recovery
from infra.config.build import Compiled, check, compile_values
from infra.config.faults import Fault, FaultyInputError
from infra.config.names import LOGIN_ROLES
from infra.config.secrets import PASSWORDS, TOKENS
from infra.config.settings import Values
from infra.ops import app_control, changes, exits, pgbouncer_admin, serving
from infra.ops.apply import Paths
from infra.ops.operation import FailedError, Operation, RefusedError, Request, operate
from infra.ops.rotation import logins, pending
from infra.ops.rotation.choice import Choice
from infra.ops.rotation.pending import Pending
from infra.ops.rotation.sessions import Sessions
from infra.ops.rotation.switch import Switch
from infra.ops.settings import OpsSettings
from infra.ops.targets import Target, everywhere

WHAT: Final = "passwords"
_SLACK_SECONDS: Final = 5.0


def rotate(settings: OpsSettings, paths: Paths, source: Path | None, request: Request) -> int:
    """Rotate; `source` is a directory of secrets that the operator chose. Return the exit code."""

    def work(operation: Operation) -> None:
        values = in_force(paths)
        choice = Choice(paths.secrets, source)
        try:
            PasswordRotation(settings, paths, values, choice, operation).run()
        except FaultyInputError as faulty:
            operation.fail(exits.BAD_INPUT, *map(str, faulty.faults))
            operation.ends_as("nothing was changed")

    return operate(request, f"rotate {WHAT}", work, secrets=[], resumed=False, switch_seconds=None)


def in_force(paths: Paths, env_file: Path | None = None) -> Values:
    """Return the settings as they were compiled last; refuse when they never were.

    With `env_file` those of it where only the record of the last compile is lost. Refuses also
    while secrets are lost: a rotation would make new ones without a switch.
    """
    if lost := recovery.fault(paths.secrets, paths.out):
        raise RefusedError(str(lost))
    record = changes.read_record(paths.out / "ops" / "compiled.json")
    if record is not None:
        return changes.baseline(record, {}).values
    if env_file is None or recovery.is_blank(paths.secrets, paths.out):
        raise RefusedError("nothing was compiled yet; `make up` compiles and starts")
    return last_values(paths, env_file)


def last_values(paths: Paths, env_file: Path) -> Values:
    """Return the settings as they were compiled last; those of the env file where that is lost.

    Raises:
        FaultyInputError: the env file is needed and has faults.

    """
    record = changes.read_record(paths.out / "ops" / "compiled.json")
    if record is not None:
        return changes.baseline(record, {}).values
    checked = check(env_file)
    if checked.faults:
        raise FaultyInputError(checked.faults)
    return checked.values


def longest_loan(values: Values) -> float:
    """Return the seconds after which no connection is lent that was lent before."""
    names = ("API_REQUEST_DEADLINE_SECONDS", "WORKER_BATCH_DEADLINE_SECONDS")
    return max(float(values.number(name)) for name in names) + _SLACK_SECONDS


def require_all(settings: OpsSettings) -> tuple[Target, ...]:
    """Return every PgBouncer replica; refuse unless every process of the stack answers."""
    replicas = serving.require(settings, int(settings.values["pgbouncer"]["replicas"]))
    app = app_control.connect(settings)
    answers = everywhere(app.targets(), app.state)
    faults = [answer.error for answer in answers if not answer.ok]
    if len(answers) != sum(app.processes.values()):
        faults.append(f"{len(answers)} of {sum(app.processes.values())} app processes run")
    if faults:
        raise RefusedError("; ".join(faults))
    return replicas


@dataclass(frozen=True, slots=True)
class PasswordRotation:
    """One rotation under the operation lock."""

    settings: OpsSettings
    paths: Paths
    values: Values
    choice: Choice
    operation: Operation

    def run(self) -> None:
        """Rotate, replace every connection, prove it."""
        rotation = pending.load(self.paths.secrets, WHAT)
        if rotation is None:
            rotation, compiled, replicas = self._begun()
        else:
            self.operation.say("going on with a rotation that was not finished")
            compiled = self._compile(rotation.new)
            replicas = pgbouncer_admin.replicas(self.settings)
        self.operation.note(resumed=rotation.resumed)
        with self.operation.ending.shield():
            seconds = self._switch(rotation, replicas).run(compiled)
        self.operation.note(switch_seconds=seconds, secrets=_names(rotation.new))
        self.operation.say(f"switched within {seconds:.2f} s; replacing every connection")
        self._sessions(replicas).replace()
        self.operation.say("trying the new secrets and the old ones everywhere")
        self._prove(rotation, replicas)
        rotation.forget()
        for name in (self.settings.values["postgres"]["host"], *(one.name for one in replicas)):
            self.operation.done(name, "takes the new passwords")
        self.operation.ends_as("every role and service has a new secret; the old ones are refused")

    def _begun(self) -> tuple[Pending, Compiled, tuple[Target, ...]]:
        old, new = self.choice.old(), self.choice.new()
        if same := [name for name in new if new[name] == old.get(name)]:
            raise FaultyInputError(
                Fault(name, "is what is in force already; choose another") for name in same
            )
        compiled = self._compile(new)
        self.operation.say("looking whether every process is there to take them")
        replicas = require_all(self.settings)
        rotation = pending.begin(self.paths.secrets, WHAT, old=old, new=compiled.new_secrets)
        return rotation, compiled, replicas

    def _compile(self, secrets: Mapping[str, bytes]) -> Compiled:
        now = datetime.datetime.now(datetime.UTC)
        return compile_values(self.values, self.paths.secrets, now=now, changes=secrets)

    def _switch(self, rotation: Pending, replicas: tuple[Target, ...]) -> Switch:
        # What an interrupted run has left in PostgreSQL is not known: no way back then.
        known = not rotation.resumed and all(name in rotation.old for name in PASSWORDS)
        back = (lambda: self._compile(rotation.old)) if known else None
        return Switch(self.settings, self.paths, rotation, replicas, back)

    def _sessions(self, replicas: tuple[Target, ...]) -> Sessions:
        control = app_control.connect(self.settings)
        seconds = longest_loan(self.values)
        return Sessions(self.settings, control, replicas, seconds, self.operation.say)

    def _prove(self, rotation: Pending, replicas: tuple[Target, ...]) -> None:
        """Try every role's new password, and its old one, on every server it can log in to."""
        found = [
            fault
            for secrets, accepted in ((rotation.new, True), (rotation.old, False))
            for fault in logins.faults(
                self.settings, replicas, _by_role(secrets), accepted=accepted
            )
        ]
        found += self._accepted_tokens(rotation.old)
        if found:
            raise FailedError("; ".join(found))

    def _accepted_tokens(self, old: Mapping[str, bytes]) -> list[str]:
        control = app_control.connect(self.settings)
        tokens = {
            service: old[f"{alias}.token"].decode("ascii")
            for service, alias in control.aliases.items()
        }
        impostor = replace(control, tokens=tokens)
        answers = everywhere(impostor.targets(), impostor.state)
        return [
            f"{answer.target}: the old token is still accepted" for answer in answers if answer.ok
        ]


def _names(secrets: Mapping[str, bytes]) -> list[str]:
    """Return what is new, by the names under which an operator would give it."""
    return sorted(name for name in secrets if name in (*PASSWORDS, *TOKENS))


def _by_role(secrets: Mapping[str, bytes]) -> dict[str, str]:
    return {
        role: secrets[f"{role}.password"].decode("ascii")
        for role in LOGIN_ROLES
        if f"{role}.password" in secrets
    }
