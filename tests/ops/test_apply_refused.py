"""`apply` refused or failed half way: the old configuration serves, and what was wrong is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.command import finished
from tests.fix_faults import frozen, killed
from tests.fix_ops import Commands, EnvDir
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import Stack
from tests.ops import witness

OLD_RUNS = "the old configuration is in the files and running"


@contextmanager
def untouched(stack: Stack, console: AdminConsole, sql: Sql) -> Iterator[None]:
    """Check that files and running values are after the block as they were before."""

    def all_of_it() -> tuple[object, ...]:
        sizes = witness.app_pools(stack)
        limits = {name: (one["min_size"], one["max_size"]) for name, one in sizes.items()}
        return (
            witness.compiled(stack),
            limits,
            witness.entries(stack, console),
            witness.configs(stack, console),
            witness.role_limits(sql),
        )

    before = all_of_it()
    yield
    assert all_of_it() == before


@pytest.mark.parametrize("json_output", [(), ("--json",)])
def test_a_bad_setting_is_refused_by_name_and_the_old_configuration_serves(
    stack: Stack,
    console: AdminConsole,
    sql: Sql,
    ops: Commands,
    env: EnvDir,
    json_output: tuple[str, ...],
) -> None:
    env.set(
        API_POOL_MAX_SIZE=4000,
        WORKER_THREADS=16,
        WORKER_POOL_MAX_SIZE=6,
        API_LOCK_TIMEOUT_MS="1s",
    )
    with untouched(stack, console, sql):
        done = ops.apply(env, *json_output)
    assert done.exit_code == 2, done.text
    for setting in ("API_POOL_MAX_SIZE=4000", "WORKER_THREADS=16", "API_LOCK_TIMEOUT_MS=1s"):
        assert setting in done.text
    assert OLD_RUNS in done.text


def as_directory(file: Path) -> None:
    """Put a directory in the place of the file."""
    file.unlink()
    file.mkdir()


def rewritten(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """Return a function that changes the bytes of the file."""
    return lambda file: file.write_bytes(change(file.read_bytes()))


# What an editor, a copy or a slip makes of the file, and what is said of it.
MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "cannot be read: No such file or directory"),
    "a directory": (as_directory, "cannot be read: Is a directory"),
    "unreadable": (lambda file: file.chmod(0), "cannot be read: Permission denied"),
    "CR LF": (rewritten(lambda text: text.replace(b"\n", b"\r\n")), "ends in CR LF; save with LF"),
    "a byte order mark": (rewritten(lambda text: b"\xef\xbb\xbf" + text), "byte order mark"),
    "UTF-16": (
        rewritten(lambda text: text.decode().encode("utf-16")),
        "is not UTF-8 text (byte 0)",
    ),
    "tabs": (
        rewritten(lambda text: text.replace(b"\nAPI_THREADS=", b"\n\tAPI_THREADS=")),
        "'\\tAPI_THREADS' is not a setting name",
    ),
    "a line twice": (rewritten(lambda text: text + b"API_THREADS=40\n"), "already set on line"),
    "empty": (rewritten(lambda _: b""), "API_PORT is missing; Compose needs it"),
}


def test_an_env_file_that_is_not_as_written_is_refused_by_what_is_wrong_with_it(
    stack: Stack, console: AdminConsole, sql: Sql, ops: Commands, env: EnvDir
) -> None:
    (env.path / "other.env").write_text("")
    wrong = {}
    with untouched(stack, console, sql):
        for name, (make, rule) in MISTAKES.items():
            make(env.file)
            done = ops.apply(env)
            if (
                done.exit_code != 2
                or "infra/env/stack.env" not in done.text
                or rule not in done.text
            ):
                wrong[name] = (done.exit_code, done.text)
            shutil.rmtree(env.file) if env.file.is_dir() else env.file.unlink(missing_ok=True)
            env.reset()
    assert wrong == {}


@contextmanager
def broken_secret(stack: Stack, name: str, content: bytes) -> Iterator[None]:
    """Replace a file of the secrets volume for the length of the block."""
    volume = {f"{stack.project}_secrets": {"bind": "/secrets", "mode": "rw"}}
    image = stack.containers("config", all_states=True)[0].attrs["Config"]["Image"]

    def shell(script: str) -> None:
        stack.client.containers.run(
            image,
            ["-c", script],
            entrypoint=["sh"],
            user="0:0",
            volumes=volume,
            network_mode="none",
            remove=True,
            environment={"CONTENT": content.decode()},
        )

    shell(f'mv /secrets/{name} /secrets/.{name}.kept; printf %s "$CONTENT" >/secrets/{name}')
    try:
        yield
    finally:
        shell(f"mv -f /secrets/.{name}.kept /secrets/{name}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pgbouncer.crt", b"not a certificate", "pgbouncer.crt: is not a PEM certificate"),
        ("postgres.key", b"", "postgres.key is not a PEM private key"),
        ("risk_api.password", b"a-password-nobody-told-postgres", "risk_api.password is not"),
    ],
)
def test_a_bad_secret_is_refused_by_name_and_the_old_configuration_serves(
    stack: Stack,
    console: AdminConsole,
    sql: Sql,
    ops: Commands,
    env: EnvDir,
    name: str,
    content: bytes,
    message: str,
) -> None:
    with untouched(stack, console, sql), broken_secret(stack, name, content):
        done = ops.apply(env.set(API_POOL_MAX_SIZE=17))
    assert done.exit_code in (2, 3), done.text
    assert message in done.text
    assert content.decode() not in done.text or not content
    assert OLD_RUNS in done.text


@pytest.mark.slow
@pytest.mark.parametrize("service", ["pgbouncer", "worker"])
def test_an_unreachable_process_is_named_and_the_old_configuration_serves(
    stack: Stack,
    console: AdminConsole,
    sql: Sql,
    ops: Commands,
    env: EnvDir,
    service: str,
    whole_again: None,
) -> None:
    victim = stack.containers(service)[1]
    with untouched(stack, console, sql), frozen([victim]):
        done = ops.apply(env.set(API_POOL_MAX_SIZE=17))
    assert done.exit_code == 1, done.text
    assert str(victim.name) in done.text
    assert OLD_RUNS in done.text


def test_a_stopped_replica_is_reported_and_the_old_configuration_serves(
    stack: Stack, ops: Commands, env: EnvDir, whole_again: None
) -> None:
    kept, victim = stack.containers("pgbouncer")
    before = witness.compiled(stack)
    victim.stop()
    try:
        done = ops.apply(env.set(API_POOL_MAX_SIZE=17))
    finally:
        victim.start()
    assert done.exit_code == 1, done.text
    assert f"pgbouncer: 1 of 2 processes have an address; there: {kept.name}" in done.text
    assert witness.compiled(stack) == before


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["postgres", "api"])
def test_with_a_whole_tier_down_nothing_changes_and_the_next_apply_is_whole(
    stack: Stack, ops: Commands, env: EnvDir, whole_again: None, tier: str
) -> None:
    before, containers = witness.compiled(stack), stack.containers(tier)
    with killed(containers):
        done = ops.apply(env.set(API_POOL_MAX_SIZE=17))
    assert done.exit_code == 1, done.text
    assert f"{tier}: 0 of {len(containers)} processes have an address" in done.text
    stack.wait_healthy(seconds=120)
    assert witness.compiled(stack) == before
    again = ops.apply(env.reset())
    assert again.exit_code == 0, again.text


@pytest.mark.slow
def test_a_process_that_fails_in_the_middle_brings_the_old_configuration_back(
    stack: Stack,
    console: AdminConsole,
    sql: Sql,
    ops: Commands,
    env: EnvDir,
    settings: dict[str, str],
    applied_again: None,
    whole_again: None,
) -> None:
    """The first step is done on the app when a replica freezes before it can take its own."""
    env.set(API_POOL_MAX_SIZE=5, PGBOUNCER_INTERACTIVE_POOL_SIZE=9)
    victim = stack.containers("pgbouncer")[1]
    process = ops.start("apply", env_dir=env.path)
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if "files:" in line:
            victim.pause()
            break
    try:
        done = finished(process)
    finally:
        victim.unpause()
    assert done.exit_code == 1, "".join(seen) + done.text
    assert str(victim.name) in done.text
    assert "the old configuration is back in the files" in done.text
    stack.wait_healthy()
    document = witness.settings_document(stack, "api")
    assert str(document["pool"]["max_size"]) == settings["API_POOL_MAX_SIZE"]
    for name, pool in witness.app_pools(stack).items():
        prefix = "API" if "-api-" in name else "WORKER"
        assert pool["max_size"] == int(settings[f"{prefix}_POOL_MAX_SIZE"])
