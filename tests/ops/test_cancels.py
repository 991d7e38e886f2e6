"""Cancel requests of common drivers, each of which sends its own in its own way."""

from __future__ import annotations

import json

import pytest

from tests.fix_clients import CLIENTS, MakeApplication, printed
from tests.fix_stack import Stack

NAME = "cancels"
COUNT, LOST_MAX = 200, 4
PROGRAMS = {
    "psycopg": ["python", "/app/cancels.py", "psycopg"],
    "asyncpg": ["python", "/app/cancels.py", "asyncpg"],
    "node-postgres": ["node", "/app/cancels.js"],
    "pgjdbc": ["java", "-Xmx128m", "/app/Cancels.java"],
}


@pytest.mark.slow
def test_cancel_requests_of_every_driver_end_their_own_statement_and_no_other(
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
    # PgBouncer forgets a request that waits for a server connection behind others, as some do on a
    # busy machine; without peers it is one of two.
    lost = {driver: one.pop("lost") for driver, one in records.items()}
    assert max(lost.values()) <= LOST_MAX, lost
    expected = {"sent": COUNT, "wrong": 0, "other": []}
    assert [one for one in records.items() if one[1] != expected] == []
