"""Answers around the database: accepted, not found, unavailable, unexpected, too large."""

import json
import re
import threading
import unicodedata
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from fastapi.testclient import TestClient
from pydantic import TypeAdapter, ValidationError

from app.api import reading
from app.api.application import ADMITTED_PER_THREAD, create_app
from app.api.models import AssessmentStatus, AssessmentSummary, SiteId
from app.assessments.read_results import UnknownSiteError
from app.assessments.status import FailedTask, SiteProgress, Status
from app.assessments.submit import Accepted, Area, ReferenceDataMissingError, SitesOutsideAreaError
from app.pool import (
    CommitOutcomeUnknown,
    DatabaseUnavailable,
    Deadline,
    DeadlineExceeded,
    PoolSaturated,
)
from app.settings import ApiSettings, Live
from tests.fix_stack import poll

from .conftest import API, STATE, StandInDatabase
from .serving import serving

PATH = "/api/v1/site-assessments"
SOME_ID = uuid.UUID("11111111-2222-3333-4444-555555555555")
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def status_of(state: str = "failed") -> Status:
    site = SiteProgress("seoul", 37.5, 127.0, 4, 3, 1, 9)
    failure = FailedTask("seoul", "SSP126", 2030, 3, "ValueError: no")
    ended = NOW if state in ("failed", "succeeded") else None
    return Status(SOME_ID, state, 4, NOW, NOW, ended, (site,), (failure,))


REASON = (
    'OperationalError 08006: connection to server at "10.1.2.3", port 6432 failed: FATAL: '
    'role "risk_api" is not permitted to log in'
)
OUTAGES = [
    (PoolSaturated(REASON, STATE, 3), "pool_saturated"),
    (DeadlineExceeded(REASON, STATE, 3), "deadline_exceeded"),
    (CommitOutcomeUnknown(REASON, STATE, 3), "commit_outcome_unknown"),
    (DatabaseUnavailable(REASON, STATE, 3), "database_unavailable"),
]


@pytest.mark.parametrize(("error", "code"), OUTAGES)
def test_an_unavailable_database_is_503_with_the_state_of_the_pool(
    client: TestClient, database: StandInDatabase, error: Exception, code: str
) -> None:
    database.answers["status"] = error
    answer = client.get(f"{PATH}/{SOME_ID}")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "3"
    assert answer.json()["error"]["code"] == code
    assert answer.json()["error"]["message"].endswith("; try again in 3 s")
    assert answer.json()["error"]["pool"]["waiting"] == 7


@pytest.mark.parametrize("error", [error for error, _code in OUTAGES])
@pytest.mark.parametrize("path", [f"{PATH}/{SOME_ID}", "/health/ready"])
def test_why_the_database_is_unavailable_is_logged_and_not_told(
    client: TestClient,
    database: StandInDatabase,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    path: str,
) -> None:
    database.answers |= {"status": error, "ready": error}
    answer = client.get(path, headers={"X-Request-ID": "abc-1"})
    assert answer.status_code == 503
    assert "try again in " in answer.json()["error"]["message"]
    told = [word for word in ("10.1.2.3", "6432", "risk_api", "08006") if word in answer.text]
    assert told == []
    events: list[Any] = [record.msg for record in caplog.records]
    reasons = {one["request_id"]: one["reason"] for one in events if "reason" in one}
    assert reasons == {"abc-1": REASON}


def test_an_unexpected_error_is_500_without_its_text(
    client: TestClient, database: StandInDatabase
) -> None:
    database.answers["status"] = RuntimeError("a secret")
    answer = client.get(f"{PATH}/{SOME_ID}", headers={"X-Request-ID": "abc-1"})
    assert answer.status_code == 500
    assert answer.json()["error"]["request_id"] == "abc-1"
    assert "secret" not in answer.text


def test_a_standby_answers_while_there_is_no_primary_and_the_answer_says_so(
    client: TestClient, database: StandInDatabase, standby: StandInDatabase
) -> None:
    database.answers["status"] = DatabaseUnavailable(REASON, STATE, 3)
    standby.answers["status"] = status_of("running")
    answer = client.get(f"{PATH}/{SOME_ID}")
    assert answer.status_code == 200
    assert answer.headers["cache-status"] == "standby; hit"
    # It had half of the time to come from the primary.
    assert database.deadlines[0].at < standby.deadlines[0].at
    database.answers["status"] = status_of("running")
    assert "cache-status" not in client.get(f"{PATH}/{SOME_ID}").headers


@pytest.mark.parametrize(
    "outcome", [None, DatabaseUnavailable("another reason", STATE, 3)], ids=["absent", "silent"]
)
def test_what_a_standby_does_not_have_is_not_unknown(
    client: TestClient, database: StandInDatabase, standby: StandInDatabase, outcome: Any
) -> None:
    database.answers["summary"] = DatabaseUnavailable(REASON, STATE, 3)
    standby.answers["summary"] = outcome
    assert client.get(f"{PATH}/{SOME_ID}/summary").status_code == 503


def test_all_statements_of_a_read_are_done_at_one_standby(
    client: TestClient, database: StandInDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    class Connection:
        @contextmanager
        def transaction(self) -> Iterator[None]:
            seen.append("BEGIN")
            yield
            seen.append("COMMIT")

    class Standby:
        def run(self, work: Any, **_how: Any) -> Any:
            return work(Connection())

    def read(_connection: Any, _id: uuid.UUID) -> Status:
        seen.append("read")
        return status_of("running")

    monkeypatch.setattr(reading, "read_status", read)
    database.answers["status"] = DatabaseUnavailable(REASON, STATE, 3)
    services: Any = client.app.state.services  # type: ignore[attr-defined]
    monkeypatch.setattr(services, "standby", Standby())
    assert client.get(f"{PATH}/{SOME_ID}").status_code == 200
    assert seen == ["BEGIN", "read", "COMMIT"]


class Standbys:
    """Standbys that have replayed so far, one for each read."""

    def __init__(self, *replayed: int) -> None:
        self._left = list(replayed)

    def run(self, work: Any, **_how: Any) -> Any:
        at, connection = self._left.pop(0), MagicMock()

        def execute(statement: str, parameters: Any = None) -> list[tuple[Any]]:
            if statement == reading.IS_BEHIND:
                return [(at < int(parameters["lsn"]),)]
            assert statement == reading.REPLAYED
            return [(str(at),)]

        connection.execute = execute
        return work(connection)


@pytest.mark.parametrize(("second", "found"), [(7, "read"), (8, "read"), (6, None)])
def test_an_answer_is_not_gone_on_with_at_a_standby_that_is_behind(
    database: StandInDatabase, second: int, found: str | None
) -> None:
    database.answers["results"] = DatabaseUnavailable(REASON, STATE, 3)
    services: Any = SimpleNamespace(database=database, standby=Standbys(7, second))
    replayed = reading.Replayed()

    def read() -> str:
        deadline = Deadline.after(5)
        return reading.read(services, lambda _: "read", deadline, "results", {}, replayed)

    assert read() == "read"
    if found is None:
        with pytest.raises(DatabaseUnavailable):
            read()
    else:
        assert read() == found


@pytest.mark.usefixtures("standby")
def test_a_full_pool_is_no_reason_to_ask_a_standby(
    client: TestClient, database: StandInDatabase
) -> None:
    database.answers["status"] = PoolSaturated(REASON, STATE, 3)
    assert client.get(f"{PATH}/{SOME_ID}").json()["error"]["code"] == "pool_saturated"


def test_missing_reference_data_is_503(
    client: TestClient, database: StandInDatabase, body: dict[str, Any]
) -> None:
    database.answers["submit"] = ReferenceDataMissingError()
    answer = client.post(PATH, json=body)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "reference_data_missing"
    assert "migrate" not in answer.text


def test_a_site_outside_the_area_is_named_with_the_area(
    client: TestClient, database: StandInDatabase, body: dict[str, Any]
) -> None:
    body["sites"].append({"site_id": "tokyo", "latitude": 35.7, "longitude": 139.7})
    database.answers["submit"] = SitesOutsideAreaError([1], Area(33.0, 39.0, 124.5, 131.0))
    answer = client.post(PATH, json=body)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["field"], error["value"]) == ("sites[1].longitude", 139.7)
    assert "longitude 124.5 to 131" in error["rule"]


def test_another_request_under_the_same_key_is_refused(
    client: TestClient, database: StandInDatabase, body: dict[str, Any]
) -> None:
    database.answers["submit"] = Accepted(SOME_ID, "running", 2, b"another hash")
    answer = client.post(PATH, json=body, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "header.Idempotency-Key"


def test_an_unknown_assessment_is_404(client: TestClient, database: StandInDatabase) -> None:
    database.answers |= {"status": None, "results": None, "summary": None}
    for tail in ("", "/results", "/summary", "/events"):
        assert client.get(f"{PATH}/{SOME_ID}{tail}").status_code == 404


def test_a_site_that_the_assessment_lacks_is_422(
    client: TestClient, database: StandInDatabase
) -> None:
    database.answers["results"] = UnknownSiteError()
    answer = client.get(f"{PATH}/{SOME_ID}/results?site_id=nowhere")
    assert answer.json()["error"]["value"] == "nowhere"


def test_a_status_says_which_tasks_failed(client: TestClient, database: StandInDatabase) -> None:
    database.answers["status"] = status_of()
    answer = AssessmentStatus.model_validate(client.get(f"{PATH}/{SOME_ID}").json())
    assert (answer.done_tasks, answer.failed_tasks, answer.missing_inputs) == (3, 1, 9)
    assert answer.failures[0].error == "ValueError: no"


def test_a_summary_has_the_documented_shape(client: TestClient, database: StandInDatabase) -> None:
    database.answers["summary"] = {
        "status": "succeeded",
        "averages": [],
        "highest_risks": [],
        "aal_by_year": [],
        "sites": [
            {
                "site_id": "seoul",
                "mean_final_aal": None,
                "mean_expected_loss": None,
                "missing_inputs": 0,
                "highest_risk": None,
            }
        ],
    }
    AssessmentSummary.model_validate(client.get(f"{PATH}/{SOME_ID}/summary").json())


def test_the_request_deadline_reaches_the_database(
    client: TestClient, database: StandInDatabase
) -> None:
    database.answers["status"] = status_of()
    client.get(f"{PATH}/{SOME_ID}")
    assert 4.0 < database.deadlines[0].remaining() <= 5.0


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2:3", True), ("x" * 129, False), ("a b", False), ('"><script>', False), ("", False)],
)
def test_a_sane_request_id_is_kept_and_another_replaced(
    client: TestClient, given: str, kept: bool
) -> None:
    answer = client.get("/health/live", headers={"X-Request-ID": given})
    assert (answer.headers["x-request-id"] == given) is kept
    assert answer.headers["x-request-id"]


def chunks(total: int) -> Iterator[bytes]:
    for _ in range(total // 1024):
        yield b" " * 1024


def test_a_body_above_the_limit_is_413_declared_or_chunked(client: TestClient) -> None:
    limit = API["http"]["max_body_bytes"]
    headers = {"Content-Type": "application/json"}
    declared = client.post(PATH, content=b" " * (limit + 1), headers=headers)
    chunked = client.post(PATH, content=chunks(limit + 1024), headers=headers)
    for answer in (declared, chunked):
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "body_too_large"


def test_a_body_at_the_limit_is_read(client: TestClient) -> None:
    limit = API["http"]["max_body_bytes"]
    headers = {"Content-Type": "application/json"}
    assert client.post(PATH, content=chunks(limit), headers=headers).status_code == 422


@pytest.mark.parametrize("states", [("running", "failed"), ("succeeded",)])
def test_events_end_with_the_last_state_and_then_end(
    client: TestClient, database: StandInDatabase, states: tuple[str, ...]
) -> None:
    reports = iter([status_of(state) for state in states])
    database.answers["status"] = lambda: next(reports)
    text = client.get(f"{PATH}/{SOME_ID}/events").text
    lines = [line for line in text.splitlines() if line.startswith(("event:", "data:"))]
    assert lines[::2] == ["event: progress"] * len(states) + ["event: end"]
    data = [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
    assert [one["status"] for one in data] == [*states, states[-1]]


def test_event_streams_are_bounded(client: TestClient, database: StandInDatabase) -> None:
    services: Any = client.app.state.services  # type: ignore[attr-defined]
    database.answers["status"] = status_of()
    open_stream = object()
    assert client.portal is not None
    client.portal.call(services.event_places.acquire_on_behalf_of_nowait, open_stream)
    answer = client.get(f"{PATH}/{SOME_ID}/events")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
    client.portal.call(services.event_places.release_on_behalf_of, open_stream)
    for _ in range(2):
        assert client.get(f"{PATH}/{SOME_ID}/events").status_code == 200


def test_health_answers_while_every_request_thread_is_stuck(
    client: TestClient, monitor: TestClient, database: StandInDatabase
) -> None:
    release = threading.Event()
    database.answers["status"] = lambda: release.wait(10) and None
    database.answers["ready"] = None
    stuck = [
        threading.Thread(target=client.get, args=(f"{PATH}/{SOME_ID}",))
        for _ in range(API["http"]["threads"] * 2)
    ]
    for thread in stuck:
        thread.start()
    try:
        answers = [client.get(path) for path in ("/health/live", "/health/ready")]
        answers += [monitor.get(path) for path in ("/health/live", "/health/ready", "/metrics")]
    finally:
        release.set()
        for thread in stuck:
            thread.join()
    assert [answer.status_code for answer in answers] == [200] * 5


def test_readiness_gives_up_after_a_second(client: TestClient, database: StandInDatabase) -> None:
    release = threading.Event()
    database.answers["ready"] = lambda: release.wait(10) and None
    answer = client.get("/health/ready")
    release.set()
    assert answer.status_code == 503
    assert "within 1 s" in answer.json()["error"]["message"]


def test_requests_beyond_what_can_be_answered_are_turned_away(
    client: TestClient, database: StandInDatabase
) -> None:
    release = threading.Event()
    database.answers["status"] = lambda: release.wait(10) and None
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(client.get(f"{PATH}/{SOME_ID}").status_code)

    threads = [threading.Thread(target=ask) for _ in range(API["http"]["threads"] * 10 + 1)]
    for thread in threads:
        thread.start()
    while not statuses:
        threads[0].join(0.01)
    release.set()
    for thread in threads:
        thread.join()
    assert statuses.count(503) == 1


def test_who_waits_for_a_thread_in_vain_is_told_at_the_deadline(
    database: StandInDatabase, body: dict[str, Any]
) -> None:
    release = threading.Event()
    database.answers["status"] = lambda: release.wait(10) and None
    document = API | {"http": API["http"] | {"request_deadline_seconds": 0.5}}
    app = create_app(Live(ApiSettings.model_validate(document)), database)
    with TestClient(app) as client, ThreadPoolExecutor() as callers:
        try:
            threads = API["http"]["threads"]
            for _ in range(threads):
                callers.submit(client.get, f"{PATH}/{SOME_ID}")
            poll(lambda: len(database.calls) == threads, seconds=10, what="every thread is taken")
            answers = [client.get(f"{PATH}/{SOME_ID}"), client.post(PATH, json=body)]
        finally:
            release.set()
    assert [one.status_code for one in answers] == [503, 503]
    assert {one.json()["error"]["code"] for one in answers} == {"busy"}
    assert len(database.calls) == threads


def test_bodies_that_never_come_whole_keep_nobody_out(database: StandInDatabase) -> None:
    database.answers["status"] = status_of()
    head = f"POST {PATH} HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\n{{".encode()
    admitted = API["http"]["threads"] * ADMITTED_PER_THREAD
    app = create_app(Live(ApiSettings.model_validate(API)), database)
    with serving(app=app) as running, ExitStack() as stack:
        for _ in range(admitted):
            stack.enter_context(running.socket()).sendall(head)
        tasks = running.server.server_state.tasks
        poll(lambda: len(tasks) == admitted, seconds=10, what="all of them are requests")
        client = running.connect()
        client.request("GET", f"{PATH}/{SOME_ID}")
        assert client.getresponse().status == 200


def test_metrics_count_requests_by_route(
    client: TestClient, monitor: TestClient, database: StandInDatabase
) -> None:
    database.answers["status"] = status_of()
    client.get(f"{PATH}/{SOME_ID}")
    client.get("/nowhere")
    text = monitor.get("/metrics").text
    route = PATH + "/{assessment_id}"
    assert f'sluice_http_requests_total{{method="GET",route="{route}",status="200"}} 1.0' in text
    assert 'route="unmatched",status="404"' in text


def test_metrics_are_on_the_monitor_port_only_and_the_api_is_not(
    client: TestClient, monitor: TestClient
) -> None:
    assert monitor.get("/metrics").status_code == 200
    # What decides is where the connection came in.
    for host in ("testserver:8001", "127.0.0.1:8001"):
        assert client.get("/metrics", headers={"Host": host}).status_code == 404
    assert "/metrics" not in client.get("/openapi.json").json()["paths"]
    for path in ("/", "/docs", f"{PATH}/{SOME_ID}", "/metrics/"):
        assert monitor.get(path, follow_redirects=False).status_code == 404


def test_the_root_says_what_this_is_and_where_to_go(
    client: TestClient, database: StandInDatabase
) -> None:
    database.answers["ready"] = None
    found = client.get("/").json()
    assert (found["name"], found["version"]) == ("Sluice risk service", "1")
    for link in ("documentation", "openapi", "health"):
        assert client.get(found[link]).status_code == 200
    assert client.options(found["api"]).headers["allow"] == "POST"


def test_the_documentation_needs_no_other_host(client: TestClient) -> None:
    page = client.get("/docs").text
    links = re.findall(r"""(?:src|href|url|oauth2RedirectUrl)["']?\s*[=:]\s*["']([^"']+)""", page)
    kinds = {link.rpartition(".")[2] for link in links}
    assert {"js", "css", "png", "json"} <= kinds
    assert [link for link in links if client.get(link).status_code != 200] == []
    assert "://" not in page.replace("window.location", "")
    # Nor does its script ask one: it would have the document judged by a service of its makers.
    assert '"validatorUrl": ""' in page
    assert client.get("/redoc").status_code == 404


def test_the_openapi_document_has_examples_and_errors(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    post = document["paths"][PATH]["post"]
    assert {"202", "400", "408", "413", "415", "422", "431", "500", "503"} <= post[
        "responses"
    ].keys()
    assert document["components"]["schemas"]["AssessmentRequest"]["examples"]


def patterns(part: Any) -> Iterator[str]:
    """Yield every pattern of a schema."""
    if isinstance(part, dict):
        for name, inner in part.items():
            if name == "pattern" and isinstance(inner, str):
                yield inner
            yield from patterns(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from patterns(inner)


def test_programs_that_make_requests_can_use_every_pattern(client: TestClient) -> None:
    found = set(patterns(client.get("/openapi.json").json()))
    assert len(found) > 1
    for pattern in found:
        # Without classes of Unicode, which Python does not know and ECMAScript by a flag only.
        assert re.compile(pattern).search("seoul 1")


@pytest.mark.parametrize(
    "code", [*range(0x21), 0x7E, 0x7F, 0x80, 0x9F, 0xA0, 0xE9, 0x2028, 0x10FFFF]
)
def test_a_site_id_has_no_control_character(code: int) -> None:
    text = f"a{chr(code)}"
    wanted = unicodedata.category(chr(code)) != "Cc"
    try:
        TypeAdapter(SiteId).validate_python(text)
    except ValidationError:
        assert not wanted
    else:
        assert wanted
