"""The login roles: what roles.sql makes of each, and that it leaves nothing as others set it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from infra.config import catalogue
from infra.config.build import compile_stack
from infra.config.render import template
from infra.config.roles import login_roles, no_verifiers
from tests.unit.infra.support import LOGIN_ROLES, NOW, VERIFIERS, write_env

DEFAULTS = catalogue.defaults()
SQL = template("roles.sql", DEFAULTS, no_verifiers(DEFAULTS)).decode()


@pytest.mark.parametrize("role", LOGIN_ROLES)
def test_a_role_is_made_whole_in_one_transaction(role: str) -> None:
    """All of it is stated: what is not here goes, and no login in between sees half of it."""
    (made,) = (one for one in login_roles(DEFAULTS, no_verifiers(DEFAULTS)) if one.name == role)
    (block,) = re.findall(rf"\nBEGIN;\n(ALTER ROLE \"{role}\" WITH .*?)COMMIT;", SQL, re.DOTALL)
    first, reset, *settings = block.strip().split(";\n")
    for word in ("LOGIN", "NOSUPERUSER", "NOCREATEDB", "NOREPLICATION", "NOBYPASSRLS", "INHERIT"):
        assert f" {word}" in first
    assert ("NOCREATEROLE" not in first) is made.createrole
    assert f"CONNECTION LIMIT {made.connection_limit}\n" in first
    assert first.endswith("VALID UNTIL 'infinity'")
    assert reset == f'ALTER ROLE "{role}" RESET ALL'
    assert [one.rstrip(";") for one in settings] == [
        f"ALTER ROLE \"{role}\" SET {name} = '{value}'" for name, value in made.settings.items()
    ]


def test_settings_of_one_database_and_of_all_roles_are_reset() -> None:
    assert "WHERE (setrole = 0 AND (setdatabase = 0 OR datname = 'risk'))\n" in SQL
    assert "OR (setdatabase <> 0 AND rolname IN ('risk_owner', 'risk_api'" in SQL


def test_memberships_are_revoked_and_granted_anew_at_once() -> None:
    (block,) = re.findall(r"BEGIN;\nSELECT format\('REVOKE (.*?)COMMIT;", SQL, re.DOTALL)
    granted = re.findall(r'^GRANT "(\w+)" TO "(\w+)" WITH (.*);$', block, re.MULTILINE)
    assert ("risk_api", "sluice_operator", "ADMIN TRUE, INHERIT FALSE, SET FALSE") in granted
    assert ("pg_monitor", "sluice_monitor", "ADMIN FALSE, INHERIT TRUE, SET TRUE") in granted
    assert {member for _, member, _ in granted} == {"sluice_monitor", "sluice_operator"}


def test_the_operator_knows_a_verifier_by_its_digest_only(tmp_path: Path) -> None:
    compiled = compile_stack(write_env(tmp_path), tmp_path / "secrets", now=NOW)
    (text,) = (one.content.decode() for one in compiled.files if one.path == "ops/ops.json")
    digests = json.loads(text)["postgres"]["verifier_digests"]
    for name in VERIFIERS:
        verifier = compiled.new_secrets[name]
        assert digests[name.removesuffix(".scram")] == hashlib.sha256(verifier).hexdigest()
        assert verifier.decode() not in text


def test_errors_of_a_path_s_sessions_stay_out_of_the_server_s_log() -> None:
    """Messages hold values; whoever made the error has it, with its SQLSTATE."""
    for role in login_roles(DEFAULTS, no_verifiers(DEFAULTS)):
        assert role.settings["log_min_messages"] == "log"
