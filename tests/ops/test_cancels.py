"""Cancel requests of common drivers, each of which sends its own in its own way."""

from __future__ import annotations

import json

import pytest

from tests.fix_clients import CLIENTS, MakeApplication, printed
from tests.fix_stack import Stack

NAME = "cancels"
COUNT = 200
PROGRAMS = {
    "psycopg": ["python", "/app/cancels.py", "psycopg"],
    "asyncpg": ["python", "/app/cancels.py", "asyncpg"],
    "node-postgres": ["node", "/app/cancels.js"],
    "pgjdbc": ["java", "-Xmx128m", "/app/Cancels.java"],
}


@pytest.mark.slow
def test_no_driver_loses_a_cancel_request_or_ends_another_s_statement(
    stack: Stack, make_application: MakeApplication, drivers_image: str
) -> None:
    assert len(stack.containers("pgbouncer")) > 1
    application = make_application(NAME)
    # Enough for all of them on one replica, which a statement that waits could not be cancelled on.
    application.set(POOL_SIZE=4, MAX_CLIENT_CONNECTIONS=20)
    done = application.apply()
    assert done.exit_code == 0, done.text
    application.take_secrets()
    variables = application.variables()
    records = {}
    for driver, words in PROGRAMS.items():
        process = application.start(
            drivers_image, [*words, str(COUNT)], app=CLIENTS, environment=variables
        )
        records[driver] = json.loads(printed(process, seconds=120).splitlines()[-1])
    assert all(one.pop("beside") > COUNT for one in records.values())
    expected = {"sent": COUNT, "lost": 0, "wrong": 0, "other": []}
    assert records == dict.fromkeys(PROGRAMS, expected)
