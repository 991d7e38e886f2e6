"""Give every server a new certificate while the stack serves; with a new CA where wanted.

A new CA comes in three steps, each read back before the next: everybody trusts both the old
and the new; everybody shows a certificate of the new; the old is trusted no more. Old and new
are written down first and kept until the end, so that an interrupted run is finished, or
undone where its new certificates cannot be used any more, by running it again.

Where the stack is down, or cannot be reached because of a certificate, there is nothing to
interrupt: the files are written in one step, and the host signals the servers that run.
"""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from infra.config import names
from infra.config.build import Compiled, compile_values
from infra.config.certificates import ALSO_TRUSTED, expiry
from infra.config.faults import FaultyInputError
from infra.config.secrets import SecretStore
from infra.config.settings import Values
from infra.config.write import finish_secrets, write_all
from infra.ops.clients import app_control, patroni, pgbouncer
from infra.ops.clients.pgbouncer import PgBouncerAdmin
from infra.ops.clients.postgres import PostgresAdmin
from infra.ops.clients.processes import OpsSettings, Target, everywhere, first_line
from infra.ops.operation import Operation, Paths, Request, operate
from infra.ops.outcome import FailedError, RefusedError
from infra.ops.reloading import reload_observers
from infra.ops.rotation import handshake, pending
from infra.ops.rotation.pairs import (
    CA_FILE,
    FILES,
    Changes,
    Files,
    Pairs,
    due_files,
    restored,
    steps,
)
from infra.ops.rotation.pending import Pending, compiled_values
from infra.ops.rotation.sessions import Sessions, longest_loan, require_all
from infra.ops.waiting import gone, wait_until

WHAT: Final = "certificates"
AGAIN: Final = "not finished; run it again: make rotate-certificates"
# The app looks at its control certificate once a second.
_SHOWN_SECONDS: Final = 10.0
# The host has to start a command or two first.
_SIGNALLED_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.2
# A file that the host makes when it has restarted each etcd, one after the other.
_TRUSTED: Final = ".trusted"
_TRUSTED_SECONDS: Final = 180.0


def rotate(
    settings: OpsSettings,
    paths: Paths,
    source: Path | None,
    request: Request,
    *,
    new_ca: bool,
    due: bool = False,
    env_file: Path | None = None,
) -> int:
    """Rotate; `source` is a directory of pairs that the operator chose. Return the exit code.

    With `due` only if one that was made here is, with its CA where that is. `env_file` counts
    where the record of the last compile is lost.
    """

    def work(operation: Operation) -> None:
        pending.require_space(paths.secrets, request.directory)
        finish_secrets(paths.secrets)
        values, pairs = compiled_values(paths, env_file), Pairs(paths.secrets, source, new_ca)
        pending.require_given(source, FILES)
        try:
            if due:
                renewed, others = due_files(SecretStore(paths.secrets), values)
                for line in others:
                    operation.warn(line)
                if not renewed and pending.unfinished(paths.secrets) is None:
                    CertificateRotation(settings, paths, values, pairs, operation).show_files()
                    return
                pairs = Pairs(paths.secrets, source, new_ca or CA_FILE in renewed)
            CertificateRotation(settings, paths, values, pairs, operation).run()
        except FaultyInputError as faulty:
            raise FaultyInputError(map(pairs.placed, faulty.faults)) from faulty

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
        """Finish or undo what an interrupted run has left; then do what was asked for."""
        rotation = pending.load(self.paths.secrets, WHAT)
        if rotation is not None:
            self.operation.say("going on with a rotation that was not finished")
            if not self._is_usable(rotation):
                self._give_up(rotation)
            else:
                self._go_through(rotation, live=self._is_live(resumed=True))
                if self._is_as_asked(rotation):
                    return
        self._go_through(*self._begun())

    def show_files(self) -> None:
        """Have the servers read their files again where one shows another certificate.

        A start renews the files, and leaves those running that need no new container.
        """
        wanted = _leaves(self._compile({}))
        if self._differing(wanted):
            self.operation.say("a server shows an older certificate than its file holds; reloading")
            reload(self.settings)
            if left := self._await(wanted, _SHOWN_SECONDS):
                raise FailedError("; ".join(left))
        self.operation.ends_as("no certificate is due; every server that runs shows its own")

    def _begun(self) -> tuple[Pending, bool]:
        """Make or take the new pairs, have every step judged, and write both sets down.

        Returns also whether the processes can take them now.

        Raises:
            FaultyInputError: names each certificate that cannot be used; nothing was changed.
            RefusedError: a process does not answer; nothing was changed.

        """
        old, changes = self.pairs.old(), self.pairs.changes()
        for one in expiry(SecretStore(self.paths.secrets)):
            if not one.made_here and changes.get(one.file, b"") is None:
                self.operation.warn(f"{one.file}: was supplied, expires at {one}; made anew here")
        made = self._compile(changes).new_secrets
        new = {file: content for file, content in made.items() if content != old.get(file)}
        for step in steps(old, new, promoted=False):
            self._compile(step)
        live = self._is_live(resumed=False)
        return pending.begin(self.paths.secrets, WHAT, old=old, new=new), live

    def _is_usable(self, rotation: Pending) -> bool:
        """Return False if the new certificates of an interrupted run cannot be used any more."""
        try:
            self._compile(steps(rotation.old, rotation.new, promoted=True)[-1])
        except FaultyInputError as faulty:
            self.operation.warn(f"{faulty.faults[0]}; the unfinished rotation is undone")
            return False
        return True

    def _is_as_asked(self, rotation: Pending) -> bool:
        """Return True if a resumed rotation was the one that is asked for now."""
        return self.pairs.are_in_place() and (not self.pairs.new_ca or CA_FILE in rotation.new)

    def _go_through(self, rotation: Pending, live: bool) -> None:
        """Take each step and read it back, or write the files where no process can take them."""
        self.operation.note(resumed=rotation.resumed)
        with self.operation.ending.shield():
            if live:
                self._serve_through(rotation)
                return
            for step in steps(rotation.old, rotation.new, promoted=True):
                self._write_only(step)
            rotation.forget()
            self.operation.note(secrets=sorted(rotation.new))

    def _is_live(self, *, resumed: bool) -> bool:
        """Return True if every process can take each step now, False if files are all there is.

        Raises:
            RefusedError: a process does not answer, and not because of a certificate.

        """
        self.operation.say("checking that every process can take them")
        try:
            require_all(self.settings)
            with PostgresAdmin(self.settings) as postgres:
                postgres.ping()
        except (RefusedError, psycopg.Error, OSError) as error:
            reason = first_line(error)
            if not resumed and not self._is_down():
                raise RefusedError(reason) from error
            self.operation.warn(
                f"{reason}; the files are written, and the servers that run are signalled"
            )
            return False
        return True

    def _is_down(self) -> bool:
        """Return True if nothing runs, or a certificate keeps the processes from being reached."""
        try:
            self._compile({})
            everyone = handshake.everyone(self.settings)
        except FaultyInputError:
            return True
        except FileNotFoundError as error:
            raise RefusedError(f"{error.filename} is missing; make up writes it") from error
        return not everyone or any(_is_distrusted(shown, self.settings) for shown in everyone)

    def _give_up(self, rotation: Pending) -> None:
        """Put the old certificates back; where they cannot be used either, leave the files."""
        try:
            self._write_only(restored(rotation.old, rotation.new))
        except FaultyInputError as faulty:
            self.operation.warn(f"{faulty.faults[0]}; the old certificates cannot be used either")
        rotation.forget()

    def _write_only(self, step: Changes) -> None:
        """Write the files, and have the host signal the servers that run to read them."""
        compiled = self._written(step)
        if not handshake.everyone(self.settings):
            self.operation.ends_as("the certificates are in the files; nothing runs; make up")
            return
        self.operation.ask_host("reload", "postgres", "pgbouncer")
        left = self._await(_leaves(compiled), _SIGNALLED_SECONDS)
        for line in left:
            self.operation.warn(f"{line}; it takes the files at its start")
        running = "restart those above" if left else "every server that runs shows its own"
        self.operation.ends_as(f"the certificates are in the files; {running}; make up")

    def _serve_through(self, rotation: Pending) -> None:
        promoted = rotation.resumed and self._is_promoted(rotation.new)
        *early, last = steps(rotation.old, rotation.new, promoted=promoted)
        try:
            for step in early or [last]:
                self._take(step)
        except (FailedError, psycopg.Error, OSError) as error:
            raise self._undone(rotation, error) from error
        self._replace_connections()
        if early:
            self._take(last)
        self.operation.note(secrets=sorted(rotation.new))
        self.operation.say("checking the certificate that every server shows, and who trusts it")
        self._prove(rotation)
        rotation.forget()
        for shown in handshake.everyone(self.settings):
            self.operation.done(shown.target.name, "shows a new certificate")
        old = "; nobody trusts the old CA any more" if CA_FILE in rotation.new else ""
        self.operation.ends_as(f"every server shows a new certificate{old}")

    def _is_promoted(self, new: Files) -> bool:
        """Return True if an interrupted run has begun to put new files in the place of old ones."""
        present = self.pairs.old()
        return any(present.get(file) == content for file, content in new.items())

    def _compile(self, changes: Changes) -> Compiled:
        now = datetime.datetime.now(datetime.UTC)
        return compile_values(self.values, self.paths.secrets, now=now, changes=changes)

    def _take(self, step: Changes) -> None:
        """Write the files, reload every server, and wait until each shows its certificate.

        Raises:
            FailedError: names each process that does not.
            OSError: a file cannot be written; nothing of the step was.

        """
        compiled = self._written(step)
        reload(self.settings)
        if patroni.is_replicated(self.settings) and {CA_FILE, ALSO_TRUSTED} & step.keys():
            self._await_trust()
        if differing := self._await(_leaves(compiled), _SHOWN_SECONDS):
            raise FailedError("; ".join(differing))
        self.operation.say("files written; every server has taken them")

    def _await_trust(self) -> None:
        """Have the host give HAProxy and etcd the CA, which no reload of theirs does.

        Raises:
            FailedError: the host does not say that it is done.

        """
        done = self.paths.out / "ops" / _TRUSTED
        done.unlink(missing_ok=True)
        self.operation.ask_host("trust", _TRUSTED)
        if not wait_until(done.exists, seconds=_TRUSTED_SECONDS, every=_POLL_SECONDS):
            raise FailedError("the host did not give HAProxy and etcd the CA")
        done.unlink()

    def _written(self, step: Changes) -> Compiled:
        compiled = self._compile(step)
        gone = {name: b"" for name, content in step.items() if content is None}
        secrets = {**compiled.new_secrets, **gone}
        written = write_all(secrets, self.paths.secrets, compiled.files, self.paths.out)
        reload_observers(self.operation.ask_host, self.values, written)
        return compiled

    def _await(self, wanted: dict[str, bytes], seconds: float) -> list[str]:
        """Wait until every process shows its certificate; return a line for each that does not."""
        return wait_until(
            lambda: self._differing(wanted), gone, seconds=seconds, every=_POLL_SECONDS
        )

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

    def _undone(self, rotation: Pending, error: Exception) -> FailedError:
        """Put the old certificates back; say what came of it."""
        reason = first_line(error)
        if rotation.resumed:
            return FailedError(f"{reason}; {AGAIN}")
        try:
            self._take(restored(rotation.old, rotation.new))
        except (FailedError, FaultyInputError, psycopg.Error, OSError) as second:
            return FailedError(f"{reason}; not put back: {first_line(second)}; {AGAIN}")
        rotation.forget()
        return FailedError(f"{reason}; the old certificates serve")

    def _replace_connections(self) -> None:
        self.operation.say("replacing every connection")
        replicas = pgbouncer.replicas(self.settings)
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


def _is_distrusted(shown: handshake.Shown, settings: OpsSettings) -> bool:
    """Return True if a process shows a certificate that the operator refuses, expired or other."""
    try:
        return not shown.is_trusted_by(Path(settings.values["sslrootcert"]).read_bytes())
    except OSError:
        return False


def reload(settings: OpsSettings) -> None:
    """Have every server read its files again; raise FailedError naming who did not.

    The app needs no telling: trust is read for each connection, the control plane looks
    at its certificate once a second.
    """
    with PostgresAdmin(settings) as postgres:
        if not postgres.reload():
            raise FailedError("postgres did not read its files again; its log says why")
    if failed := patroni.reload(settings):
        raise FailedError("; ".join(failed))

    def tell(target: Target) -> None:
        with PgBouncerAdmin(target, settings) as admin:
            admin.reload()

    answers = everywhere(pgbouncer.replicas(settings), tell)
    if failed := [f"{answer.target}: {answer.error}" for answer in answers if answer.error]:
        raise FailedError("; ".join(failed))


def _leaves(compiled: Compiled) -> dict[str, bytes]:
    """Return the certificate that each server is to show, as DER, by its name among secrets."""
    paths = {"postgres": "postgres/server.crt", "pgbouncer": "pgbouncer/server.crt"}
    paths |= {alias: f"app/{alias}.crt" for alias in names.CONTROL_ALIASES.values()}
    paths |= {"patroni": "postgres/patroni.crt"}
    contents = {file.path: file.content for file in compiled.files}
    return {
        name: x509.load_pem_x509_certificate(contents[path]).public_bytes(Encoding.DER)
        for name, path in paths.items()
        if path in contents
    }
