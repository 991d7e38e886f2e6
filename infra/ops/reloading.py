"""Make each tier take what was compiled, live, and wait until it has let go of the rest."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from infra.config import clients, names, observability, roles, sizing
from infra.config.settings import Values
from infra.ops.clients import app_control, patroni, pgbouncer
from infra.ops.clients.app_control import Control, ProcessState
from infra.ops.clients.pgbouncer import PgBouncerAdmin
from infra.ops.clients.postgres import PostgresAdmin
from infra.ops.clients.processes import Answer, OpsSettings, Target, everywhere, first_line
from infra.ops.outcome import FailedError
from infra.ops.process_settings import expected, fact
from infra.ops.waiting import gone, wait_until

T = TypeVar("T")
# There while sessions may still have the role settings of before; outlives a killed command.
_RECONNECT_MARK: Final = "reconnect.pending"
_POLL_SECONDS: Final = 0.1
# So long logins may fail over a new way to PostgreSQL before it counts as wrong.
_PASS_SECONDS: Final = 5.0
# The host has to start a command or two before the superuser has run roles.sql.
GIVE_ROLES: Final = "give-roles"
ROLES_SECONDS: Final = 60.0
# What the operator sets live; all else of a role is roles.sql's alone.
_LIVE_OF_ROLE: Final = ("connection_limit", *roles.TIMEOUTS)


def is_set_live(fact: str) -> bool:
    """Return True of what the operator sets of a role; it cannot alter itself."""
    kind, role, name = (*fact.split(".", 2), "", "")[:3]
    return kind == "roles" and role != names.OPERATOR and name in _LIVE_OF_ROLE


def reload_observers(ask_host: Callable[..., None], values: Values, written: Iterable[str]) -> None:
    """Ask the host to have Prometheus and Alertmanager read what was written, where they run.

    `written` are paths below the directory of the compiled files.
    """
    theirs = [path for path in written if path.startswith("observability/")]
    # A password file is read at each login, and here always counts as new: it cannot be read.
    if observability.is_on(values) and any(path.endswith(".yml") for path in theirs):
        ask_host("reload", "prometheus", "alertmanager")


class StepError(FailedError):
    """A tier did not take the step; one line for each process that did not."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


@dataclass(frozen=True, slots=True)
class Reloader:
    """Reloads the tiers one by one. `out` is where the compiled files are."""

    settings: OpsSettings
    control: Control
    out: Path
    wait_seconds: float
    say: Callable[[str], None]
    ask_host: Callable[[str], None]

    def downwards(self, values: Values) -> None:
        """Reload app, PgBouncer, PostgreSQL; each has let go before the next gets smaller."""
        self.app(values)
        self.pgbouncer(values)
        self.postgres(values)

    def upwards(self, values: Values) -> None:
        """Reload PostgreSQL, PgBouncer, app; each can carry more before anything above grows."""
        self.postgres(values)
        self.pgbouncer(values)
        self.app(values)

    def app(self, values: Values) -> None:
        """Reload every api and worker, and wait until no pool is larger than it may be."""
        started = time.monotonic()
        targets = self.control.targets()
        answers = everywhere(targets, self.control.reload)
        for one in app_control.not_up(answers):
            self.say(f"{one.target}: {one.error}; it reads the new file when it comes up")
        _require(_up(answers))
        over = self._waited(lambda: self._too_large(targets, values))
        if over:
            raise StepError(over)
        self._done("app", len(targets), started)

    def _too_large(self, targets: tuple[Target, ...], values: Values) -> list[str]:
        answers = everywhere(targets, self.control.state)
        states: list[ProcessState] = _require(_up(answers))
        limits = {one.service: values.integer(one.pool_max_size) for one in names.SERVICES}
        return [
            f"{one.target}: its pool still has {one.pool.size} connections, "
            f"{limits[one.service]} are allowed; it did not shrink within {self.wait_seconds:g} s"
            for one in states
            if one.pool.size > limits[one.service]
        ]

    def pgbouncer(self, values: Values) -> None:
        """Reload every replica; wait until surplus connections are closed and a query passes.

        The query, because nothing else shows that logins work with what was reloaded.
        """
        started = time.monotonic()
        limits = {pool.entry: pool.limit for pool in sizing.pools(values)}

        def reload(target: Target) -> None:
            with PgBouncerAdmin(target, self.settings) as admin:
                admin.reload()
                over = admin.wait_servers_at_most(limits, seconds=self.wait_seconds)
            if over:
                raise StepError([_still_open(over, limits, self.wait_seconds)])

        replicas = pgbouncer.replicas(self.settings)
        _require(everywhere(replicas, reload), empty=True)
        try:
            pgbouncer.await_all(self.settings, len(replicas), seconds=_PASS_SECONDS)
        except FailedError as error:
            raise StepError([str(error)]) from error
        self._done("pgbouncer", len(replicas), started)

    def postgres(self, values: Values) -> None:
        """Have the server read its files, then set the limits and timeouts of the roles."""
        started = time.monotonic()
        host = self.settings.values["postgres"]["host"]
        try:
            with PostgresAdmin(self.settings) as admin:
                self._make_roles(admin, values)
                if not admin.reload():
                    raise StepError(_not_reloaded(host, admin))
                for line in patroni.reload(self.settings):
                    self.say(f"{line}; it reads its files at its start")
                new_timeouts = self._set_roles(admin, values)
        except StepError:
            raise
        except Exception as error:
            raise StepError([f"{host}: {first_line(error)}"]) from error
        self._done("postgres", 1, started)
        if new_timeouts or self._mark.exists():
            self.reconnect()

    def _make_roles(self, admin: PostgresAdmin, values: Values) -> None:
        """Have the host's superuser run roles.sql where a client has come or gone.

        Only it makes roles, databases and grants, and the operator a member of their roles.
        """
        wanted = {
            (role, database.name)
            for database in clients.databases(values)
            for role in (database.owner, *database.users)
        }
        member_of = f"roles.{names.OPERATOR}.member_of"

        def lacking() -> list[str]:
            missing = sorted(wanted - admin.may_connect())
            operator = admin.roles([names.OPERATOR])[names.OPERATOR]
            is_member = fact(operator.attributes["member_of"])
            differs = is_member != expected(values)["postgres"][member_of]
            return [
                *(f"{role} may not connect to {database}" for role, database in missing),
                *([f"{names.OPERATOR} is a member of {is_member}"] if differs else []),
            ]

        if not lacking():
            return
        self.ask_host(GIVE_ROLES)
        if left := wait_until(lacking, gone, seconds=ROLES_SECONDS, every=_POLL_SECONDS):
            raise StepError([f"postgres: {line}" for line in left])

    def _set_roles(self, admin: PostgresAdmin, values: Values) -> bool:
        """Set what differs; return True if open sessions have other timeouts than new ones now.

        The operator cannot alter itself; its limit and timeouts come with a restart.
        """
        wanted = expected(values)["postgres"]
        new_timeouts = False
        ours = [role for role in clients.logins(values) if role != names.OPERATOR]
        for role in admin.roles(ours).values():
            limit = int(wanted[f"roles.{role.name}.connection_limit"])
            if role.connection_limit != limit:
                self._await_sessions(admin, role.name, limit)
                admin.set_role_limit(role.name, limit)
            for name in roles.TIMEOUTS:
                text = f"{wanted[f'roles.{role.name}.{name}']}ms"
                if role.settings.get(name) != text:
                    self.mark_sessions()
                    admin.set_role_setting(role.name, name, text)
                    new_timeouts = True
        return new_timeouts

    def _await_sessions(self, admin: PostgresAdmin, role: str, limit: int) -> None:
        """Wait until a role has no more sessions than its new limit.

        PgBouncer closes a connection a moment before its backend has ended.
        """

        def too_many() -> int:
            count = admin.sessions().get(role, 0)
            return count if count > limit else 0

        if count := self._waited(too_many):
            raise StepError([f"postgres: {role} still has {count} sessions, not {limit}"])

    def _waited(self, left: Callable[[], T]) -> T:
        return wait_until(left, gone, seconds=self.wait_seconds, every=_POLL_SECONDS)

    def mark_sessions(self) -> None:
        """Have server connections replaced, before a role's settings change.

        Marked first: whoever finds the mark reconnects, needed or not.
        """
        self._mark.touch()

    def reconnect(self) -> None:
        """Replace the server connections: a role's settings hold for new sessions only.

        One replica after the other, so that the rest serve meanwhile.
        """
        started = time.monotonic()
        replicas = pgbouncer.replicas(self.settings)
        for replica in replicas:
            _require(everywhere([replica], self._replace_servers), empty=True)
        self._mark.unlink(missing_ok=True)
        self._done("pgbouncer (server connections replaced)", len(replicas), started)

    def _replace_servers(self, target: Target) -> None:
        with PgBouncerAdmin(target, self.settings) as admin:
            old = admin.replace_servers(seconds=self.wait_seconds)
        if old:
            entries = sorted({row["database"] for row in old})
            raise StepError(
                [f"{len(old)} server connections of {', '.join(entries)} are busy since"]
            )

    @property
    def _mark(self) -> Path:
        return self.out / "ops" / _RECONNECT_MARK

    def _done(self, tier: str, count: int, started: float) -> None:
        taken = time.monotonic() - started
        self.say(f"{tier}: {count} process{'es' if count != 1 else ''}, {taken:.1f} s")


def _up(answers: tuple[Answer[T], ...]) -> tuple[Answer[T], ...]:
    not_up = app_control.not_up(answers)
    return tuple(one for one in answers if one not in not_up)


def _require(answers: tuple[Answer[Any], ...], *, empty: bool = False) -> list[Any]:
    """Return every value; raise StepError that names each process that failed."""
    failed = [f"{answer.target}: {answer.error}" for answer in answers if not answer.ok]
    if failed:
        raise StepError(failed)
    return [] if empty else [answer.get() for answer in answers]


def _not_reloaded(host: str, admin: PostgresAdmin) -> list[str]:
    faults = admin.file_faults()
    lines = [f"{host}: {name}: {error}" for name, error in faults.items()]
    return lines or [f"{host}: did not read its files again; its log says why"]


def _still_open(over: dict[str, int], limits: dict[str, int], seconds: float) -> str:
    parts = [f"{name} {count} of {limits[name]}" for name, count in over.items()]
    return f"more server connections than allowed after {seconds:g} s: {', '.join(parts)}"
