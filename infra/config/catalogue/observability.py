"""Settings of what watches the path: services of the Compose profile `observability`.

Compose reads most of them, and compose.yaml has their defaults: who has no use for them need not
list them.
"""

from typing import Final
from urllib.parse import urlsplit

from infra.config.settings import Change, Form, Setting, Tier

_URL_MAX_CHARACTERS: Final = 2000
NO_RECEIVER: Final = "none"


def _url(text: str) -> str:
    if text == NO_RECEIVER:
        return text
    try:
        parts = urlsplit(text)
        has_port = parts.port != 0
    except ValueError:
        raise ValueError("is no URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not has_port:
        raise ValueError("is no URL of a web server")
    if parts.username is not None or parts.password is not None:
        raise ValueError("has credentials, which no env file holds")
    if len(text) > _URL_MAX_CHARACTERS or not text.isascii() or not text.isprintable():
        raise ValueError(f"is longer than {_URL_MAX_CHARACTERS} characters, or not plain ASCII")
    return text


SETTINGS: Final = (
    Setting(
        name="COMPOSE_PROFILES",
        tier=Tier.OBSERVABILITY,
        meaning="Optional services that run beside the path.",
        unit="profile",
        choices=("none", "observability"),
        default="none",
        change=Change.RECREATE,
        rule="with observability: POSTGRES_MONITOR_CONNECTIONS at least 3, "
        "POSTGRES_OPERATOR_CONNECTIONS at least 4, extra_float_digits in "
        "PGBOUNCER_IGNORE_STARTUP_PARAMETERS",
        listed=True,
    ),
    Setting(
        name="PROMETHEUS_PORT",
        tier=Tier.OBSERVABILITY,
        meaning="Port of Prometheus on 127.0.0.1.",
        unit="port",
        minimum=1,
        maximum=65_535,
        default=9090,
        change=Change.RECREATE,
        rule="no other setting's port",
    ),
    Setting(
        name="PROMETHEUS_RETENTION_DAYS",
        tier=Tier.OBSERVABILITY,
        meaning="How long Prometheus keeps what it has scraped.",
        unit="days",
        minimum=1,
        maximum=3650,
        default=7,
        change=Change.RECREATE,
    ),
    Setting(
        name="PROMETHEUS_DISK_MB",
        tier=Tier.OBSERVABILITY,
        meaning="Disk space of what Prometheus keeps; the oldest goes first.",
        unit="MB",
        minimum=256,
        maximum=1_048_576,
        default=2048,
        change=Change.RECREATE,
    ),
    Setting(
        name="PROMETHEUS_MEMORY_MB",
        tier=Tier.OBSERVABILITY,
        meaning="Memory limit of Prometheus's container.",
        unit="MB",
        minimum=96,
        maximum=65_536,
        default=256,
        change=Change.RECREATE,
    ),
    Setting(
        name="PROMETHEUS_SCRAPE_SECONDS",
        tier=Tier.OBSERVABILITY,
        meaning="Time between two scrapes of a target; the windows of rules and alerts are "
        "numbers of scrapes.",
        unit="seconds",
        minimum=1,
        maximum=60,
        default=5,
        change=Change.LIVE,
    ),
    Setting(
        name="ALERTMANAGER_PORT",
        tier=Tier.OBSERVABILITY,
        meaning="Port of Alertmanager on 127.0.0.1.",
        unit="port",
        minimum=1,
        maximum=65_535,
        default=9093,
        change=Change.RECREATE,
        rule="no other setting's port",
    ),
    Setting(
        name="ALERT_WEBHOOK_URL",
        tier=Tier.OBSERVABILITY,
        meaning="Where Alertmanager posts alerts that fire and that are over; none: nowhere.",
        unit="URL",
        form=Form("http://... or https://... without user and password, or none", _url),
        default=NO_RECEIVER,
        change=Change.LIVE,
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
