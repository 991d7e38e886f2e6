"""Settings of what watches the path: services of the Compose profile `observability`."""

from typing import Final

from infra.config.settings import Change, Setting, Tier

SETTINGS: Final = (
    Setting(
        name="COMPOSE_PROFILES",
        tier=Tier.OBSERVABILITY,
        meaning="Optional services that run beside the path.",
        unit="profile",
        choices=("none", "observability"),
        default="none",
        change=Change.RECREATE,
        listed=True,
    ),
    Setting(
        name="CONSOLE_PORT",
        tier=Tier.OBSERVABILITY,
        meaning="Port of the console on 127.0.0.1.",
        unit="port",
        minimum=1,
        maximum=65_535,
        default=8090,
        change=Change.RECREATE,
        rule="no other setting's port",
    ),
)
