"""The secrets volume lost while the stack serves: refused everywhere, restored by one command."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from infra.ops.outcome import Exit
from tests.faults.oracle import check_no_failure, check_nothing_left, check_writes
from tests.fix_faults import MakeLoad, wait_for_traffic
from tests.fix_ops import Commands, EnvDir
from tests.fix_secrets import Secrets
from tests.fix_sql import Sql
from tests.fix_stack import TIERS, Stack, poll
from tests.ops import witness

# What is in the secrets volume, as text of one line a file.
DIGESTS = "cd /secrets && sha256sum *"
KEEP = "mkdir /out/ops/kept && cp -a /secrets/. /out/ops/kept/"
PUT_BACK = (
    "if [ -d /out/ops/kept ]; then [ -e /secrets/risk_api.password ] ||"
    " cp -a /out/ops/kept/. /secrets/; rm -rf /out/ops/kept; fi"
)
TOLD = "write them back: make restore-secrets"


@pytest.fixture
def kept(secrets: Secrets) -> Iterator[None]:
    """Keep a copy, for a test that fails before it has restored what it lost."""
    secrets.sh(KEEP)
    yield
    secrets.sh(PUT_BACK)


def running(stack: Stack) -> list[str]:
    """Return every container of the tiers with the moment of its start."""
    return [
        f"{one.id} {one.attrs['State']['StartedAt']}"
        for tier in TIERS
        for one in stack.containers(tier)
    ]


@pytest.mark.usefixtures("kept", "whole_again")
def test_lost_secrets_are_refused_then_restored_under_load_without_a_failure(
    stack: Stack, sql: Sql, ops: Commands, secrets: Secrets, env: EnvDir, make_load: MakeLoad
) -> None:
    before, files = secrets.sh(DIGESTS), witness.compiled(stack)
    containers = running(stack)
    with make_load() as load:
        wait_for_traffic(load)
        secrets.sh("rm -rf /secrets/* /secrets/.[!.]*")
        # It has been built already.
        for target in (("apply",), ("--old-file=build", "up")):
            refused = ops.make(*target, env=env)
            assert refused.exit_code != 0
            assert TOLD in refused.stderr
        for arguments in (("apply",), ("rotate", "certificates")):
            done = ops.run(*arguments)
            assert done.exit_code in (Exit.BAD_INPUT, Exit.REFUSED)
            assert TOLD in done.text
        compose = stack.compose("run", "--rm", "--no-deps", "--no-TTY", "config")
        assert compose.returncode == Exit.BAD_INPUT
        assert TOLD in compose.stderr
        assert secrets.sh("ls -A /secrets") == ""
        assert (running(stack), witness.compiled(stack)) == (containers, files)
        done = ops.script("restore-secrets", env=env)
        assert done.exit_code == 0, done.text
        after = secrets.sh(DIGESTS)
        assert after.splitlines() == [one for one in before.splitlines() if "ca.key" not in one]
        assert ops.apply(env).exit_code == 0
        done = ops.script("rotate-certificates", "--ca", env=env)
        assert done.exit_code == 0, done.text
    assert "ca.key" in secrets.sh("ls /secrets")
    assert running(stack) == containers
    check_no_failure(load)
    check_writes(load, sql)
    check_nothing_left(sql, seconds=240)


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
def test_new_secrets_are_put_into_postgresql_where_the_compiled_files_are_gone_too(
    stack: Stack, sql: Sql, ops: Commands, secrets: Secrets, env: EnvDir, settings: dict[str, str]
) -> None:
    old, started = secrets.read("risk_api.password"), sql.value("SELECT pg_postmaster_start_time()")
    key = secrets.read("backup.key")
    secrets.sh("rm -rf /secrets/* /out/*/*")
    refused = ops.make("plan", env=env)
    assert refused.exit_code != 0
    assert "have new ones made for it: make restore-secrets" in refused.stderr
    done = ops.script("restore-secrets", "--json", env=env)
    assert done.exit_code == 0, done.text
    (command,) = done.document["commands"]
    assert command["document"]["restored"] == []
    assert secrets.read("risk_api.password") not in ("", old)
    assert sql.value("SELECT pg_postmaster_start_time()") == started
    # A new one does not open the repository that is there, so nothing would be archived any more.
    assert secrets.read("backup.key") not in ("", key)
    secrets.sh('printf %s "$1" >/secrets/backup.key', key)
    assert ops.apply(env).exit_code == 0
    url = f"http://127.0.0.1:{settings['API_PORT']}/health/ready"
    poll(lambda: httpx.get(url).status_code == httpx.codes.OK, seconds=30, what="the api serves")
