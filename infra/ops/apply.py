"""The command `apply`: apply the env file to the running stack, checked first, in steps, read back.

What cannot be done live is left as it is, in the compiled files too, so that a container that
restarts by itself comes back as the budget expects it.
"""

import datetime
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from infra.config import clients, names
from infra.config.build import Compiled, compile_values
from infra.config.faults import FaultyInputError
from infra.config.secrets import SecretStore
from infra.config.settings import Values
from infra.config.write import write_all, write_secrets
from infra.ops import outside, plan, plan_view, running
from infra.ops.clients import app_control, pgbouncer
from infra.ops.clients.pgbouncer import PgBouncerAdmin
from infra.ops.clients.processes import OpsSettings, first_line
from infra.ops.operation import EndedBySignalError, Operation, Paths, Request, operate
from infra.ops.outcome import Exit, plain_console
from infra.ops.plan import LivePart, Plan, Step
from infra.ops.reloading import Reloader, StepError, reload_observers
from infra.ops.rotation import pending
from infra.ops.running import Deviation, Running
from infra.ops.waiting import wait_until

OLD_RUNS: Final = "nothing was changed: the old configuration is in the files and running"
_THIS_CHANGED_NOTHING: Final = "this command changed nothing"
_NOT_CERTAIN: Final = "how far it came is not certain; run it again: make apply"
_NOTHING_COMPILED: Final = "nothing was compiled yet; `make up` compiles and starts"
# Of what an interrupted run has left: a container that must start, and a process that is about to.
_START_SECONDS: Final = 60.0
_ANSWER_SECONDS: Final = 15.0
# After a reload every process has its values at once, or never.
_READ_BACK_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.5
_SLACK_SECONDS: Final = 5.0


def run(
    env_file: Path,
    settings: Path,
    paths: Paths,
    request: Request,
    *,
    prepare_restart: bool = False,
) -> int:
    """Apply the env file; print plan, steps and outcome; return the exit code.

    `settings` is ops.json. Whatever is refused leaves files and processes as they are. With
    `prepare_restart` the files are left as the env file wants them, ready for the restarts that
    the host is asked for.
    """
    console = plain_console(stderr=request.as_json)

    def planned() -> Plan:
        compiled = paths.out / "ops" / "compiled.json"
        return plan.make(env_file, compiled, settings, paths.secrets, out=paths.out)

    def work(operation: Operation) -> None:
        operation.ends_as(OLD_RUNS)
        judged = outside.let_in(planned(), planned, operation)
        if prepare_restart:
            judged = _taken_over(judged, planned, operation)
        operation.note(plan=plan_view.as_dict(judged))
        if judged.faults:
            operation.fail(Exit.BAD_INPUT, *map(str, judged.faults))
        elif judged.before is None or not settings.exists():
            operation.fail(Exit.REFUSED, _NOTHING_COMPILED)
        else:
            plan_view.print_plan(judged, console)
            read = OpsSettings.read(settings)
            Apply(judged, judged.before, read, paths, operation).run(prepare_restart)

    return operate(
        request,
        "apply",
        work,
        progress=console,
        state=_THIS_CHANGED_NOTHING,
        waiting=[],
        held=[],
        restart=[],
        recreate=[],
        deviations=[],
        plan=None,
    )


def _taken_over(judged: Plan, planned: Callable[[], Plan], operation: Operation) -> Plan:
    """Return the plan once every process answers, or after a while; have what is missing started.

    An interrupted run can leave less than was compiled, for which the budget was made live.
    """
    if not (judged.before and judged.running and judged.before.silent()):
        return judged
    missing = judged.before.missing()
    if missing:
        operation.ask_host("start", *(f"{tier}={count}" for tier, count in missing.items()))
    return wait_until(
        planned,
        lambda one: not (one.before and one.before.silent()),
        seconds=_START_SECONDS if missing else _ANSWER_SECONDS,
        every=_POLL_SECONDS,
    )


class Apply:
    """One apply of a plan without faults to what ran `before`, under the operation lock."""

    def __init__(
        self,
        judged: Plan,
        before: Running,
        settings: OpsSettings,
        paths: Paths,
        operation: Operation,
    ) -> None:
        self._wanted = judged.values
        self._settings = settings
        self._paths = paths
        self._operation = operation
        self._begin_from(before)

    def _begin_from(self, found: Running) -> None:
        self._running = found
        self._before = found.values
        self._part: LivePart = plan.live_part(self._before, self._wanted)

    def run(self, prepare_restart: bool) -> None:
        """Do all that is live and read it back.

        Raises:
            FaultyInputError: a secret, or what was to be compiled, is at fault.

        """
        if refusal := self._refusal():
            self._operation.fail(Exit.FAILED, *refusal)
            return
        for line in self._running.not_up():
            self._operation.warn(line)
        self._put_roles_back()
        final = self._compile(self._part.values)
        self._compile(self._wanted)
        if changed := _changed_passwords(final, clients.logins(self._before)):
            self._operation.fail(Exit.REFUSED, *changed)
            return
        self._operation.ends_as(_NOT_CERTAIN)
        write_secrets(final.new_secrets, self._paths.secrets)
        try:
            self._go_through()
        except (StepError, OSError, EndedBySignalError) as problem:
            self._undo(problem)
            return
        self._tell_of_databases()
        self._settings = _told(self._settings, final)
        self._operation.ends_as("the new configuration is applied but was not read back")
        found, deviations = self._read_back()
        if not found.faults():
            found = self._put_sessions_back(found)
            deviations = found.deviations(self._part.values)
        self._judge(found, deviations, prepare_restart=prepare_restart)

    def _refusal(self) -> list[str]:
        if self._running.nothing_runs:
            return ["no process has an address: nothing runs; `make up` compiles and starts"]
        if what := pending.unfinished(self._paths.secrets):
            return [f"a rotation of {what} is not finished; run it again: make rotate-{what}"]
        return self._running.faults() or self._connected()

    def _connected(self) -> list[str]:
        """Return a line for each client to be retired that is connected; it would be cut off."""
        retired = sorted(set(clients.given(self._before)) - set(clients.given(self._wanted)))
        counts: Counter[str] = Counter()
        for replica in pgbouncer.replicas(self._settings) if retired else ():
            with PgBouncerAdmin(replica, self._settings) as admin:
                counts.update(row["database"] for row in admin.show("CLIENTS"))
        open_ones = {name: counts[name] + counts[name + names.STANDBY_SUFFIX] for name in retired}
        return [
            f"{clients.file(name)} is gone, and {count} connections of {name} are open; "
            "stop the application first"
            for name, count in open_ones.items()
            if count
        ]

    def _tell_of_databases(self) -> None:
        """Say of each client that is no more how its database, which is kept, can be dropped."""
        present = {database.name for database in clients.databases(self._part.values)}
        for database in clients.databases(self._before):
            if database.name not in present:
                self._operation.show(
                    f"the database {database.name} is kept; to drop it: make psql, then "
                    f'DROP DATABASE "{database.name}"; DROP ROLE "{database.owner}", '
                    + ", ".join(f'"{role}"' for role in database.users)
                )

    def _put_roles_back(self) -> None:
        """Put back what was set outside on roles; the steps begin with what then runs."""
        found = outside.put_roles_back(self._running, self._look, self._reloader(), self._operation)
        if found:
            self._begin_from(found)

    def _put_sessions_back(self, found: Running) -> Running:
        """Put back what clients have SET in server connections; return what then runs."""
        store, reloader = SecretStore(self._paths.secrets), self._reloader()
        return outside.put_sessions_back(
            found, self._settings, self._part.values, store, reloader, self._operation
        )

    def _go_through(self) -> None:
        reloader = self._reloader()
        for step in plan.steps(self._before, self._part.values):
            self._take(step, reloader)

    def _take(self, step: Step, reloader: Reloader) -> None:
        self._write(step.values)
        if step.downwards:
            reloader.downwards(step.values)
        else:
            reloader.upwards(step.values)

    def _reloader(self) -> Reloader:
        # The longest that a connection can stay lent, a query run, or a session stay open.
        names = ("API_REQUEST_DEADLINE_SECONDS", "WORKER_BATCH_DEADLINE_SECONDS")
        longest = max(float(self._before.number(name)) for name in names)
        control = app_control.connect(self._settings)
        return Reloader(
            self._settings,
            control,
            self._paths.out,
            longest + _SLACK_SECONDS,
            self._operation.say,
            self._operation.ask_host,
        )

    def _compile(self, values: Values) -> Compiled:
        now = datetime.datetime.now(datetime.UTC)
        return compile_values(values, self._paths.secrets, now=now)

    def _write(self, values: Values) -> None:
        compiled = self._compile(values)
        # More than what is live may take secrets of its own.
        written = write_all(
            compiled.new_secrets, self._paths.secrets, compiled.files, self._paths.out
        )
        self._operation.say(f"files: {len(written)} written")
        reload_observers(self._operation.ask_host, self._before, written)

    def _undo(self, problem: BaseException) -> None:
        """Put the old configuration back, in the files and on every process that answers."""
        lines = _reasons(problem)
        self._operation.say("a step failed; going back to the old configuration")
        try:
            lines += [line for line in self._back() if line not in lines]
        except (OSError, FaultyInputError) as error:
            self._operation.ends_as(f"the old files could not be put back: {first_line(error)}")
        else:
            found = self._look()
            deviations = found.deviations(self._before)
            self._note_deviations(deviations)
            self._operation.ends_as(_state_after(found, deviations))
        self._operation.fail(Exit.FAILED, *lines)

    def _back(self) -> list[str]:
        """Shrink what has grown, then grow what has shrunk; return what did not go along."""
        reloader = self._reloader()
        low = plan.smaller(self._before, self._part.values)
        self._write(low)
        down = (reloader.app, reloader.pgbouncer, reloader.postgres)
        lines = [line for tier in down for line in _attempt(tier, low)]
        self._write(self._before)
        return lines + [line for tier in reversed(down) for line in _attempt(tier, self._before)]

    def _look(self) -> Running:
        return running.look(self._settings).expecting(self._wanted)

    def _read_back(self) -> tuple[Running, tuple[Deviation, ...]]:
        """Return what runs, and how it differs from what is live of the plan, once it settles."""

        def look() -> tuple[Running, tuple[Deviation, ...]]:
            found = self._look()
            return found, found.deviations(self._part.values)

        def settled(seen: tuple[Running, tuple[Deviation, ...]]) -> bool:
            found, deviations = seen
            return not found.faults() and all(one.needs_restart for one in deviations)

        return wait_until(look, settled, seconds=_READ_BACK_SECONDS, every=0.0)

    def _judge(
        self, found: Running, deviations: tuple[Deviation, ...], *, prepare_restart: bool
    ) -> None:
        waiting, held = self._part.waiting, self._part.held
        differing = {one.process for one in deviations if one.needs_restart}
        tiers = {one.tier for one in found.processes if one.name in differing}
        restart, recreate = plan.tiers_to_restart(waiting, tiers)
        self._operation.note(
            waiting=list(waiting), held=list(held), restart=list(restart), recreate=list(recreate)
        )
        self._note_deviations(deviations)
        if restart:
            self._operation.show(f"needs a restart of: {', '.join(restart)}")
        if recreate:
            self._operation.show(f"needs new containers of: {', '.join(recreate)}")
        if held:
            shown = ", ".join(clients.shortened(held))
            self._operation.show(f"held back until then: {shown}")
        wrong = found.faults() + [str(one) for one in deviations if not one.needs_restart]
        if wrong:
            self._operation.fail(Exit.FAILED, *wrong)
            self._operation.ends_as("the new configuration is in the files")
        elif not (waiting or held or deviations):
            which = " that is up" if found.not_up() else ""
            self._operation.ends_as(f"applied on every process{which}, read back")
        else:
            self._operation.show("make apply RESTART=yes does the rest, with restarts")
            if prepare_restart:
                # Asked first: what is written waits no more, so another run would not ask again.
                self._ask_for("restart", restart)
                self._ask_for("recreate", recreate)
                self._write(self._wanted)
            self._operation.fail(Exit.NEEDS_RESTART)
            self._operation.ends_as("what is live is applied; the rest waits")

    def _note_deviations(self, deviations: tuple[Deviation, ...]) -> None:
        self._operation.note(deviations=[one.as_dict() for one in deviations])
        for one in deviations:
            if one.needs_restart:
                self._operation.show(str(one))

    def _ask_for(self, step: str, tiers: tuple[str, ...]) -> None:
        """Name the containers for the script on the host that has them restarted."""
        if tiers:
            self._operation.ask_host(step, *tiers)


def _told(settings: OpsSettings, compiled: Compiled) -> OpsSettings:
    """Return the settings with those that were compiled: what new roles were issued, for one."""
    (file,) = (one for one in compiled.files if one.path == "ops/ops.json")
    return replace(settings, values=json.loads(file.content))


def _reasons(problem: BaseException) -> list[str]:
    if isinstance(problem, StepError):
        return list(problem.lines)
    ended = "ended by " if isinstance(problem, EndedBySignalError) else ""
    return [f"{ended}{first_line(problem)}"]


def _attempt(tier: Callable[[Values], None], values: Values) -> list[str]:
    try:
        tier(values)
    except StepError as problem:
        return list(problem.lines)
    return []


def _changed_passwords(compiled: Compiled, roles: Iterable[str]) -> list[str]:
    """Return a line for each password of these roles that is not the one that PostgreSQL has.

    A verifier is made anew only when its password is another; PostgreSQL has the old one.
    """
    names = sorted(f"{role}.scram" for role in roles if f"{role}.scram" in compiled.new_secrets)
    return [
        f"{name.removesuffix('.scram')}.password is not the password that PostgreSQL has; "
        "apply changes no password; make it take effect: make rotate-passwords"
        for name in names
    ]


def _state_after(found: Running, deviations: tuple[Deviation, ...]) -> str:
    live = [one for one in deviations if not one.needs_restart]
    if not live and not found.faults():
        return "the old configuration is back, in the files and on every process"
    silent = [*found.faults(), *(str(one) for one in live)]
    return (
        "the old configuration is back in the files and on every process that answers; "
        f"not certain: {'; '.join(silent)}"
    )
