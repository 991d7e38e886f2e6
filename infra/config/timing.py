"""Rule 4 of the budget: deadlines, shortest first, on the request and on the batch path."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from infra.config.names import CLIENTS
from infra.config.settings import Values
from infra.config.wording import Rule, not_longer, seconds, shorter, shown


def ordered_timeouts(values: Values) -> Iterator[str]:
    """Rule 4: lock < statement < idle in transaction < transaction < query < deadline."""
    for client in CLIENTS:
        for low, high in pairwise(client.timeouts):
            yield from shorter(values, low, high, "the shorter timeout must end it first")


def pool_waits(values: Values) -> Iterator[str]:
    """Rule 4: waiting for a connection leaves time for an answer."""
    for client in CLIENTS:
        reason = "nothing would be left of the deadline"
        yield from shorter(values, client.pool_timeout, client.deadline, reason)


def queue_and_statement(values: Values) -> Iterator[str]:
    """Rule 4: a query that was queued to the last moment still finishes in time."""
    queue = "PGBOUNCER_QUERY_WAIT_TIMEOUT_SECONDS"
    for client in CLIENTS:
        statement, deadline = client.statement_timeout, client.deadline
        total = seconds(values, queue) + seconds(values, statement)
        if total >= seconds(values, deadline):
            yield (
                f"{shown(values, queue)} + {shown(values, statement)} = {total.normalize():f} s "
                f"must be below {shown(values, deadline)}; a queued query would outlive it"
            )


def retries_and_leaks(values: Values) -> Iterator[str]:
    """Retries end, and a leak is reported, no later than the deadline."""
    for client in CLIENTS:
        budget, leak, deadline = client.retry_budget, client.leak_threshold, client.deadline
        yield from not_longer(values, budget, deadline, "retries must end with the deadline")
        yield from not_longer(values, leak, deadline, "a leak must show before the deadline")


def leases(values: Values) -> Iterator[str]:
    """Check that a batch and its transaction end before its lease does."""
    reason = "another worker would take a task that is still being worked on"
    lease = "WORKER_LEASE_SECONDS"
    yield from shorter(values, "WORKER_BATCH_DEADLINE_SECONDS", lease, reason)
    yield from shorter(values, "WORKER_TRANSACTION_TIMEOUT_MS", lease, reason)


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
    below_request_deadline,
    pgbouncer_waits,
    pool_lifetimes,
    planned_pause,
    certificate_days,
)
