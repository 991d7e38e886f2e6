"""Settings of the TCP connections on both hops."""

from typing import Final

from infra.config.settings import Change, Setting, Tier, share

SETTINGS: Final = (
    Setting(
        name="TCP_USER_TIMEOUT_MS",
        tier=Tier.NETWORK,
        meaning="Sent data unacknowledged for this long ends the connection, on both hops.",
        unit="milliseconds",
        minimum=1000,
        maximum=60_000,
        default=5000,
        change=Change.RESTART_APP,
        rule="below API_REQUEST_DEADLINE_SECONDS",
        derivation=share("0.5", "API_REQUEST_DEADLINE_SECONDS", units=1000),
    ),
    Setting(
        name="TCP_KEEPALIVE_IDLE_SECONDS",
        tier=Tier.NETWORK,
        meaning="Silence before the first keepalive probe, on both hops.",
        unit="seconds",
        minimum=1,
        maximum=600,
        default=5,
        change=Change.RESTART_APP,
    ),
    Setting(
        name="TCP_KEEPALIVE_INTERVAL_SECONDS",
        tier=Tier.NETWORK,
        meaning="Time between keepalive probes, on both hops.",
        unit="seconds",
        minimum=1,
        maximum=60,
        default=2,
        change=Change.RESTART_APP,
    ),
    Setting(
        name="TCP_KEEPALIVE_COUNT",
        tier=Tier.NETWORK,
        meaning="Unanswered keepalive probes that end a connection, on both hops.",
        unit="probes",
        minimum=1,
        maximum=20,
        default=3,
        change=Change.RESTART_APP,
    ),
)
