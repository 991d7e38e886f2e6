"""The fixed login roles of the stack and the limits each is created with."""

from dataclasses import dataclass, field

from infra.compiler import connections
from infra.compiler.knobs import Values

OWNER = "risk_owner"
API = "risk_api"
WORKER = "risk_worker"
MONITOR = "sluice_monitor"
OPERATOR = "sluice_operator"
LOGIN_ROLES = (OWNER, API, WORKER, MONITOR, OPERATOR)
# Those that PgBouncer lets in; the owner is direct only.
POOLED_ROLES = (API, WORKER, MONITOR, OPERATOR)


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
    """Return every login role with its limits, in the order of LOGIN_ROLES."""
    limits = connections.role_limits(values)
    timeouts = {
        OWNER: _OWNER_TIMEOUTS,
        API: _from_knobs(values, "API"),
        WORKER: _from_knobs(values, "WORKER"),
        MONITOR: _MONITOR_TIMEOUTS,
        OPERATOR: _OPERATOR_TIMEOUTS,
    }
    return tuple(Role(name, verifiers[name], limits[name], timeouts[name]) for name in LOGIN_ROLES)


def _from_knobs(values: Values, path: str) -> Timeouts:
    return Timeouts(
        values.integer(f"{path}_LOCK_TIMEOUT_MS"),
        values.integer(f"{path}_STATEMENT_TIMEOUT_MS"),
        values.integer(f"{path}_IDLE_IN_TRANSACTION_TIMEOUT_MS"),
        values.integer(f"{path}_TRANSACTION_TIMEOUT_MS"),
    )
