"""The login roles of the stack and the limits each is created with."""

from dataclasses import dataclass, field

from infra.config import names, sizing
from infra.config.names import Client
from infra.config.settings import Values


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of one role in milliseconds; 0 is none."""

    lock: int
    statement: int
    idle_in_transaction: int
    transaction: int


@dataclass(frozen=True, slots=True)
class Role:
    """One login role as roles.sql makes it; the verifier is a secret's digest."""

    name: str
    verifier: str = field(repr=False)
    connection_limit: int
    timeouts: Timeouts


# Migrations and loads run for minutes but must not queue behind a lock for long: everybody
# else would queue behind them.
_OWNER_TIMEOUTS = Timeouts(10_000, 0, 60_000, 0)
# A health check that takes longer has failed.
_MONITOR_TIMEOUTS = Timeouts(500, 2000, 3000, 5000)
# Operator commands look and signal; CHECKPOINT is the longest of them.
_OPERATOR_TIMEOUTS = Timeouts(2000, 60_000, 70_000, 80_000)


def login_roles(values: Values, verifiers: dict[str, str]) -> tuple[Role, ...]:
    """Return every login role with its limits, in the order of names.LOGIN_ROLES."""
    limits = sizing.role_limits(values)
    timeouts = {
        names.OWNER: _OWNER_TIMEOUTS,
        names.MONITOR: _MONITOR_TIMEOUTS,
        names.OPERATOR: _OPERATOR_TIMEOUTS,
    } | {client.role: _of_client(values, client) for client in names.CLIENTS}
    return tuple(
        Role(name, verifiers[name], limits[name], timeouts[name]) for name in names.LOGIN_ROLES
    )


def _of_client(values: Values, client: Client) -> Timeouts:
    return Timeouts(
        values.integer(client.lock_timeout),
        values.integer(client.statement_timeout),
        values.integer(client.idle_in_transaction_timeout),
        values.integer(client.transaction_timeout),
    )
