"""make logs: lines of every tier in one form, and one request across them."""

from __future__ import annotations

import io
import json

import pytest

from infra.ops import logs

REQUEST = "5d1f0c2a9b6e4c44a8f6a3f1a7f0c111"
ASSESSMENT = "0b7f3f0e-7a53-4bd8-9a53-5f6bb4b1a2c3"


def json_line(container: str, second: float, event: str, **fields: object) -> str:
    own = {"event": event, "level": "info", "logger": "app", "timestamp": "-", "service": "api"}
    return printed(container, second, json.dumps(own | fields))


def printed(container: str, second: float, text: str) -> str:
    return f"\x1b[2K{container:<12} | 2026-01-02T10:00:{second:09.6f}123Z {text}\n"


def server_line(second: float, application: str, message: str = "LOG:  waits") -> str:
    session = f"risk_api@risk {application} -42 " if application else ""
    text = f"2026-01-02 10:00:{second:06.3f} UTC [77] 00000 {session}{message}"
    return printed("postgres-1", second, text)


def pooler_line(second: float, address: str) -> str:
    text = (
        f"2026-01-02 10:00:{second:06.3f} UTC [1] WARNING C-0x55d0c8: "
        f"risk/risk_api@{address} pooler error: query_wait_timeout"
    )
    return printed("pgbouncer-2", second, text)


def only(line: str) -> logs.Line:
    (found,) = logs.read([line])
    return found


def shown(
    capsys: pytest.CaptureFixture[str], lines: list[str], request: str | None = REQUEST
) -> tuple[int, list[dict[str, str]]]:
    code = logs.run(io.StringIO("".join(lines)), request, colour=False, as_json=True)
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_line_of_each_tier_has_the_same_fields() -> None:
    lines = [
        only(json_line("api-1", 1, "request", request_id=REQUEST, status=200)),
        only(server_line(2, "sluice-api/submit/x")),
        only(pooler_line(3, "10.0.0.5:4321")),
    ]
    for line, container in zip(lines, ("api-1", "postgres-1", "pgbouncer-2"), strict=True):
        found = line.as_dict()
        assert list(found)[:5] == ["time", "tier", "container", "level", "message"]
        assert (found["tier"], found["container"]) == (container[:-2], container)
    assert lines[0].fields == {"logger": "app", "request_id": REQUEST, "status": 200}
    assert lines[1].fields == {
        "pid": "77",
        "sqlstate": "00000",
        "role": "risk_api",
        "database": "risk",
        "application": "sluice-api/submit/x",
        "query_id": "-42",
    }
    assert lines[2].fields == {
        "side": "client",
        "database": "risk",
        "role": "risk_api",
        "address": "10.0.0.5:4321",
    }
    assert lines[2].message == "pooler error: query_wait_timeout"
    assert [line.level for line in lines] == ["info", "info", "warning"]


@pytest.mark.parametrize(
    ("written", "level"),
    [
        ("LOG", "info"),
        ("DEBUG2", "debug"),
        ("WARNING", "warning"),
        ("ERROR", "error"),
        ("FATAL", "critical"),
    ],
)
def test_levels_have_one_set_of_names(written: str, level: str) -> None:
    assert only(server_line(1, "", f"{written}:  text")).level == level


def test_a_name_with_spaces_is_the_whole_application() -> None:
    assert only(server_line(1, "my own 12 tool")).fields["application"] == "my own 12 tool"


def test_what_has_no_known_form_is_shown_as_it_is() -> None:
    for text in ("\tQuery Text: SELECT 1", "{ no json", "Traceback (most recent call last):"):
        line = only(printed("worker-1", 1, text))
        assert (line.message, line.level) == (text, "")
    assert list(logs.read(["api-1 exited with code 0\n", "\n"])) == []


def test_lines_for_people_have_columns_and_no_control_character() -> None:
    line = only(json_line("api-1", 1, "re\x1b[31mquest", path="/a b", exception="one\ntwo\x07"))
    assert line.as_text(colour=False) == (
        "2026-01-02 10:00:01.000  api-1         info      "
        're\\u001b[31mquest  logger=app path="/a b"\n'
        "    one\n"
        "    two\\u0007"
    )
    assert "\x1b[36mapi-1" in line.as_text(colour=True)


def test_a_request_is_found_in_every_tier_in_the_order_of_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, found = shown(
        capsys,
        [
            json_line(
                "api-1", 2, "connection discarded", request_id=REQUEST, address="10.0.0.5:4321"
            ),
            json_line(
                "api-1", 4, "assessment accepted", request_id=REQUEST, assessment_id=ASSESSMENT
            ),
            json_line("api-1", 4, "request", request_id="other", path=REQUEST),
            json_line("worker-1", 6, "batch started", assessment_id=ASSESSMENT),
            json_line("worker-1", 6, "batch started", assessment_id=REQUEST[::-1]),
            pooler_line(1.9, "10.0.0.5:4321"),
            # The port again, for somebody else.
            pooler_line(30, "10.0.0.5:4321"),
            pooler_line(2, "10.0.0.6:4321"),
            server_line(3, f"sluice-api/submit/{REQUEST}"),
            printed("postgres-1", 3.1, "\tQuery Text: INSERT"),
            server_line(3.2, "sluice-api/submit/other"),
            printed("postgres-1", 3.3, "\tQuery Text: of the other"),
            server_line(7, f"sluice-worker/complete/{ASSESSMENT}"),
        ],
    )
    assert code == 0
    assert [(line["container"], line["time"][17:21]) for line in found] == [
        ("pgbouncer-2", "01.9"),
        ("api-1", "02.0"),
        ("postgres-1", "03.0"),
        ("postgres-1", "03.1"),
        ("api-1", "04.0"),
        ("worker-1", "06.0"),
        ("postgres-1", "07.0"),
    ]


def test_a_request_is_found_where_the_log_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    text = f"2026-01-02T10:00:01Z info     app.api: request status=200 request_id={REQUEST}"
    code, found = shown(capsys, [printed("api-1", 1, text)])
    assert (code, len(found)) == (0, 1)
    assert found[0]["level"] == "info"


def test_a_long_id_is_found_by_what_postgresql_keeps_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = "x" * 100
    kept = f"sluice-api/submit/{long}"[:63]
    lines = [json_line("api-1", 1, "request", request_id=long), server_line(2, kept)]
    assert len(shown(capsys, lines, long)[1]) == 2
    # Where it is whole it must be the whole id.
    lines[1] = server_line(2, "sluice-api/submit/xxx")
    assert len(shown(capsys, lines, long)[1]) == 1


def test_an_unknown_id_is_said_to_be_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [server_line(1, "sluice-api/submit/other")]
    assert logs.run(io.StringIO("".join(lines)), "gone", colour=False, as_json=False) == 1
    printed_text = capsys.readouterr()
    assert printed_text.out == ""
    assert "gone" in printed_text.err


def test_without_a_request_every_line_is_shown_as_it_comes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [server_line(2, ""), json_line("api-1", 1, "request")]
    code, found = shown(capsys, lines, None)
    assert code == 0
    assert [line["container"] for line in found] == ["postgres-1", "api-1"]
