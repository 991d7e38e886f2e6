"""PGBOUNCER_PORT: an application on this host, outside containers, uses the path."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests.faults import oracle
from tests.faults.load import Load
from tests.fix_clients import Application, MakeApplication
from tests.fix_faults import frozen, killed, wait_for_traffic
from tests.fix_ops import Commands, EnvDir
from tests.fix_stack import Stack, poll

NAME = "desk"
# Two checks that fail, each a second after the last, and their time limits.
NOTICED_SECONDS = 8.0


class Desk:
    """An application on this host."""

    def __init__(self, port: int, application: Application) -> None:
        self.port, self._application = port, application

    def connect(self, **changed: object) -> psycopg.Connection[tuple[object, ...]]:
        """Return a connection through the published port, as `client-url` says."""
        password = self._application.secret(f"{NAME}.password").read_text(encoding="ascii")
        words = {
            "host": "localhost",
            "port": self.port,
            "dbname": NAME,
            "user": NAME,
            "password": password.strip(),
            "sslmode": "verify-full",
            "sslrootcert": str(self._application.secret("ca.crt")),
            "connect_timeout": 3,
        }
        return psycopg.connect(**{**words, **changed}, autocommit=True)  # type: ignore[arg-type]

    def works(self) -> bool:
        """Return True if a new connection answers a query."""
        try:
            with self.connect() as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError:
            return False


@pytest.fixture
def desk(
    stack: Stack, ops: Commands, env: EnvDir, make_application: MakeApplication
) -> Iterator[Desk]:
    """Return an application of which the port is published; afterwards none is."""
    application = make_application(NAME)
    application.set(POOL_SIZE=2, MAX_CLIENT_CONNECTIONS=50)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = ops.script("apply", "--restart", env=env.set(PGBOUNCER_PORT=port))
    assert done.exit_code == 0, done.text
    assert f"PgBouncer is published: 127.0.0.1:{port}" in done.text
    application.take_secrets()
    yield Desk(port, application)
    done = ops.script("apply", "--restart", env=env.reset())
    assert done.exit_code == 0, done.text
    assert stack.containers("gateway", all_states=True) == []


@pytest.mark.slow
def test_an_application_on_this_host_goes_through_the_pool_and_survives_a_replica(
    stack: Stack, desk: Desk, ops: Commands, env: EnvDir, make_load: Callable[..., Load]
) -> None:
    poll(desk.works, seconds=20, what="the published port leads to a PgBouncer")
    told = ops.script("client-url", "--json", NAME, env=env).document["published"]
    assert told["url"].startswith(f"postgresql://{NAME}@localhost:{desk.port}/{NAME}?")
    (gateway,) = stack.containers("gateway")
    (published,) = gateway.attrs["NetworkSettings"]["Ports"]["6432/tcp"]
    assert published == {"HostIp": "127.0.0.1", "HostPort": str(desk.port)}
    host = gateway.attrs["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["CapAdd"]) == (True, ["ALL"], None)
    assert gateway.attrs["Config"]["User"] == "10079:10079"
    with pytest.raises(psycopg.OperationalError, match="SASL authentication failed"):
        desk.connect(password="wrong")  # noqa: S106  # not one
    with pytest.raises(psycopg.OperationalError, match="SSL required"):
        desk.connect(sslmode="disable")
    with desk.connect() as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.execute("SELECT current_user").fetchone() == (NAME,)
    for fault in (killed, frozen):
        with fault([stack.container("pgbouncer")]):
            poll(lambda: _all_work(desk), seconds=NOTICED_SECONDS, what="one replica is left out")
        stack.wait_healthy(seconds=60)
    with make_load(threads=2) as load:
        wait_for_traffic(load)
        restarted = ops.script("restart-pgbouncer", env=env)
    assert restarted.exit_code == 0, restarted.text
    oracle.check_no_failure(load)
    poll(lambda: _all_work(desk), seconds=NOTICED_SECONDS, what="both replicas serve it")
    poll(lambda: stack.health(gateway) == "healthy", seconds=30, what="the gateway is healthy")


def _all_work(desk: Desk) -> bool:
    return all(desk.works() for _ in range(10))
