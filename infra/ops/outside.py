"""What was set outside the env file, by a session that may: found by its effect, and put back.

A role that was given a password, an attribute or a setting has the right one in roles.sql, which
the superuser runs. A pooled server connection that keeps what a client SET is replaced.
"""

from collections.abc import Callable
from dataclasses import replace

from infra.config import clients, names, sizing
from infra.config.secrets import SecretStore
from infra.config.settings import Values
from infra.ops import running
from infra.ops.clients.pooled import Login
from infra.ops.clients.postgres import is_login_refusal
from infra.ops.clients.processes import OpsSettings
from infra.ops.operation import Operation
from infra.ops.outcome import FailedError
from infra.ops.plan import Plan
from infra.ops.reloading import GIVE_ROLES, ROLES_SECONDS, Reloader, is_set_live
from infra.ops.running import Deviation, Running
from infra.ops.waiting import wait_until

_POLL_SECONDS = 0.5


def let_in(judged: Plan, planned: Callable[[], Plan], operation: Operation) -> Plan:
    """Return the plan once PostgreSQL takes the operator's password; have roles.sql run where not.

    What roles.sql says of the operator itself is what the files say that it logs in with.
    """

    def refused(one: Plan) -> list[str]:
        return (
            [line for line in one.before.faults() if is_login_refusal(line)] if one.before else []
        )

    if not (lines := refused(judged)):
        return judged
    for line in lines:
        operation.say(f"{line}; it was set outside, and is put back")
    operation.ask_host(GIVE_ROLES)
    return wait_until(
        planned, lambda one: not refused(one), seconds=ROLES_SECONDS, every=_POLL_SECONDS
    )


def put_roles_back(
    before: Running, look: Callable[[], Running], reloader: Reloader, operation: Operation
) -> Running | None:
    """Have the superuser run roles.sql where a role is not as it was compiled.

    Not for what changes live in the steps. Returns what runs afterwards, None where nothing was
    set outside.

    Raises:
        FailedError: a role still differs; names what does.

    """

    def outside(found: Running) -> list[Deviation]:
        return [
            one
            for one in found.deviations(before.compiled)
            if one.setting.startswith("roles.")
            and not (one.needs_restart or is_set_live(one.setting))
        ]

    def left(found: Running) -> list[str]:
        return [*found.faults(), *(str(one) for one in outside(found))]

    if not (wrong := outside(before)):
        return None
    for one in wrong:
        operation.say(f"put back: {one}; set outside: {one.cause}")
    # Sessions keep the settings that they began with.
    reloader.mark_sessions()
    operation.ends_as("roles are not as compiled; all else is as it was")
    operation.ask_host(GIVE_ROLES)
    found = wait_until(
        lambda: replace(look(), recorded=before.recorded),
        lambda one: not left(one),
        seconds=ROLES_SECONDS,
        every=_POLL_SECONDS,
    )
    if lines := left(found):
        raise FailedError(f"{'; '.join(lines)}; the superuser puts it back by: make apply")
    return found


def put_sessions_back(
    found: Running,
    settings: OpsSettings,
    values: Values,
    store: SecretStore,
    reloader: Reloader,
    operation: Operation,
) -> Running:
    """Look into the server connections too; replace them where one keeps what a client SET.

    What cannot be looked at is a warning: no other session can tell.
    """
    logins = tuple(
        Login(pool.entry, pool.user, (store.read(f"{pool.user}.password") or b"").decode("ascii"))
        for pool in sizing.pools(values)
        # In session mode a connection that another client has cannot be looked into.
        # On a standby nothing can be put back, and no write relies on what is set there.
        if pool.user != names.MONITOR and pool.mode != clients.SESSION and not pool.is_standby
    )

    def look() -> Running:
        seen, unknown = running.with_sessions(found, settings, logins)
        for line in unknown:
            operation.warn(line)
        return seen

    seen = look()
    kept = [one for one in seen.deviations(values) if one.setting.startswith("sessions.")]
    if not kept:
        return seen
    for one in kept:
        operation.say(f"put back: {one}; set outside: {one.cause}")
    reloader.reconnect()
    return look()
