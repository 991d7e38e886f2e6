"""What the api refuses, and how it says so. The database is never reached."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.api import body as body_module
from app.api.body import BodyLimit

PATH = "/api/v1/site-assessments"
JSON = {"Content-Type": "application/json"}
Change = Callable[[dict[str, Any]], Any]


def refused(answer: Any, status: int = 422) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert {"code", "message"} <= error.keys()
    return error


def site(**changes: Any) -> dict[str, Any]:
    return {"site_id": "a", "latitude": 37.5, "longitude": 127.0} | changes


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"sites": []}, "sites", "a list of 0 items"),
        ({"sites": [site(latitude=91)]}, "sites[0].latitude", 91),
        ({"sites": [site(latitude="37.5")]}, "sites[0].latitude", "37.5"),
        ({"sites": [site(latitude=True)]}, "sites[0].latitude", True),
        ({"sites": [site(longitude=10**40)]}, "sites[0].longitude", "an integer of 133 bits"),
        ({"sites": [site(site_id="")]}, "sites[0].site_id", ""),
        ({"sites": [site(site_id="a\x00b")]}, "sites[0].site_id", "a\x00b"),
        ({"sites": [site(site_id="x" * 256)]}, "sites[0].site_id", "x" * 80 + "..."),
        ({"sites": [site(site_id=5)]}, "sites[0].site_id", 5),
        ({"sites": [site(altitude=1)]}, "sites[0].altitude", 1),
        ({"sites": [site(), site()]}, "sites", "a"),
        ({"sites": "seoul"}, "sites", "seoul"),
        ({"asset_value": -1}, "asset_value", -1),
        ({"asset_value": 10**400}, "asset_value", "an integer of 1329 bits"),
        ({"insurance_coverage_rate": 1.1}, "insurance_coverage_rate", 1.1),
        ({"scenarios": []}, "scenarios", "a list of 0 items"),
        ({"scenarios": ["SSP999"]}, "scenarios[0]", "SSP999"),
        ({"scenarios": ["SSP126", "SSP126"]}, "scenarios", "SSP126"),
        ({"years": {"from": 2020, "to": 2030}}, "years.from", 2020),
        ({"years": {"from": 2030, "to": 2101}}, "years.to", 2101),
        ({"years": {"from": 2040, "to": 2030}}, "years.from", 2040),
        ({"years": {"from": 2030.5, "to": 2040}}, "years.from", 2030.5),
        ({"years": None}, "years", None),
        ({"surprise": {"a": 1}}, "surprise", "an object with 1 fields"),
    ],
)
def test_a_bad_field_is_named_with_its_value_and_rule(
    client: TestClient, body: dict[str, Any], change: dict[str, Any], field: str, value: Any
) -> None:
    error = refused(client.post(PATH, json=body | change))
    assert error["code"] == "invalid_request"
    assert error["field"] == field
    assert error.get("value") == value
    assert error["rule"]


def test_a_missing_field_is_named(client: TestClient, body: dict[str, Any]) -> None:
    del body["asset_value"]
    error = refused(client.post(PATH, json=body))
    assert error["field"] == "asset_value"
    assert "value" not in error


def test_every_fault_is_listed(client: TestClient, body: dict[str, Any]) -> None:
    body["sites"] = [site(latitude=91), site(site_id="b", longitude=181)]
    error = refused(client.post(PATH, json=body | {"asset_value": -1}))
    assert [fault["field"] for fault in error["faults"]] == [
        "sites[0].latitude",
        "sites[1].longitude",
        "asset_value",
    ]


def test_more_sites_than_the_setting_allows_are_refused(
    client: TestClient, body: dict[str, Any]
) -> None:
    body["sites"] = [site(site_id=str(number)) for number in range(6)]
    error = refused(client.post(PATH, json=body))
    assert error["field"] == "sites"
    assert "at most 5" in error["rule"]


def test_a_body_full_of_unknown_fields_is_refused_as_a_whole(client: TestClient) -> None:
    error = refused(client.post(PATH, json={f"k{number}": 1 for number in range(5000)}))
    assert (error["field"], error["value"]) == ("body", "an object with 5000 fields")
    assert len(error["faults"]) == 1


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"sites"',
        b'{"asset_value": NaN}',
        b'{"asset_value": -Infinity}',
        b'{"asset_value": 1e999}',
        b'{"asset_value": ' + b"9" * 5000 + b"}",
        b'{"sites": [{"site_id": "\\ud800"}]}',
        b'{"sites": [{"site_id": "\xff"}]}',
        b'{"\\u0000": 1}',
        b"[" * 10_000,
        b'{"a":' * 10_000,
        b'{"a": 1} trailing',
    ],
    ids=lambda text: repr(text[:24]),
)
def test_hostile_json_is_refused(client: TestClient, text: bytes) -> None:
    refused(client.post(PATH, content=text, headers=JSON))


async def answered(app: BodyLimit, body: bytes) -> int:
    """Send a request of so many bytes; return its status."""
    statuses: list[int] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        statuses.append(message.get("status", 0))

    headers = [(b"content-length", str(len(body)).encode())]
    await app({"type": "http", "headers": headers}, receive, send)
    return statuses[0]


def test_bodies_in_hand_are_bounded_together_and_small_ones_still_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(body_module, "HELD_BYTES_MAX", 100_000)
    large, small = b"x" * 60_000, b"x" * body_module.SMALL_BYTES

    async def scenario() -> list[int]:
        arrived, going_on = asyncio.Event(), asyncio.Event()

        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            message = await receive()
            if message["body"] == large:
                arrived.set()
                await going_on.wait()
            await Response()(scope, receive, send)

        app = BodyLimit(handle, max_bytes=65536, timeout_seconds=5)
        first = asyncio.create_task(answered(app, large))
        await arrived.wait()
        beside = [await answered(app, large), *[await answered(app, small) for _ in range(8)]]
        going_on.set()
        return [await first, *beside, await answered(app, large)]

    assert asyncio.run(scenario()) == [200, 503, *[200] * 9]


def test_an_infinite_number_is_named_not_echoed_raw(
    client: TestClient, body: dict[str, Any]
) -> None:
    text = json.dumps(body).replace("1000000000.0", "1e999")
    error = refused(client.post(PATH, content=text, headers=JSON))
    assert (error["field"], error["value"]) == ("asset_value", "inf")


@pytest.mark.parametrize(
    "media_type",
    [
        *("text/plain", "application/xml", "", "application/jsonx"),
        *("application/json; charset=utf-16", "application/json;charset=utf-8;charset=utf-7"),
    ],
)
def test_another_content_type_is_refused(
    client: TestClient, body: dict[str, Any], media_type: str
) -> None:
    headers = {"Content-Type": media_type}
    refused(client.post(PATH, content=json.dumps(body), headers=headers), 415)


@pytest.mark.parametrize("charset", ["charset=utf-8", 'Charset="UTF-8"', ""])
def test_utf_8_may_be_named(client: TestClient, charset: str) -> None:
    headers = {"Content-Type": f"Application/JSON; {charset}"}
    assert refused(client.post(PATH, content=b"{}", headers=headers))["field"] == "sites"


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "", "x" * 1000])
def test_an_encoded_body_is_refused(
    client: TestClient, body: dict[str, Any], encoding: str
) -> None:
    headers = {"Content-Encoding": encoding}
    answer = client.post(PATH, json=body, headers=headers)
    assert "Content-Encoding must be identity" in refused(answer, 415)["message"]
    assert answer.headers["accept-encoding"] == "identity"


def test_the_encoding_identity_is_none(client: TestClient) -> None:
    answer = client.post(PATH, content=b"{}", headers=JSON | {"Content-Encoding": "Identity"})
    assert refused(answer)["field"] == "sites"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"asset_value": 1, "sites": [], "asset_value": 2}', "asset_value"),
        ('{"sites": [{}, {"site_id": "a", "site_id": "b"}]}', "sites[1].site_id"),
        ('{"years": {"from": 2021, "from": 2030}}', "years.from"),
        ('{"\\u0061": 1, "a": 1}', "a"),
        ('{"sites": [], "sites": 9' + "9" * 4000 + "}", "sites"),
    ],
)
def test_a_name_that_is_twice_in_an_object_is_named_with_its_place(
    client: TestClient, text: str, field: str
) -> None:
    error = refused(client.post(PATH, content=text, headers=JSON))
    assert (error["field"], error["rule"]) == (field, "named 2 times; name it once")


def test_every_name_that_is_there_again_is_listed(client: TestClient) -> None:
    text = '{"a": 1, "a": 1, "years": {"to": 1, "to": 1, "to": 1}}'
    faults = refused(client.post(PATH, content=text, headers=JSON))["faults"]
    assert [fault["field"] for fault in faults] == ["a", "years.to"]


@pytest.mark.parametrize("name", ["Idempotency-Key", "Content-Type", "Host"])
def test_a_header_that_counts_once_is_refused_twice(
    client: TestClient, body: dict[str, Any], name: str
) -> None:
    headers = [(name, "a"), (name.lower(), "b"), *JSON.items()][
        : 2 if name == "Content-Type" else 3
    ]
    error = refused(client.post(PATH, json=body, headers=headers), 400)
    assert (error["field"], error["value"]) == (f"header.{name}", "a list of 2 items")
    assert error["rule"] == "must be sent once"


@pytest.mark.parametrize("coding", ["gzip, chunked", "chunked, chunked", "identity"])
def test_another_transfer_coding_than_chunked_is_refused(
    client: TestClient, body: dict[str, Any], coding: str
) -> None:
    headers = JSON | {"Transfer-Encoding": coding}
    error = refused(client.post(PATH, content=json.dumps(body), headers=headers), 400)
    assert (error["field"], error["value"]) == ("header.Transfer-Encoding", coding)


@pytest.mark.parametrize("query", ["limit=1&limit=2", "format=csv&%66ormat=json", "a&a"])
def test_a_query_parameter_that_is_given_twice_is_refused(client: TestClient, query: str) -> None:
    path = f"{PATH}/00000000-0000-0000-0000-000000000000/results?{query}"
    error = refused(client.get(path), 400)
    assert error["field"] == f"query.{query.split('=')[0].split('&')[0]}"
    assert error["rule"] == "given 2 times; give it once"


def test_of_two_request_ids_none_is_kept(client: TestClient) -> None:
    answer = client.get("/health/live", headers=[("X-Request-ID", "a"), ("X-Request-ID", "b")])
    assert answer.headers["x-request-id"] not in ("a", "b")


def test_no_answer_leads_to_the_host_that_a_caller_names(client: TestClient) -> None:
    for path in ("/docs/", f"{PATH}/", "/health/live/", "/"):
        answer = client.get(path, headers={"Host": "elsewhere.example"}, follow_redirects=False)
        assert answer.status_code in (200, 404)
        assert "elsewhere" not in f"{answer.headers}{answer.text}"


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\xe9", "a\tb"])
def test_a_bad_idempotency_key_is_refused(
    client: TestClient, body: dict[str, Any], key: str
) -> None:
    answer = client.post(PATH, json=body, headers={"Idempotency-Key": key.encode("latin-1")})
    assert refused(answer)["field"] == "header.Idempotency-Key"


@pytest.mark.parametrize("name", ["x", "123", "%00", "' OR 1=1 --", "a" * 5000])
def test_an_assessment_id_that_is_no_uuid_is_refused(client: TestClient, name: str) -> None:
    for tail in ("", "/results", "/summary", "/events"):
        assert refused(client.get(f"{PATH}/{name}{tail}"))["field"] == "path.assessment_id"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("year=2020", "query.year"),
        ("year=99999999999999999999", "query.year"),
        ("year=x", "query.year"),
        ("scenario=SSP1", "query.scenario"),
        ("risk_type=flood", "query.risk_type"),
        ("format=xml", "query.format"),
        ("limit=0", "query.limit"),
        ("limit=10001", "query.limit"),
        ("format=csv&limit=50001", "query.limit"),
        ("site_id=%00", "query.site_id"),
        ("site_id=", "query.site_id"),
        ("cursor=nonsense", "query.cursor"),
        ("cursor=%ff%fe", "query.cursor"),
        ("cursor=" + "a" * 201, "query.cursor"),
    ],
)
def test_a_bad_query_parameter_is_named(client: TestClient, query: str, field: str) -> None:
    path = f"{PATH}/00000000-0000-0000-0000-000000000000/results?{query}"
    assert refused(client.get(path))["field"] == field


def test_an_unknown_path_and_method_have_the_same_error_shape(client: TestClient) -> None:
    assert refused(client.get("/nowhere"), 404)["code"] == "not_found"
    answer = client.delete(PATH)
    assert refused(answer, 405)["code"] == "method_not_allowed"
    assert answer.headers["allow"] == "POST"
