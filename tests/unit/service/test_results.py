"""Result rows: pages and files, sent in pieces, bounded in number, cut where a piece is missing."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.api import results as results_module
from app.api.__main__ import UNSENT_BYTES, _bound
from app.api.application import create_app
from app.api.models import ResultsPage
from app.assessments.read_results import (
    AFTER_ALL,
    BEFORE_ALL,
    COLUMNS,
    ResultFilter,
    ResultKey,
    ResultPiece,
    Stretch,
)
from app.pool import DatabaseUnavailable
from app.risk.types import RiskType, Scenario
from app.settings import ApiSettings, Live
from tests.fix_stack import poll

from .conftest import API, STATE, StandInDatabase
from .serving import HTTP, Serving, serving

PATH = "/api/v1/site-assessments"
SOME_ID = uuid.UUID("11111111-2222-3333-4444-555555555555")
RESULTS = f"{PATH}/{SOME_ID}/results"
KEY = ResultKey(0, Scenario.SSP126, 2030, RiskType.DROUGHT)
REST = Stretch(SOME_ID, ResultFilter(), "csv", BEFORE_ALL, AFTER_ALL, 1)
VALUES = ("seoul", "SSP126", 2030, "drought", 1.5, None, 2, 0.1, 0.1, 5.0, None, None, ["building"])
ROW = json.dumps(dict(zip(COLUMNS, VALUES, strict=True))).encode()
HEAD = ",".join(COLUMNS).encode() + b"\r\n"
PIECE = b"x" * 1023 + b"\n"
LARGE_PIECE = b"x" * (512 * 1024)
SHORT_SECONDS = 0.5
PLACES = API["http"]["threads"]


def pieces(*texts: bytes | Exception) -> Callable[[], ResultPiece | Exception]:
    """Return what the database answers, one piece after the other."""
    ends = iter([*texts[1:], None])

    def piece(text: bytes | Exception) -> ResultPiece | Exception:
        if isinstance(text, Exception):
            return text
        return ResultPiece(text, None if next(ends) is None else REST)

    found = map(piece, texts)
    return lambda: next(found)


def endlessly() -> ResultPiece:
    """Answer with a large piece behind which another follows."""
    return ResultPiece(LARGE_PIECE, REST)


def test_results_link_to_their_next_page(client: TestClient, database: StandInDatabase) -> None:
    database.answers["results"] = ResultPiece(ROW + b"," + ROW, next=KEY)
    answer = client.get(f"{RESULTS}?limit=1&scenario=SSP126&cursor={KEY.encode()}")
    page = ResultsPage.model_validate(answer.json())
    expected = f"{RESULTS}?limit=1&scenario=SSP126&cursor={KEY.encode()}"
    assert page.next == expected
    assert answer.headers["link"] == f'<{expected}>; rel="next"'
    assert [row.exposure_score for row in page.results] == [None, None]
    assert str(page.assessment_id) == answer.json()["assessment_id"] == str(SOME_ID)


def test_results_come_as_csv(client: TestClient, database: StandInDatabase) -> None:
    database.answers["results"] = ResultPiece(b"seoul\r\nbusan\r\n")
    answer = client.get(f"{RESULTS}?format=csv")
    assert answer.headers["content-type"].startswith("text/csv")
    assert "link" not in answer.headers
    assert answer.content == HEAD + b"seoul\r\nbusan\r\n"


def test_one_piece_says_how_long_it_is(client: TestClient, database: StandInDatabase) -> None:
    database.answers["results"] = ResultPiece(ROW)
    answer = client.get(RESULTS)
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_pieces_make_one_answer(client: TestClient, database: StandInDatabase) -> None:
    database.answers["results"] = pieces(ROW, b"," + ROW, b"")
    answer = client.get(RESULTS)
    assert "content-length" not in answer.headers
    assert len(ResultsPage.model_validate(answer.json()).results) == 2
    assert database.calls == ["results"] * 3
    assert all(4.0 < one.remaining() <= 5.0 for one in database.deadlines)


@contextmanager
def api(database: StandInDatabase) -> Iterator[Serving]:
    """Serve the api with this database, on a socket like the deployed one."""
    listener = _bound(HTTP.host, 0)
    with serving(listener, create_app(Live(ApiSettings.model_validate(API)), database)) as running:
        yield running


@contextmanager
def asking(running: Serving) -> Iterator[socket.socket]:
    """Ask for a file and take nothing of it."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        connection.connect(("127.0.0.1", running.port))
        connection.sendall(f"GET {RESULTS}?format=csv HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        yield connection


def get(running: Serving) -> tuple[http.client.HTTPResponse, bytes]:
    """Return the answer to a request for a file, with its body."""
    client = running.connect()
    client.request("GET", f"{RESULTS}?format=csv")
    answer = client.getresponse()
    return answer, answer.read()


def test_a_whole_file_comes_in_pieces(database: StandInDatabase) -> None:
    database.answers["results"] = pieces(*[PIECE] * 200)
    with api(database) as running:
        assert get(running)[1] == HEAD + PIECE * 200


def test_a_piece_that_cannot_be_read_cuts_the_answer(database: StandInDatabase) -> None:
    database.answers["results"] = pieces(PIECE, DatabaseUnavailable("gone", STATE))
    with api(database) as running, pytest.raises(http.client.IncompleteRead) as cut:
        get(running)
    assert cut.value.partial == HEAD + PIECE


def test_a_cut_answer_counts_as_an_error(
    client: TestClient, monitor: TestClient, database: StandInDatabase
) -> None:
    database.answers["results"] = pieces(ROW, DatabaseUnavailable("gone", STATE))
    client.get(RESULTS)
    services: Any = client.app.state.services  # type: ignore[attr-defined]
    assert services.last_minute.state()["errors"] == 1
    assert 'results",status="503"} 1.0' in monitor.get("/metrics").text


def test_what_began_at_the_primary_is_not_gone_on_with_at_a_standby(
    client: TestClient, database: StandInDatabase, standby: StandInDatabase
) -> None:
    # A standby may be behind, and a short piece looks like the last.
    database.answers["results"] = pieces(ROW, DatabaseUnavailable("gone", STATE))
    client.get(RESULTS)
    services: Any = client.app.state.services  # type: ignore[attr-defined]
    assert services.last_minute.state()["errors"] == 1
    assert standby.calls == []


def test_what_began_at_a_standby_is_gone_on_with_there(
    client: TestClient, database: StandInDatabase, standby: StandInDatabase
) -> None:
    database.answers["results"] = DatabaseUnavailable("gone", STATE)
    standby.answers["results"] = pieces(ROW, b"," + ROW)
    answer = client.get(RESULTS)
    assert len(ResultsPage.model_validate(answer.json()).results) == 2
    assert answer.headers["cache-status"] == "standby; hit"


def test_a_first_piece_that_cannot_be_read_is_503(database: StandInDatabase) -> None:
    database.answers["results"] = DatabaseUnavailable("gone", STATE)
    with api(database) as running:
        answer, _ = get(running)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "2")


def test_nothing_is_read_for_a_caller_who_takes_nothing(database: StandInDatabase) -> None:
    database.answers["results"] = endlessly
    with api(database) as running, asking(running):
        poll(lambda: database.calls, seconds=10, what="the first piece", every=0.01)
        # Long enough for thousands of them.
        threading.Event().wait(SHORT_SECONDS)
        assert len(database.calls) == 1


def test_a_caller_who_takes_a_piece_too_slowly_is_cut(
    database: StandInDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results_module, "TAKE_SECONDS", SHORT_SECONDS)
    database.answers["results"] = endlessly
    with api(database) as running, asking(running) as connection:
        received = connection.recv(1024)
        threading.Event().wait(4 * SHORT_SECONDS)
        while data := connection.recv(65536):
            received += data
    assert len(received) < len(LARGE_PIECE)


@pytest.mark.parametrize(
    "answer", [endlessly, ResultPiece(LARGE_PIECE)], ids=["in the middle", "before the end"]
)
def test_nothing_is_read_for_a_caller_who_left_and_that_is_what_it_counts_as(
    database: StandInDatabase, answer: Any
) -> None:
    database.answers["results"] = answer
    with api(database) as running:
        with asking(running) as connection:
            assert connection.recv(1024)
        poll(lambda: not running.server.server_state.tasks, seconds=10, what="no request")
        assert len(database.calls) < 10
        app: Any = running.server.config.app
    labels = {"method": "GET", "route": f"{PATH}/{{assessment_id}}/results", "status": "499"}
    counted = app.state.services.registry.get_sample_value("sluice_http_requests_total", labels)
    assert counted == 1


def test_answers_with_results_are_bounded(database: StandInDatabase) -> None:
    database.answers["results"] = endlessly
    with api(database) as running:
        state: Any = running.server.config.app
        places = state.state.services.result_places
        slow = [asking(running) for _ in range(2 * PLACES)]
        opened = [one.__enter__() for one in slow]
        poll(
            lambda: places.statistics().tasks_waiting == PLACES,
            seconds=10,
            what="as many wait as are answered",
        )
        answer, body = get(running)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
        assert json.loads(body)["error"]["code"] == "busy"
        for connection in opened:
            connection.close()
        poll(lambda: places.borrowed_tokens == 0, seconds=10, what="every place given back")
        database.answers["results"] = ResultPiece(PIECE)
        assert get(running)[0].status == 200


def test_who_waits_for_a_place_in_vain_is_told_at_the_deadline(database: StandInDatabase) -> None:
    document = API | {"http": API["http"] | {"request_deadline_seconds": SHORT_SECONDS}}
    app = create_app(Live(ApiSettings.model_validate(document)), database)
    with TestClient(app) as client:
        assert client.portal is not None
        places = app.state.services.result_places
        for _ in range(PLACES):
            client.portal.call(places.acquire_on_behalf_of_nowait, object())
        answer = client.get(RESULTS)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
    assert database.calls == []


def test_the_kernel_keeps_little_of_an_answer_that_is_not_taken() -> None:
    with _bound(HTTP.host, 0) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()):
            connection, _ = listener.accept()
            with connection:
                kept = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
    assert kept == UNSENT_BYTES
