"""The endpoints: nothing without the token, JSON for everything else."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.control.process import Process
from app.control.server import create_control_app
from app.settings import WorkerSettings
from tests.unit.control.conftest import TOKEN, SettingsFile, StandInPool

CALLS = [("GET", "/control/state"), ("POST", "/control/reload"), ("POST", "/control/drain")]
GOOD = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    return path


@pytest.fixture
def client(process: Process[WorkerSettings], token_file: Path) -> Iterator[TestClient]:
    with TestClient(create_control_app(process, token_file)) as made:
        yield made


@pytest.mark.parametrize(("method", "path"), [*CALLS, ("GET", "/"), ("GET", "/nowhere")])
@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer t\xf6ken"],
)
def test_nothing_is_answered_without_the_token(
    client: TestClient, pool: StandInPool, method: str, path: str, authorization: str | None
) -> None:
    given = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    answer = client.request(method, path, headers=given)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "unauthorized"
    assert pool.drained == 0


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_every_call_answers_with_the_state(client: TestClient, method: str, path: str) -> None:
    answer = client.request(method, path, headers=GOOD)
    assert answer.status_code == 200
    assert answer.json()["service"] == "worker"
    assert TOKEN not in answer.text


@pytest.mark.parametrize("path", ["/control/state/", "/"])
def test_nobody_is_redirected_to_the_host_that_a_caller_names(
    client: TestClient, path: str
) -> None:
    answer = client.get(path, headers=GOOD, follow_redirects=False)
    assert answer.status_code == 404


@pytest.mark.parametrize("path", ["/control/reload", "/control/drain"])
def test_a_change_is_not_made_by_a_get(client: TestClient, pool: StandInPool, path: str) -> None:
    assert client.get(path, headers=GOOD).status_code == 405
    assert pool.drained == 0


def test_a_refused_reload_is_409_with_the_reason(client: TestClient, file: SettingsFile) -> None:
    file.write(pool__max_size=0)
    answer = client.post("/control/reload", headers=GOOD)
    assert answer.status_code == 409
    assert "pool.max_size=0" in answer.json()["error"]["message"]


def test_a_rotated_token_counts_from_the_next_call(client: TestClient, token_file: Path) -> None:
    token_file.write_text("another-token")
    assert client.get("/control/state", headers=GOOD).status_code == 401
    new = {"Authorization": "bearer another-token"}
    assert client.get("/control/state", headers=new).status_code == 200


@pytest.mark.parametrize("content", [b"", b"\n", None])
def test_without_a_token_nobody_gets_in(
    client: TestClient, token_file: Path, content: bytes | None
) -> None:
    token_file.unlink()
    if content is not None:
        token_file.write_bytes(content)
    for given in ({}, {"Authorization": "Bearer "}, GOOD):
        assert client.get("/control/state", headers=given).status_code == 401
