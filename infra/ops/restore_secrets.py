"""Write back the secrets of a lost secrets volume from what was compiled from them.

Nothing that runs has to change then: the passwords and verifiers are the same bytes. What the
compiled files do not hold is made anew, compiled, and put into PostgreSQL by its own superuser,
whom the host asks inside the container. A password that is there is never replaced.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from infra.config import clients, recovery
from infra.config.build import compile_values
from infra.config.certificates import expiry
from infra.config.faults import FaultyInputError
from infra.config.host import Host
from infra.config.secrets import SecretStore
from infra.config.settings import Values
from infra.config.write import finish_secrets, write_all, write_secrets
from infra.ops.clients import app_control, pgbouncer
from infra.ops.clients.processes import OpsSettings, everywhere, first_line, resolve
from infra.ops.operation import Operation, Paths, Request, operate
from infra.ops.outcome import FailedError, RefusedError
from infra.ops.rotation import handshake, logins
from infra.ops.rotation.pending import last_values
from infra.ops.waiting import gone, wait_until

_NEW_CA: Final = "but the key of the CA; make a new CA: make rotate-certificates CA=yes"
# The host has to start a command or two first; a server that runs then has them at once.
_TAKEN_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.5


def restore(
    env_file: Path, settings: Path, paths: Paths, request: Request, *, host: Host | None
) -> int:
    """Restore; `settings` is ops.json. Return the exit code."""

    def work(operation: Operation) -> None:
        restoration = Restoration(env_file, settings, paths, operation)
        restoration.run(has_data=host is not None and host.has_data)

    return operate(request, "restore secrets", work, restored=[], made=[])


@dataclass(frozen=True, slots=True)
class Restoration:
    """One restoration under the operation lock."""

    env_file: Path
    settings: Path
    paths: Paths
    operation: Operation

    def run(self, *, has_data: bool) -> None:
        """Write back what can be, make the rest, and see that all that runs takes them.

        Raises:
            RefusedError: no secret is lost.
            FaultyInputError: what must be made cannot be; nothing was changed.
            FailedError: names each server that does not take its secret.

        """
        secrets, out = self.paths.secrets, self.paths.out
        finish_secrets(secrets)
        if recovery.fault(secrets, out, has_data=has_data) is None:
            raise RefusedError("no secret is lost; nothing was changed")
        found = recovery.recover(secrets, out)
        if set(recovery.missing(secrets, recovery.recoverable(out))) - found.keys():
            self._make(found)
        else:
            write_secrets(found, secrets)
            self.operation.note(restored=sorted(found))
            self.operation.say(
                f"{len(found)} secrets written back from the compiled files, unchanged"
            )
        self._see(OpsSettings.read(self.settings))

    def _make(self, found: Mapping[str, bytes]) -> None:
        values = last_values(self.paths, self.env_file)
        try:
            made = self._written(values, found)
        except FaultyInputError:
            store = SecretStore(self.paths.secrets)
            for name, content in found.items():
                store.put(name, content)
            if not _is_keyless(store):
                raise
            # A certificate is missing or has expired, and only a new CA can sign another.
            made = self._written(values, {**found, recovery.CA: None, "ca.key": None})
        kept = sorted(name for name, content in found.items() if made.get(name) == content)
        new = sorted(made.keys() - set(kept))
        self.operation.note(restored=kept, made=new)
        self.operation.say(
            f"{len(kept)} secrets written back; in no compiled file and made anew: {', '.join(new)}"
            if kept
            else f"the compiled files are gone as well: all {len(new)} secrets were made anew"
        )

    def _written(self, values: Values, changes: Mapping[str, bytes | None]) -> dict[str, bytes]:
        now = datetime.datetime.now(datetime.UTC)
        compiled = compile_values(values, self.paths.secrets, now=now, changes=changes)
        write_all(compiled.new_secrets, self.paths.secrets, compiled.files, self.paths.out)
        return compiled.new_secrets

    def _see(self, settings: OpsSettings) -> None:
        """Try every secret on what runs; have PostgreSQL given the verifiers it does not have."""
        keyless = _is_keyless(SecretStore(self.paths.secrets))
        restored = f"every secret is in its place{f' {_NEW_CA}' if keyless else ''}"
        postgres = settings.values["postgres"]
        if not resolve(postgres["host"], postgres["port"]):
            self.operation.ends_as(f"{restored}; PostgreSQL does not run, start it: make up")
            return
        self.operation.say("trying them on every server that runs")
        if left := self._refusals(settings):
            self.operation.warn(f"{left[0]}; PostgreSQL and PgBouncer are given the compiled ones")
            self.operation.ask_host("give-roles")
            left = wait_until(
                lambda: self._refusals(settings), gone, seconds=_TAKEN_SECONDS, every=_POLL_SECONDS
            )
            if left:
                raise FailedError("; ".join(left))
        self.operation.ends_as(f"{restored}; every server that runs takes them")

    def _refusals(self, settings: OpsSettings) -> list[str]:
        """Return a line for each secret that a process which runs does not take."""
        replicas = pgbouncer.replicas(settings)
        places = clients.logins(last_values(self.paths, self.env_file))
        passwords = {role: self._kept(f"{role}.password").decode("ascii") for role in places}
        lines = logins.faults(settings, replicas, passwords, places, accepted=True)
        control = app_control.connect(settings)
        answers = everywhere(control.targets(), control.state)
        lines += [f"{answer.target}: {answer.error}" for answer in answers if not answer.ok]
        for shown in handshake.everyone(settings):
            pem = self._kept(f"{shown.secret}.crt")
            wanted = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
            try:
                same = shown.certificate() == wanted
            except OSError as error:
                lines.append(f"{shown.target}: {first_line(error)}")
            else:
                lines += [] if same else [f"{shown.target}: shows another {shown.secret}.crt"]
        return lines

    def _kept(self, name: str) -> bytes:
        return (self.paths.secrets / name).read_bytes()


def _is_keyless(store: SecretStore) -> bool:
    """Return True if the CA was made here and its key is gone."""
    own = any(one.made_here for one in expiry(store) if one.file == recovery.CA)
    return own and store.read("ca.key") is None
