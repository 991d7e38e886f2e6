"""Every setting of the stack, in the order of the env file."""

from infra.config.catalogue import api, backup, observability, pgbouncer, postgres, shared, worker
from infra.config.settings import Setting, Values


def all_settings() -> tuple[Setting, ...]:
    """Return every setting, grouped by tier."""
    return (
        *postgres.SETTINGS,
        *pgbouncer.SETTINGS,
        *shared.GATEWAY,
        *shared.NETWORK,
        *shared.APP,
        *api.SETTINGS,
        *worker.SETTINGS,
        *backup.SETTINGS,
        *shared.OPERATIONS,
        *observability.SETTINGS,
    )


def by_name() -> dict[str, Setting]:
    """Return every setting under its name."""
    return {setting.name: setting for setting in all_settings()}


def defaults() -> Values:
    """Return the value of every setting as the table gives it."""
    return Values({setting.name: setting.default for setting in all_settings()})
