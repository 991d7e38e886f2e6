"""pgbench: what is run, what is not, and how its words become figures."""

from __future__ import annotations

from typing import Any

from loadtest.cli import CLIENTS, counts
from loadtest.measure.pgbench import (
    Campaign,
    Case,
    cases,
    command,
    cores,
    figures,
    is_complete,
    reason_against,
)
from loadtest.report import pgbench as page
from loadtest.run_directory import Series

DEFAULT_CLIENTS = counts("CLIENTS", CLIENTS)
CAMPAIGN = Campaign(
    clients=DEFAULT_CLIENTS, direct_max=1000, seconds=5, repeats=1, scale=1, login_ms=9, only=""
)
LIMITS = {"direct_max": 1000, "open_files": 20_000}


def case(**changes: Any) -> Case:
    values: dict[str, Any] = {
        "path": "pgbouncer",
        "mode": "read",
        "protocol": "extended",
        "clients": 8,
    }
    return Case(**(values | changes))


def test_prepared_has_a_thread_per_client_because_else_it_hangs() -> None:
    prepared = [one for one in cases(DEFAULT_CLIENTS) if one.protocol == "prepared"]
    assert prepared
    assert all(one.threads == one.clients for one in prepared)
    assert reason_against(case(protocol="prepared", clients=380), **LIMITS)


def test_every_kind_is_measured_on_both_paths() -> None:
    found = list(cases(DEFAULT_CLIENTS))
    assert {(one.mode, one.protocol, one.connect) for one in found} == {
        ("read", "extended", False),
        ("read", "simple", False),
        ("read", "prepared", False),
        ("write", "extended", False),
        ("read", "simple", True),
    }
    by_path = [
        {(one.kind, one.clients) for one in found if one.path == path}
        for path in ("pgbouncer", "direct")
    ]
    assert by_path[0] == by_path[1]


def test_what_the_machine_cannot_do_is_left_out_with_a_reason() -> None:
    assert "open files" in reason_against(case(clients=10_000), direct_max=1, open_files=4096)
    assert "DIRECT_CLIENTS_MAX" in reason_against(case(path="direct", clients=5000), **LIMITS)
    assert reason_against(case(clients=10_000), **LIMITS) == ""


def test_the_command_line_names_what_the_case_says() -> None:
    line = command(case(mode="write", connect=True, clients=64), CAMPAIGN)
    assert "--builtin=tpcb-like" in line
    assert "--connect" in line
    assert "--client=64" in line


def test_the_clock_starts_after_the_logins() -> None:
    lines = [
        "pgbench (17.0)\n",
        "progress: 110.0 s, 3.0 tps, lat 5.0 ms stddev 1.0, 0 failed\n",
        "progress: 111.0 s, 50.0 tps, lat 5.0 ms stddev 1.0, 0 failed\n",
        "progress: 112.0 s, 100.0 tps, lat 5.0 ms stddev 1.0, 0 failed\n",
        "progress: 114.0 s, 400.0 tps, lat 5.0 ms stddev 1.0, 0 failed\n",
    ]
    found = figures(lines, started=100.0)
    assert found["login_seconds"] == 10
    assert found["window"] == [111.0, 114.0]
    assert found["tps"] == (100 * 1 + 400 * 2) / 3
    assert cores(found["window"], [1.0, 5.0, 6.0, 8.0]) == 1.0
    assert is_complete(found)


def test_a_run_that_lost_a_client_is_not_complete() -> None:
    lines = ["progress: 1.0 s, 9.0 tps, lat 1 ms\n"] * 5 + ["pgbench: error: client 3 aborted\n"]
    assert not is_complete(figures(lines, started=0.0))
    assert not is_complete(figures([], started=0.0))


def run(path: str, clients: int, tps: float) -> dict[str, Any]:
    return case(path=path, clients=clients).as_dict() | {
        "tps": tps,
        "errors": 0,
        "messages": [],
        "window": [10.0, 20.0],
        "login_seconds": 1.0,
        "histogram": {},
        "client_cores": 0.5,
        "started": 5.0,
        "ended": 20.0,
    }


def memory(kilobytes: float) -> list[Series]:
    sample = {"t": 15.0, "backends_pss_kb": kilobytes, "backends_own_kb": kilobytes}
    return [Series("lab-postgres", "1", (sample,))]


def test_ten_thousand_clients_are_set_against_eight() -> None:
    runs = [run("pgbouncer", 8, 1000.0), run("pgbouncer", 10_000, 899.0)]
    (found, *_) = page.findings(page.lines(runs, memory(1.0)))
    assert "10,000 clients" in found.claim
    assert found.verdict == "NO"


def test_what_passes_is_set_against_direct_connections_at_each_count_that_was_run() -> None:
    runs = [run("pgbouncer", 8, 900.0), run("direct", 8, 1000.0)]
    runs += [run("pgbouncer", 64, 900.0), run("direct", 64, 1000.0)]
    found = {one.claim: one.verdict for one in page.findings(page.lines(runs, []))}
    assert found["read extended through PgBouncer with 8 clients, of direct (>= 88 %)"] == "yes"
    assert found["read extended through PgBouncer with 64 clients, of direct (>= 100 %)"] == "NO"
    assert not any("1,000" in claim or "prepared" in claim for claim in found)


def test_nothing_is_said_of_what_was_not_run() -> None:
    assert page.findings(page.lines([run("pgbouncer", 8, 900.0)], memory(1.0))) == []


def test_the_profile_says_whose_time_grew() -> None:
    runs = [run("pgbouncer", 8, 1000.0), run("pgbouncer", 10_000, 500.0)]
    claims = {one.claim: one.measured for one in page.findings(page.lines(runs, []))}
    (measured,) = [shown for claim, shown in claims.items() if claim.startswith("what limits it")]
    assert measured == "pgbench 500 -> 1000"


def test_repeats_become_one_line_with_its_range() -> None:
    (line,) = page.lines([run("direct", 8, tps) for tps in (90.0, 100.0, 130.0)], memory(2048))
    assert line.tps is not None
    assert (line.tps.median, line.tps.minimum, line.tps.maximum) == (100, 90, 130)
    assert line.backends_pss_mib == 2
