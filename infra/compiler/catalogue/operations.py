"""Knobs of planned operations and of the certificates."""

from typing import Final

from infra.compiler.knobs import Change, Knob, Tier

KNOBS: Final = (
    Knob(
        name="PAUSE_DRAIN_SECONDS",
        tier=Tier.OPERATIONS,
        meaning="A planned PAUSE that has not taken effect by then is given up.",
        unit="seconds",
        minimum=1,
        maximum=60,
        default=5,
        change=Change.LIVE,
        rule="below PAUSE_MAX_SECONDS",
    ),
    Knob(
        name="PAUSE_MAX_SECONDS",
        tier=Tier.OPERATIONS,
        meaning="Longest planned pause, from PAUSE to RESUME.",
        unit="seconds",
        minimum=2,
        maximum=120,
        default=8,
        change=Change.LIVE,
        rule="below PAUSE_QUERY_WAIT_TIMEOUT_SECONDS and API_REQUEST_DEADLINE_SECONDS",
    ),
    Knob(
        name="PAUSE_QUERY_WAIT_TIMEOUT_SECONDS",
        tier=Tier.OPERATIONS,
        meaning="query_wait_timeout while paused, in place of the usual one.",
        unit="seconds",
        minimum=2,
        maximum=600,
        default=15,
        change=Change.LIVE,
        rule="above PAUSE_MAX_SECONDS, at least PGBOUNCER_QUERY_WAIT_TIMEOUT_SECONDS",
    ),
    Knob(
        name="PAUSE_DEAD_MAN_SECONDS",
        tier=Tier.OPERATIONS,
        meaning="RESUME comes by itself after this when the operator's command has died.",
        unit="seconds",
        minimum=3,
        maximum=600,
        default=20,
        change=Change.LIVE,
        rule="above PAUSE_MAX_SECONDS",
    ),
    Knob(
        name="CERTIFICATE_DAYS",
        tier=Tier.OPERATIONS,
        meaning="Validity of the server certificates that are made here.",
        unit="days",
        minimum=2,
        maximum=3650,
        default=365,
        change=Change.LIVE,
        rule="above CERTIFICATE_RENEW_DAYS",
    ),
    Knob(
        name="CERTIFICATE_RENEW_DAYS",
        tier=Tier.OPERATIONS,
        meaning="A certificate made here is renewed when it has this long to go.",
        unit="days",
        minimum=1,
        maximum=365,
        default=30,
        change=Change.LIVE,
        rule="below CERTIFICATE_DAYS",
    ),
)
