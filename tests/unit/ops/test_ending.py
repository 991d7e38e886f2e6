"""A command that is to end, or whose caller is gone, puts back what it has begun."""

import os
import subprocess
import sys

from infra.ops.operation import LIFELINE

# Waits where a signal to another thread would not wake it.
WAITS = """
import threading
from infra.ops.operation import EndedBySignalError, Ending
try:
    with Ending().signals_raise():
        print("begun", flush=True)
        threading.Event().wait(60)
except EndedBySignalError as ended:
    print("put back:", ended, flush=True)
"""


def test_the_death_of_the_caller_ends_the_command() -> None:
    command = [sys.executable, "-c", WAITS]
    with subprocess.Popen(
        command,
        env={**os.environ, LIFELINE: "yes"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        output, _ = process.communicate(timeout=20)
    assert output == "put back: SIGHUP\n"


def test_without_a_lifeline_standard_input_is_left_alone() -> None:
    ended = WAITS.replace("wait(60)", "wait(0.5)")
    done = subprocess.run(
        [sys.executable, "-c", ended],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=20,
    )
    assert done.stdout == "begun\n"
