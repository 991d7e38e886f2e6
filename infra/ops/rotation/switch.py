"""The moment in which new passwords take effect, kept as short as it can be.

PgBouncer knows one password of a role, and so does PostgreSQL: there is no moment in which
both the old and the new would do. So all sessions are open and all files compiled before it.
Within it: ALTER ROLE in a transaction, the files that the app reads, RELOAD, COMMIT, and a
login of every pooled role on every PgBouncer, which teaches it the new key. Connections
stay; an attempt to connect in between fails, and its pool repeats it.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import psycopg

from infra.config import names
from infra.config.build import Compiled
from infra.config.clients import Login
from infra.config.render import Rendered
from infra.config.write import write_files, write_secrets
from infra.ops.clients.pgbouncer import PgBouncerAdmin
from infra.ops.clients.postgres import PostgresAdmin
from infra.ops.clients.processes import OpsSettings, Target, everywhere, first_line
from infra.ops.operation import Paths
from infra.ops.outcome import FailedError
from infra.ops.rotation import logins
from infra.ops.rotation.pending import Pending

T = TypeVar("T")
AGAIN: Final = "not finished; run it again: make rotate-passwords"
# Read at the next connection or request, unlike files that a reload takes over.
_READ_AT_ONCE: Final = (".password", ".token", ".pgpass")
_OPERATOR_FILE: Final = f"{names.OPERATOR}.password"
Admins = dict[Target, PgBouncerAdmin]


class UnknownOutcomeError(FailedError):
    """PostgreSQL has the new passwords or the old ones; running it again gives it the new."""


@dataclass(frozen=True, slots=True)
class Switch:
    """From one set of passwords to another; `places` is where each role logs in.

    `back` compiles the old set, None when it cannot.
    """

    settings: OpsSettings
    paths: Paths
    rotation: Pending
    replicas: tuple[Target, ...]
    places: Mapping[str, Login]
    back: Callable[[], Compiled] | None

    def run(self, compiled: Compiled) -> float:
        """Switch; return the seconds from the first change to the last.

        Raises:
            FailedError: says whether the old passwords are in use or to run it again.

        """
        with ExitStack() as stack:
            try:
                postgres = stack.enter_context(self._opened(PostgresAdmin))
                admins = {
                    target: stack.enter_context(self._opened(_opener(target)))
                    for target in self.replicas
                }
            except psycopg.Error as error:
                raise self._undone(error, {}) from error
            try:
                began = self._change(compiled, postgres, admins)
            except UnknownOutcomeError:
                raise
            except Exception as error:
                raise self._undone(error, admins) from error
        self._teach()
        return time.monotonic() - began

    def _change(self, compiled: Compiled, postgres: PostgresAdmin, admins: Admins) -> float:
        at_once, others = _parted(compiled.files)
        write_secrets(compiled.new_secrets, self.paths.secrets)
        write_files(others, self.paths.out)
        began = time.monotonic()
        is_taken = False

        def take() -> None:
            nonlocal is_taken
            write_files(at_once, self.paths.out)
            _reload(admins)
            is_taken = True

        verifiers = {
            name.removesuffix(".scram"): content.decode("ascii")
            for name, content in compiled.new_secrets.items()
            if name.endswith(".scram")
        }
        try:
            postgres.set_role_passwords(verifiers, before_commit=take)
        except psycopg.Error as error:
            # All that was left was COMMIT, and whether it took effect is not known.
            if is_taken:
                raise UnknownOutcomeError(f"{first_line(error)}; {AGAIN}") from error
            raise
        return began

    def _teach(self) -> None:
        passwords = {
            name.removesuffix(".password"): content.decode("ascii")
            for name, content in self.rotation.new.items()
            if name.endswith(".password")
        }
        try:
            logins.teach(self.settings, self.replicas, passwords, self.places)
        except FailedError as error:
            raise FailedError(f"{error}; {AGAIN}") from error

    def _opened(self, connect: Callable[[OpsSettings], T]) -> T:
        """Log the operator in with whichever password counts: an interrupted run leaves both."""
        files = (self.rotation.new_file(_OPERATOR_FILE), self.rotation.old_file(_OPERATOR_FILE))
        others = [logins.with_operator_password(self.settings, file) for file in files]
        return logins.first_that_works((self.settings, *others), connect)

    def _undone(self, error: Exception, admins: Admins) -> FailedError:
        """Put the old passwords back where PostgreSQL never had others; say what came of it."""
        reason = first_line(error)
        if self.back is None:
            return FailedError(f"{reason}; {AGAIN}")
        try:
            old = self.back()
            write_secrets(self.rotation.old, self.paths.secrets)
            write_files(old.files, self.paths.out)
            _reload(admins)
        except Exception as second:
            return FailedError(f"{reason}; {first_line(second)}; {AGAIN}")
        self.rotation.forget()
        return FailedError(f"{reason}; the old passwords are in use")


def _opener(target: Target) -> Callable[[OpsSettings], PgBouncerAdmin]:
    return lambda settings: PgBouncerAdmin(target, settings)


def _reload(admins: Admins) -> None:
    answers = everywhere(admins, lambda target: admins[target].reload())
    # `reload` returns nothing, so an answer has no value, only perhaps an error.
    failed = [answer for answer in answers if answer.error]
    if failed:
        raise FailedError("; ".join(f"{answer.target}: {answer.error}" for answer in failed))


def _parted(files: Iterable[Rendered]) -> tuple[list[Rendered], list[Rendered]]:
    """Return the files that count as soon as they are there, and all others."""
    at_once = [file for file in files if Path(file.path).suffix in _READ_AT_ONCE]
    return at_once, [file for file in files if file not in at_once]
