"""The rules about times: what must end first, and what must outlast what.

Each rule is one function that yields a message for every breach; rules.py judges by them.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Final

from infra.config import clients
from infra.config.names import SERVICES
from infra.config.settings import UnavailableError, Values

Rule = Callable[[Values], Iterator[str]]
_FIRST: Final = "the shorter timeout must end it first"


def shown(values: Values, *names: str) -> str:
    """Return `NAME=value` for every name; one that the file does not give says so."""
    return ", ".join(
        f"{name}={values[name]}{' (derived)' if name in values.derived else ''}" for name in names
    )


def at_most(values: Values, low: str, high: str, reason: str) -> Iterator[str]:
    """Yield a breach when setting `low` exceeds setting `high`; both count the same thing."""
    if _available(values, low, high) and values.number(low) > values.number(high):
        yield f"{shown(values, low)} exceeds {shown(values, high)}; {reason}"


def shorter(values: Values, low: str, high: str, reason: str) -> Iterator[str]:
    """Yield a breach when the time `low` is not below the time `high`."""
    if _available(values, low, high) and values.seconds(low) >= values.seconds(high):
        yield f"{shown(values, low)} must be below {shown(values, high)}; {reason}"


def not_longer(values: Values, low: str, high: str, reason: str) -> Iterator[str]:
    """Yield a breach when the time `low` exceeds the time `high`."""
    if _available(values, low, high) and values.seconds(low) > values.seconds(high):
        yield f"{shown(values, low)} exceeds {shown(values, high)}; {reason}"


def _available(values: Values, *names: str) -> bool:
    """Return True if every setting has a value: one bad setting must not hide the other pairs."""
    try:
        return all(values[name] is not None for name in names)
    except UnavailableError:
        return False


def ordered_timeouts(values: Values) -> Iterator[str]:
    """Rule 4: lock < statement < idle in transaction < transaction < query < deadline."""
    for service in SERVICES:
        for low, high in pairwise(service.timeouts):
            yield from shorter(values, low, high, _FIRST)
    for client in clients.applications(values):
        for low, high in pairwise(client.limits):
            yield from shorter(values, low, high, _FIRST)


def pool_waits(values: Values) -> Iterator[str]:
    """Rule 4: waiting for a connection leaves time for an answer."""
    for service in SERVICES:
        reason = "nothing would be left of the deadline"
        yield from shorter(values, service.pool_timeout, service.deadline, reason)


def queue_and_statement(values: Values) -> Iterator[str]:
    """Rule 4: a query that was queued to the last moment still finishes in time."""
    usual = "PGBOUNCER_QUERY_WAIT_TIMEOUT_SECONDS"
    for service in SERVICES:
        statement, deadline = service.statement_timeout, service.deadline
        own = service.query_wait_timeout
        queue = own if own and values.integer(own) else usual
        total = values.seconds(queue) + values.seconds(statement)
        if total >= values.seconds(deadline):
            yield (
                f"{shown(values, queue)} + {shown(values, statement)} = {total.normalize():f} s "
                f"must be below {shown(values, deadline)}; a queued query would outlive it"
            )


def retries_and_leaks(values: Values) -> Iterator[str]:
    """Retries end, and a leak is reported, no later than the deadline."""
    for service in SERVICES:
        budget, leak, deadline = service.retry_budget, service.leak_threshold, service.deadline
        yield from not_longer(values, budget, deadline, "retries must end with the deadline")
        yield from not_longer(values, leak, deadline, "a leak must show before the deadline")


def leases(values: Values) -> Iterator[str]:
    """Check that a batch and its transaction end before its lease does."""
    reason = "another worker would take a task that is still being worked on"
    lease = "WORKER_LEASE_SECONDS"
    yield from shorter(values, "WORKER_BATCH_DEADLINE_SECONDS", lease, reason)
    yield from shorter(values, "WORKER_TRANSACTION_TIMEOUT_MS", lease, reason)


def poll_intervals(values: Values) -> Iterator[str]:
    """Check that the pauses of an idle worker can grow from the first to the longest."""
    reason = "the first pause cannot exceed the longest"
    yield from not_longer(values, "WORKER_POLL_INTERVAL_MS", "WORKER_POLL_INTERVAL_MAX_MS", reason)


def below_request_deadline(values: Values) -> Iterator[str]:
    """Check that a dead peer shows within a request, and that a stop waits for requests."""
    deadline = "API_REQUEST_DEADLINE_SECONDS"
    detectors = (
        "APP_CONNECT_TIMEOUT_SECONDS",
        "TCP_USER_TIMEOUT_MS",
        "PGBOUNCER_SERVER_CONNECT_TIMEOUT_SECONDS",
        "PGBOUNCER_DNS_MAX_TTL_SECONDS",
    )
    for name in detectors:
        yield from shorter(values, name, deadline, "a dead peer must show within one request")
    grace = "API_SHUTDOWN_GRACE_SECONDS"
    yield from shorter(values, deadline, grace, "a stop must let requests in flight finish")


def pgbouncer_waits(values: Values) -> Iterator[str]:
    """PgBouncer's own waits are shorter than the queue they serve."""
    queue = "PGBOUNCER_QUERY_WAIT_TIMEOUT_SECONDS"
    reason = "a queued query would fail before it takes effect"
    yield from shorter(values, "PGBOUNCER_RESERVE_TIMEOUT_SECONDS", queue, reason)
    yield from shorter(values, "PGBOUNCER_SERVER_LOGIN_RETRY_SECONDS", queue, reason)
    connect, login = "APP_CONNECT_TIMEOUT_SECONDS", "PGBOUNCER_CLIENT_LOGIN_TIMEOUT_SECONDS"
    yield from not_longer(values, connect, login, "PgBouncer would cut a login still allowed")


def pool_lifetimes(values: Values) -> Iterator[str]:
    """Idle check < idle end < lifetime, and a reconnect gets at least one full attempt."""
    idle, life = "APP_POOL_MAX_IDLE_SECONDS", "APP_POOL_MAX_LIFETIME_SECONDS"
    yield from shorter(values, idle, life, "the idle limit would never apply")
    check = "APP_POOL_CHECK_IDLE_SECONDS"
    yield from not_longer(values, check, idle, "no connection would ever be checked")
    connect, reconnect = "APP_CONNECT_TIMEOUT_SECONDS", "APP_POOL_RECONNECT_TIMEOUT_SECONDS"
    yield from not_longer(values, connect, reconnect, "the pool would give up mid-attempt")


def planned_pause(values: Values) -> Iterator[str]:
    """Rule 4: a planned pause ends before any queued query, request or dead-man does."""
    pause, waiting = "PAUSE_MAX_SECONDS", "PAUSE_QUERY_WAIT_TIMEOUT_SECONDS"
    yield from shorter(values, "PAUSE_DRAIN_SECONDS", pause, "no time is left for the restart")
    yield from shorter(values, pause, waiting, "queued queries would fail during the pause")
    deadline = "API_REQUEST_DEADLINE_SECONDS"
    yield from shorter(values, pause, deadline, "requests would fail during the pause")
    dead_man = "PAUSE_DEAD_MAN_SECONDS"
    yield from shorter(values, pause, dead_man, "the pause would end under the operator")
    usual = "PGBOUNCER_QUERY_WAIT_TIMEOUT_SECONDS"
    yield from not_longer(values, usual, waiting, "a pause must not shorten the wait")


def own_waits(values: Values) -> Iterator[str]:
    """Check that a planned pause does not fail the queries of a client with a wait of its own."""
    waiting = "PAUSE_QUERY_WAIT_TIMEOUT_SECONDS"
    reason = "its queued queries would fail in a planned pause; 0 takes the stack's own"
    for own in (one.query_wait_timeout for one in clients.every(values)):
        if own and values.integer(own):
            yield from not_longer(values, waiting, own, reason)


def certificate_days(values: Values) -> Iterator[str]:
    """Check that a new certificate is not at once due for renewal."""
    if values.integer("CERTIFICATE_RENEW_DAYS") >= values.integer("CERTIFICATE_DAYS"):
        yield (
            f"{shown(values, 'CERTIFICATE_RENEW_DAYS')} must be below "
            f"{shown(values, 'CERTIFICATE_DAYS')}; every start would renew"
        )


TIME_RULES: Final[tuple[Rule, ...]] = (
    ordered_timeouts,
    pool_waits,
    queue_and_statement,
    retries_and_leaks,
    leases,
    poll_intervals,
    below_request_deadline,
    pgbouncer_waits,
    pool_lifetimes,
    planned_pause,
    own_waits,
    certificate_days,
)
