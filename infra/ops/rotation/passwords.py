"""Give every login role and every control token a new secret while the stack serves.

Old and new are written down first and kept until the new are proven, so that a run that was
interrupted, wherever it was, is repaired by running it again. After the switch every
connection is replaced: no session that the old password opened is left in a pool.
"""

import datetime
import secrets as random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from infra.config import clients, scram
from infra.config.build import Compiled, compile_values
from infra.config.faults import Fault, FaultyInputError
from infra.config.secrets import TOKENS
from infra.config.settings import Values
from infra.ops.clients import app_control, patroni, pgbouncer
from infra.ops.clients.processes import OpsSettings, Target, everywhere
from infra.ops.operation import Operation, Paths, Request, operate
from infra.ops.outcome import FailedError
from infra.ops.rotation import logins, pending
from infra.ops.rotation.pending import Pending, compiled_values
from infra.ops.rotation.sessions import Sessions, longest_loan, require_all
from infra.ops.rotation.switch import Switch

WHAT: Final = "passwords"
_GENERATED_BYTES: Final = 32


def rotate(settings: OpsSettings, paths: Paths, source: Path | None, request: Request) -> int:
    """Rotate; `source` is a directory of secrets that the operator chose. Return the exit code."""

    def work(operation: Operation) -> None:
        values = compiled_values(paths)
        choice = Choice(paths.secrets, source, tuple(clients.logins(values)))
        pending.require_given(source, (*choice.passwords, *TOKENS))
        PasswordRotation(settings, paths, values, choice, operation).run()

    return operate(request, f"rotate {WHAT}", work, secrets=[], resumed=False, switch_seconds=None)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which new secrets a rotation brings: given by the operator, placed beforehand, or made here.

    `secrets` is the secrets volume, `source` a directory of what the operator gives.
    """

    secrets: Path
    source: Path | None
    roles: tuple[str, ...]

    @property
    def passwords(self) -> tuple[str, ...]:
        """The file of every password."""
        return tuple(f"{role}.password" for role in self.roles)

    def new(self) -> dict[str, bytes]:
        """Return a new password for every role and a new token for every service, by file."""
        return {name: self._new(name) for name in (*self.passwords, *TOKENS)}

    def old(self) -> dict[str, bytes]:
        """Return what is in use, by file name.

        The password that one replaced which was placed beforehand is nowhere any more.
        """
        names = [name for name in self.passwords if not self._is_placed(name)]
        verifiers = [f"{role}.scram" for role in self.roles]
        return {name: self._kept(name) for name in (*names, *verifiers, *TOKENS)}

    def is_met_by(self, new: Mapping[str, bytes]) -> bool:
        """Return True if every secret that was given is among these."""
        given = (name for name in (*self.passwords, *TOKENS) if self._is_given(name))
        return all(new.get(name) == self._new(name) for name in given)

    def _is_given(self, name: str) -> bool:
        return self.source is not None and (self.source / name).exists()

    def _new(self, name: str) -> bytes:
        if self.source is not None and self._is_given(name):
            return (self.source / name).read_bytes()
        if name in self.passwords and self._is_placed(name):
            return self._kept(name)
        return random.token_urlsafe(_GENERATED_BYTES).encode("ascii")

    def _is_placed(self, name: str) -> bool:
        """Return True if the password is another than the one that PostgreSQL has."""
        verifier = self._kept(name.replace(".password", ".scram")).decode("ascii")
        return not scram.matches(self._kept(name).decode("ascii", "replace"), verifier)

    def _kept(self, name: str) -> bytes:
        return (self.secrets / name).read_bytes()


@dataclass(frozen=True, slots=True)
class PasswordRotation:
    """One rotation under the operation lock."""

    settings: OpsSettings
    paths: Paths
    values: Values
    choice: Choice
    operation: Operation

    def run(self) -> None:
        """Finish what an interrupted run has left; then do what was asked for."""
        rotation = pending.load(self.paths.secrets, WHAT)
        if rotation is not None:
            self.operation.say("going on with a rotation that was not finished")
            compiled, replicas = self._compile(rotation.new), pgbouncer.replicas(self.settings)
            self._go_through(rotation, compiled, replicas)
            if self.choice.is_met_by(rotation.new):
                return
            self.operation.say("it is finished; now to the secrets that are given")
        self._go_through(*self._begun())

    def _go_through(
        self, rotation: Pending, compiled: Compiled, replicas: tuple[Target, ...]
    ) -> None:
        """Rotate, replace every connection, prove it."""
        self.operation.note(resumed=rotation.resumed)
        with self.operation.ending.shield():
            seconds = self._switch(rotation, replicas).run(compiled)
        if failed := patroni.reload(self.settings):
            raise FailedError(f"{'; '.join(failed)}; not finished; run it again")
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
                Fault(name, "is the present one; choose another") for name in same
            )
        compiled = self._compile(new)
        self.operation.say("checking that every process can take them")
        replicas = require_all(self.settings)
        rotation = pending.begin(self.paths.secrets, WHAT, old=old, new=compiled.new_secrets)
        return rotation, compiled, replicas

    def _compile(self, secrets: Mapping[str, bytes]) -> Compiled:
        now = datetime.datetime.now(datetime.UTC)
        return compile_values(self.values, self.paths.secrets, now=now, changes=secrets)

    def _switch(self, rotation: Pending, replicas: tuple[Target, ...]) -> Switch:
        # What an interrupted run has left in PostgreSQL is not known: no way back then.
        known = not rotation.resumed and all(name in rotation.old for name in self.choice.passwords)
        back = (lambda: self._compile(rotation.old)) if known else None
        places = clients.logins(self.values)
        return Switch(self.settings, self.paths, rotation, replicas, places, back)

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
                self.settings,
                replicas,
                _by_role(secrets),
                clients.logins(self.values),
                accepted=accepted,
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
        answers = everywhere(control.targets(), impostor.state)
        return [
            f"{answer.target}: the old token is still accepted" for answer in answers if answer.ok
        ]


def _names(secrets: Mapping[str, bytes]) -> list[str]:
    """Return what is new, by the names under which an operator would give it."""
    return sorted(name for name in secrets if name.endswith((".password", ".token")))


def _by_role(secrets: Mapping[str, bytes]) -> dict[str, str]:
    return {
        name.removesuffix(".password"): content.decode("ascii")
        for name, content in secrets.items()
        if name.endswith(".password")
    }
