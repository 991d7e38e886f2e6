"""Settings and a stand-in database for tests of the service without PostgreSQL."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from psycopg import Connection

from app.api.application import create_app
from app.log import configure_logging
from app.pool import Deadline, PoolState
from app.settings import ApiSettings, Live

API: dict[str, Any] = {
    "service": "api",
    "processes": 1,
    "monitor_port": 8001,
    "http": {
        "host": "127.0.0.1",
        "port": 8000,
        "max_body_bytes": 65536,
        "request_deadline_seconds": 5.0,
        "threads": 4,
        "event_streams_max": 1,
        "shutdown_grace_seconds": 1.0,
    },
    "database": {
        "host": "pgbouncer",
        "port": 6432,
        "dbname": "risk",
        "user": "risk_api",
        "password_file": "api.password",
        "sslmode": "verify-full",
        "sslrootcert": "ca.crt",
        "load_balance_hosts": "random",
        "application_name": "sluice-api",
        "connect_timeout_seconds": 3,
        "tcp_user_timeout_ms": 5000,
        "keepalives_idle_seconds": 5,
        "keepalives_interval_seconds": 2,
        "keepalives_count": 3,
        "prepare_threshold": 5,
        "prepared_max": 100,
    },
    "pool": {
        "min_size": 2,
        "max_size": 16,
        "timeout_seconds": 2.0,
        "max_waiting": 64,
        "max_lifetime_seconds": 1800.0,
        "max_idle_seconds": 300.0,
        "reconnect_timeout_seconds": 10.0,
        "num_workers": 3,
        "check_idle_seconds": 5.0,
        "leak_threshold_seconds": 8.0,
        "retry_budget_seconds": 8.0,
        "retry_attempts_max": 3,
    },
    "standby": {"dbname": "", "max_size": 4},
    "limits": {"sites_max": 5},
    "log": {"level": "INFO", "format": "json"},
    "control": {
        "alias": "localhost",
        "port": 0,
        "certificate_file": "control.crt",
        "key_file": "control.key",
        "token_file": "control.token",
    },
    "hints": {"host": "127.0.0.1", "port": 0},
}
WORKER: dict[str, Any] = {
    **{name: API[name] for name in ("http", "database", "pool", "log", "control", "hints")},
    "service": "worker",
    "worker": {
        "threads": 4,
        "batch_tasks": 40,
        "lease_seconds": 60.0,
        "poll_interval_seconds": 0.01,
        "poll_interval_max_seconds": 0.02,
        "attempts_max": 3,
        "retry_delay_seconds": 1.0,
        "batch_deadline_seconds": 40.0,
        "shutdown_grace_seconds": 1.0,
    },
}
STATE = PoolState("risk", 16, 2, 16, 16, 0, 7, 64)


class StandInDatabase:
    """Answers `run` by call name from `answers`: a value, or an exception to raise.

    It never runs the work, so it can stand in only for what happens around it.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.calls: list[str] = []
        self.deadlines: list[Deadline] = []

    def open(self, *, deadline: Deadline) -> None:
        del deadline

    def close(self, timeout_seconds: float) -> None:
        del timeout_seconds

    def state(self) -> PoolState:
        return STATE

    def resize(self, min_size: int, max_size: int) -> None:
        del min_size, max_size

    def drain(self) -> None:
        pass

    def run(
        self,
        work: Callable[[Connection[Any]], Any],
        *,
        deadline: Deadline,
        name: str,
        **_how: Any,
    ) -> Any:
        del work
        self.calls.append(name)
        self.deadlines.append(deadline)
        if name not in self.answers:
            pytest.fail(f"the database was reached by {name!r}")
        answer = self.answers[name]
        if callable(answer):
            answer = answer()
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture(autouse=True, scope="session")
def _json_logs() -> None:
    configure_logging("test", "INFO")


@pytest.fixture
def api_document() -> dict[str, Any]:
    return copy.deepcopy(API)


@pytest.fixture
def worker_document() -> dict[str, Any]:
    return copy.deepcopy(WORKER)


@pytest.fixture
def database() -> StandInDatabase:
    return StandInDatabase()


@pytest.fixture
def client(database: StandInDatabase) -> Iterator[TestClient]:
    app = create_app(Live(ApiSettings.model_validate(API)), database)
    with TestClient(app, raise_server_exceptions=False) as test_client:
        yield test_client


@pytest.fixture
def standby(client: TestClient) -> StandInDatabase:
    """Return what stands in for the standbys of the application that the client calls."""
    found = StandInDatabase()
    client.app.state.services.standby = found  # type: ignore[attr-defined]  # it is a FastAPI
    return found


@pytest.fixture
def monitor(client: TestClient) -> TestClient:
    """Return a client of the port that is not published; the application runs already."""
    return TestClient(client.app, "http://testserver:8001", raise_server_exceptions=False)


@pytest.fixture
def body() -> dict[str, Any]:
    return {
        "sites": [{"site_id": "seoul", "latitude": 37.5665, "longitude": 126.978}],
        "asset_value": 1e9,
        "insurance_coverage_rate": 0.3,
        "scenarios": ["SSP126"],
        "years": {"from": 2030, "to": 2031},
    }
