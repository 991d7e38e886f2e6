"""What the files of Prometheus and Alertmanager are made of: limits, windows, objectives."""

from collections.abc import Iterable
from typing import Final

from infra.config import clients, names, sizing
from infra.config.catalogue.observability import NO_RECEIVER
from infra.config.certificates import Expiry
from infra.config.documents import MONITOR_PORT
from infra.config.settings import Values

PROFILE: Final = "observability"
# The settings of the ports of 127.0.0.1 that the profile publishes.
PORTS: Final = ("PROMETHEUS_PORT", "ALERTMANAGER_PORT", "CONSOLE_PORT")
# The health check, and the PostgreSQL exporter's two: one that stays and one for each scrape.
MONITOR_SESSIONS: Final = 3
# What the exporters' driver sends with each login, and PgBouncer does not know.
STARTUP_PARAMETER: Final = "extra_float_digits"

# Of requests: the part that may fail, by objective. Slow is longer than a bucket's bound, as the
# histogram's label writes it.
_OBJECTIVES: Final = {"errors": 0.001, "latency": 0.01}
_SLOW_SECONDS: Final = "1.0"
# Burn rates, and windows in scrapes (5 min and 1 h, 30 min and 6 h at 5 s): Google's Site
# Reliability Workbook, chapter 5, "Multiwindow, Multi-Burn-Rate Alerts".
_BURN_FACTORS: Final = {"fast": 14.4, "slow": 6}
_BURN_WINDOWS: Final = {"fast_short": 60, "fast_long": 720, "slow_short": 360, "slow_long": 4320}
_SCRAPE_TIMEOUT_MAX_SECONDS: Final = 10
_MB: Final = 1024 * 1024


def is_on(values: Values) -> bool:
    """Return True if the services of the profile run."""
    return values.text("COMPOSE_PROFILES") == PROFILE


def context(values: Values, expiry: Iterable[Expiry]) -> dict[str, object]:
    """Return what the templates of prometheus.yml, rules.yml and alertmanager.yml name."""
    distance = values.integer("PROMETHEUS_SCRAPE_SECONDS")

    def scrapes(count: int) -> str:
        return f"{count * distance}s"

    webhook = values.text("ALERT_WEBHOOK_URL")
    return {
        "scrapes": scrapes,
        "timeout": f"{min(distance, _SCRAPE_TIMEOUT_MAX_SECONDS)}s",
        "control_aliases": names.CONTROL_ALIASES,
        "monitor_port": MONITOR_PORT,
        "webhook": "" if webhook == NO_RECEIVER else webhook,
        **_limits(values),
        "certificates": {one.file.removesuffix(".crt"): int(one.at.timestamp()) for one in expiry},
        "renew_days": values.integer("CERTIFICATE_RENEW_DAYS"),
        "objectives": _OBJECTIVES,
        "slow_seconds": _SLOW_SECONDS,
        "timed": 'job="api", route=~"/api/.*", route!~".*/(events|results)"',
        "burn_factors": _BURN_FACTORS,
        "burn_windows": {name: scrapes(count) for name, count in _BURN_WINDOWS.items()},
    }


def _limits(values: Values) -> dict[str, object]:
    workers, replicas = values.integer("WORKER_REPLICAS"), values.integer("PGBOUNCER_REPLICAS")
    longest = max(values.seconds(one.transaction_timeout) for one in clients.every(values))
    return {
        "app_pools": {
            "api": sizing.api_pools(values),
            "worker": sizing.app_pools(values) - sizing.api_pools(values),
        },
        "clients_max": values.integer("PGBOUNCER_MAX_CLIENT_CONNECTIONS"),
        "pools": sizing.pools(values),
        "sessions_max": values.integer("POSTGRES_MAX_CONNECTIONS"),
        "replicas": {"api": 1, "worker": workers, "pgbouncer": replicas},
        "wait_seconds": values.integer("PGBOUNCER_QUERY_WAIT_TIMEOUT_SECONDS"),
        "transaction_seconds": longest,
        "standbys": values.integer("POSTGRES_INSTANCES") - 1,
        "backups": values.text("BACKUPS") == "on",
        "disk_bytes": values.integer("POSTGRES_DISK_MB") * _MB,
    }
