"""Give every server a new certificate while the stack serves; with a new CA where wanted.

A new CA comes in three steps, each read back before the next: everybody trusts both the old
and the new; everybody shows a certificate of the new; the old is trusted no more. Old and new
are written down first and kept until the end, so that an interrupted run is repaired by
running it again.
"""

import datetime
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from infra.compiler import control
from infra.compiler.build import Compiled, compile_values
from infra.compiler.certificates import ALSO_TRUSTED
from infra.compiler.faults import FaultyInputError
from infra.compiler.knobs import Values
from infra.compiler.write import write_files, write_secrets
from infra.ops import app_control, exits, pgbouncer_admin
from infra.ops.apply import Paths
from infra.ops.operation import FailedError, Operation, Request, operate
from infra.ops.pgbouncer_admin import PgBouncerAdmin
from infra.ops.postgres_admin import PostgresAdmin
from infra.ops.rotation import handshake, pending
from infra.ops.rotation.pairs import Files, Pairs
from infra.ops.rotation.passwords import in_force, longest_loan, require_all
from infra.ops.rotation.pending import Pending
from infra.ops.rotation.sessions import Sessions
from infra.ops.settings import OpsSettings
from infra.ops.targets import Target, everywhere, first_line

WHAT: Final = "certificates"
AGAIN: Final = "not finished; run it again: make rotate-certificates"
CA_FILE: Final = "ca.crt"
Changes = Mapping[str, bytes | None]
# The app looks at its control certificate once a second.
_SHOWN_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.2


def rotate(
    settings: OpsSettings, paths: Paths, source: Path | None, request: Request, *, new_ca: bool
) -> int:
    """Rotate; `source` is a directory of pairs that the operator chose. Return the exit code."""

    def work(operation: Operation) -> None:
        pairs = Pairs(paths.secrets, source, new_ca)
        try:
            CertificateRotation(settings, paths, in_force(paths), pairs, operation).run()
        except FaultyInputError as faulty:
            placed = (str(pairs.placed(fault)) for fault in faulty.faults)
            operation.fail(exits.BAD_INPUT, *placed)
            operation.ends_as("nothing was changed: the old certificates serve")

    return operate(request, f"rotate {WHAT}", work, secrets=[], resumed=False)


@dataclass(frozen=True, slots=True)
class CertificateRotation:
    """One rotation under the operation lock."""

    settings: OpsSettings
    paths: Paths
    values: Values
    pairs: Pairs
    operation: Operation

    def run(self) -> None:
        """Go through the steps, prove the outcome."""
        rotation = pending.load(self.paths.secrets, WHAT)
        if rotation is None:
            rotation = self._begun()
        else:
            self.operation.say("going on with a rotation that was not finished")
        self.operation.note(resumed=rotation.resumed)
        with self.operation.ending.shield():
            self._go_through(rotation)

    def _begun(self) -> Pending:
        """Make or take the new pairs, have every step judged, and write both sets down.

        Raises:
            FaultyInputError: names each certificate that cannot be used; nothing was changed.

        """
        old = self.pairs.old()
        made = self._compile(self.pairs.changes()).new_secrets
        if faults := self.pairs.unusable():
            raise FaultyInputError(faults)
        new = {file: content for file, content in made.items() if content != old.get(file)}
        for step in steps(old, new, promoted=False):
            self._compile(step)
        self.operation.say("looking whether every process is there to take them")
        require_all(self.settings)
        return pending.begin(self.paths.secrets, WHAT, old=old, new=new)

    def _go_through(self, rotation: Pending) -> None:
        promoted = rotation.resumed and self._is_promoted(rotation.new)
        *early, last = steps(rotation.old, rotation.new, promoted=promoted)
        try:
            for step in early:
                self._take(step)
            if not early:
                self._take(last)
        except FailedError as error:
            raise self._undone(rotation, error) from error
        self._replace_connections()
        if early:
            self._take(last)
        self.operation.note(secrets=sorted(rotation.new))
        self.operation.say("looking what every server shows, and who trusts it")
        self._prove(rotation)
        (self.paths.secrets / ALSO_TRUSTED).unlink(missing_ok=True)
        rotation.forget()
        for shown in handshake.everyone(self.settings):
            self.operation.done(shown.target.name, "shows a new certificate")
        self.operation.ends_as(f"every server shows a new certificate{_of_old(rotation.new)}")

    def _is_promoted(self, new: Files) -> bool:
        """Tell whether an interrupted run has begun to put new files in the place of old ones."""
        present = self.pairs.old()
        return any(present.get(file) == content for file, content in new.items())

    def _compile(self, changes: Changes) -> Compiled:
        now = datetime.datetime.now(datetime.UTC)
        return compile_values(self.values, self.paths.secrets, now=now, changes=changes)

    def _take(self, step: Changes) -> None:
        """Write the files, reload every server, and wait until each shows its certificate.

        Raises:
            FailedError: names each process that does not.

        """
        compiled = self._compile(step)
        for name in (name for name, content in step.items() if content is None):
            (self.paths.secrets / name).unlink(missing_ok=True)
        write_secrets(compiled.new_secrets, self.paths.secrets)
        write_files(compiled.files, self.paths.out)
        reload(self.settings)
        deadline = time.monotonic() + _SHOWN_SECONDS
        while differing := self._differing(_leaves(compiled)):
            if time.monotonic() > deadline:
                raise FailedError("; ".join(differing))
            time.sleep(_POLL_SECONDS)
        self.operation.say("files written; every server has taken them")

    def _differing(self, wanted: dict[str, bytes]) -> list[str]:
        lines = []
        for shown in handshake.everyone(self.settings):
            try:
                same = shown.certificate() == wanted[shown.secret]
            except OSError as error:
                lines.append(f"{shown.target}: {first_line(error)}")
            else:
                lines += [] if same else [f"{shown.target}: has not taken {shown.secret}.crt"]
        return lines

    def _undone(self, rotation: Pending, error: FailedError) -> FailedError:
        """Put the old certificates back; say what came of it."""
        if rotation.resumed:
            return FailedError(f"{error}; {AGAIN}")
        try:
            self._take({**rotation.old, ALSO_TRUSTED: b""})
        except (FailedError, FaultyInputError, psycopg.Error, OSError) as second:
            return FailedError(f"{error}; not put back: {first_line(second)}; {AGAIN}")
        rotation.forget()
        return FailedError(f"{error}; the old certificates serve")

    def _replace_connections(self) -> None:
        self.operation.say("replacing every connection")
        replicas = pgbouncer_admin.replicas(self.settings)
        app = app_control.connect(self.settings)
        seconds = longest_loan(self.values)
        Sessions(self.settings, app, replicas, seconds, self.operation.say).replace()

    def _prove(self, rotation: Pending) -> None:
        """Check that a client that trusts the old CA alone refuses every server now."""
        if CA_FILE not in rotation.new:
            return
        wrong = [
            f"{shown.target}: is {'still' if trusted else 'not'} trusted by the {age} CA"
            for age, files, expected in (("old", rotation.old, False), ("new", rotation.new, True))
            for shown in handshake.everyone(self.settings)
            if (trusted := shown.is_trusted_by(files[CA_FILE])) is not expected
        ]
        if wrong:
            raise FailedError("; ".join(wrong))


def steps(old: Files, new: Files, *, promoted: bool) -> list[Changes]:
    """Return the secrets of each step; `promoted`: new files may be in place already.

    One step for the same CA. For another: trust both, show the new, trust the new alone.
    """
    if CA_FILE not in new:
        return [new]
    # A CA that was given without its key signs nothing here; the old key is not its own.
    whole: Changes = {"ca.key": None, **new}
    later: list[Changes] = [{**whole, ALSO_TRUSTED: old[CA_FILE]}, {**whole, ALSO_TRUSTED: b""}]
    return later if promoted else [{ALSO_TRUSTED: new[CA_FILE]}, *later]


def reload(settings: OpsSettings) -> None:
    """Have every server read its files again; raise FailedError naming who did not.

    The app needs no telling: trust is read for each connection, the control plane looks
    at its certificate once a second.
    """
    with PostgresAdmin(settings) as postgres:
        if not postgres.reload():
            raise FailedError("postgres did not read its files again; its log says why")

    def tell(target: Target) -> None:
        with PgBouncerAdmin(target, settings) as admin:
            admin.reload()

    answers = everywhere(pgbouncer_admin.replicas(settings), tell)
    if failed := [f"{answer.target}: {answer.error}" for answer in answers if answer.error]:
        raise FailedError("; ".join(failed))


def _leaves(compiled: Compiled) -> dict[str, bytes]:
    """Return the certificate that each server is to show, as DER, by its name among secrets."""
    paths = {"postgres": "postgres/server.crt", "pgbouncer": "pgbouncer/server.crt"}
    paths |= {alias: f"app/{alias}.crt" for alias in control.ALIASES.values()}
    contents = {file.path: file.content for file in compiled.files}
    return {
        name: x509.load_pem_x509_certificate(contents[path]).public_bytes(Encoding.DER)
        for name, path in paths.items()
    }


def _of_old(new: Files) -> str:
    return "; nobody trusts the old CA any more" if CA_FILE in new else ""
