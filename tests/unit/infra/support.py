"""Env files for tests: the defaults with some settings changed."""

import datetime
from pathlib import Path

from infra.config import catalogue, clients
from infra.config.build import Checked, check

REPOSITORY = Path(__file__).resolve().parents[3]
# Of a stack without applications.
LOGIN_ROLES = tuple(clients.logins(catalogue.defaults()))
PASSWORDS = tuple(f"{role}.password" for role in LOGIN_ROLES)
VERIFIERS = tuple(f"{role}.scram" for role in LOGIN_ROLES)
NOW = datetime.datetime(2030, 6, 1, 12, 0, tzinfo=datetime.UTC)


def write_env(directory: Path, **changed: object) -> Path:
    """Write stack.env with every default and the changed settings; return its path."""
    defaults = {one.name: one.default for one in catalogue.all_settings() if not one.left_out}
    values = defaults | changed
    path = directory / "stack.env"
    path.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    return path


def judge(directory: Path, **changed: object) -> Checked:
    """Judge the defaults with the changed settings."""
    return check(write_env(directory, **changed))


def messages(checked: Checked) -> str:
    """Return every fault on its own line."""
    return "\n".join(str(fault) for fault in checked.faults)
