"""The lock of all operations: one holder, named, released when the holder dies."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.ops.operation import LockHeldError, holder, operation_lock

HOLD = (
    "import sys, time; from pathlib import Path; from infra.ops.operation import operation_lock\n"
    "with operation_lock(Path(sys.argv[1]), 'restart'):\n"
    "    print('held', flush=True); time.sleep(60)"
)


@pytest.fixture
def other(tmp_path: Path) -> subprocess.Popen[str]:
    """Return another process that holds the lock."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_nobody_holds_a_lock_that_was_never_taken(tmp_path: Path) -> None:
    assert holder(tmp_path) is None


def test_the_second_is_refused_with_the_name_of_the_first(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    refused = r"refused: restart in container .* since 20"
    with other:
        with pytest.raises(LockHeldError, match=refused), operation_lock(tmp_path, "apply"):
            pass
        other.kill()


def test_a_lock_is_released_when_its_holder_is_killed(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    with other:
        assert holder(tmp_path) is not None
        other.kill()
    with operation_lock(tmp_path, "apply"):
        found = holder(tmp_path)
        assert found is not None
        assert found.what == "apply"
    assert holder(tmp_path) is None


def test_a_lock_can_be_waited_for(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    started = time.monotonic()
    with other:
        with pytest.raises(LockHeldError), operation_lock(tmp_path, "apply", wait_seconds=1):
            pass
        assert time.monotonic() - started >= 1
        other.kill()
    with operation_lock(tmp_path, "apply", wait_seconds=5):
        pass
