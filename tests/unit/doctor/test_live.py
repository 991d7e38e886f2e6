"""What `doctor` makes of the running path: of rows, of a sample, and of what does not answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from infra.config.names import API, MONITOR, WORKER
from infra.ops.clients import app_control, pgbouncer
from infra.ops.clients.postgres import RoleSettings, ServerSetting
from infra.ops.clients.processes import OpsSettings, TimedOutError
from infra.ops.doctor import checks, live
from infra.ops.doctor.findings import Diagnosis, Finding, Severity
from infra.ops.outcome import Exit
from infra.ops.status.sample import (
    AppProcess,
    Certificate,
    Container,
    Disk,
    HostFacts,
    Pooler,
    Sample,
    Server,
    ServerPool,
    Session,
)
from tests.command import REPOSITORY

Row = dict[str, Any]
SETTINGS = {"server_version_num": "170012", "autovacuum": "on", "track_counts": "on"}
SECRET = "canary-in-a-statement"  # noqa: S105  # no secret
POOLED = [API.role, WORKER.role, MONITOR]


class FakeAdmin:
    """A server that answers each query with the rows that a test gives; an exception is raised."""

    def __init__(self, **answers: list[Row] | Exception) -> None:
        self._answers = {getattr(live, name): rows for name, rows in answers.items()}
        self.tracked = "on"

    def settings(self) -> dict[str, ServerSetting]:
        return {
            name: ServerSetting(name, value, None, "sighup", "default")
            for name, value in SETTINGS.items()
        }

    def roles(self, names: list[str]) -> dict[str, RoleSettings]:
        return {name: RoleSettings(name, 8, {live.TRACK: self.tracked}) for name in names}

    def read(self, query: str, parameters: list[Any] | None = None) -> list[Row]:
        assert (parameters is not None) == ("ANY(%s)" in query)
        assert parameters in (None, [POOLED])
        answer = self._answers.get(query, [])
        if isinstance(answer, Exception):
            raise answer
        return answer


def judged(admin: FakeAdmin) -> Diagnosis:
    made = Diagnosis()
    live.judge_server(admin, made, POOLED)  # type: ignore[arg-type]  # what it calls of it
    return made


def sent(query: str, *, role: str = API.role, calls: int = 3) -> Row:
    return {"rolname": role, "queryid": 1, "calls": calls, "query": query}


def rules(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    return [(one.severity.value, one.rule) for one in findings]


def test_a_clean_server_has_nothing_found_and_nothing_left_out() -> None:
    # The last is PgBouncer's own, which keeps the setting for each client.
    statements = ["SELECT $1", "BEGIN", "SET LOCAL a = 1", "SET application_name='a';"]
    made = judged(FakeAdmin(STATEMENTS=[sent(one) for one in statements]))
    assert (made.findings, made.not_judged) == ([], [])
    assert made.judged == {"checks": len(live.READINGS) + 3, "statements": 4}
    assert made.exit_code == Exit.OK


def test_statements_are_judged_by_the_rules_of_sources_and_counted_by_role() -> None:
    made = judged(
        FakeAdmin(
            STATEMENTS=[
                sent("LISTEN cache", role=WORKER.role),
                sent("SELECT pg_advisory_lock($1)", calls=2),
                sent("SELECT pg_advisory_lock($1) AS again", calls=5),
                sent("SELECT currval($1)"),
            ]
        )
    )
    assert [(one.rule, one.where, one.evidence) for one in made.ordered()] == [
        ("listen", WORKER.role, "LISTEN cache; calls: 3"),
        ("session-advisory-lock", API.role, "pg_advisory_lock(); calls: 7"),
    ]


def test_values_of_statements_are_in_no_document() -> None:
    made = judged(
        FakeAdmin(
            STATEMENTS=[
                sent(f"SET app.token = '{SECRET}'"),
                sent(f"SELECT set_config('app.token', '{SECRET}', false)"),
                sent(f"ALTER ROLE risk_api PASSWORD '{SECRET}'"),
                sent(f"SELECT FROM WHERE {SECRET}"),
                sent(f"SELECT '{SECRET}"),
            ]
        )
    )
    document = made.as_dict()
    assert SECRET not in str(document)
    assert len(made.findings) == 2
    assert len(made.not_judged) == 2


def test_what_is_not_tracked_or_was_forgotten_is_not_judged() -> None:
    admin = FakeAdmin(FORGOTTEN=[{"dealloc": 4}])
    admin.tracked = "off"
    assert [one.what for one in judged(admin).not_judged] == [
        *(f"SET, LISTEN and the like of {role}" for role in POOLED),
        "rare statements",
    ]


@pytest.mark.parametrize(
    "error", [psycopg.errors.InsufficientPrivilege("permission denied"), TimedOutError("no answer")]
)
def test_a_query_that_fails_is_not_judged_with_the_reason_and_the_rest_is(error: Exception) -> None:
    made = judged(FakeAdmin(STATEMENTS=error, AGES=error, SLOTS=[slot(active=False)]))
    assert {one.what for one in made.not_judged} == {
        "statements of pooled roles",
        "age of transaction ids",
    }
    assert {one.reason for one in made.not_judged} == {str(error)}
    assert rules(made.findings) == [("warning", "replication-slot")]


def slot(**values: object) -> Row:
    return {"slot_name": "s", "active": True, "wal_status": "reserved", "bytes": 0} | values


def table(**values: object) -> Row:
    row = {"schemaname": "a", "relname": "b", "live": 10, "dead": 0, "never": False}
    return row | {"threshold": 50.0} | values


def sequence(used: float | None) -> Row:
    return {"schemaname": "a", "sequencename": "s", "used": used}


def age(**values: int) -> Row:
    return {"datname": "risk", "transaction_ids": 0, "multixact_ids": 0} | values


Check = Callable[[list[Row]], Iterable[Finding]]


@pytest.mark.parametrize(
    ("check", "row", "expected"),
    [
        (checks.ages, age(transaction_ids=999_999_999), None),
        (checks.ages, age(transaction_ids=1_000_000_000), "warning"),
        (checks.ages, age(multixact_ids=1_600_000_000), "critical"),
        (checks.replication_slots, slot(), None),
        (checks.replication_slots, slot(bytes=1 << 30), "warning"),
        (checks.replication_slots, slot(wal_status="lost", bytes=None), "warning"),
        (checks.tables, table(dead=9_999), None),
        (checks.tables, table(dead=10_000), "warning"),
        (checks.tables, table(dead=10_000, threshold=2_501.0), None),
        (checks.tables, table(live=100_000, never=True), "note"),
        (checks.sequences, sequence(None), None),
        (checks.sequences, sequence(0.69), None),
        (checks.sequences, sequence(0.7), "warning"),
        (checks.sequences, sequence(0.9), "critical"),
        (checks.checkpoints, {"requested": 19, "timed": 0}, None),
        (checks.checkpoints, {"requested": 20, "timed": 20}, None),
        (checks.checkpoints, {"requested": 21, "timed": 20}, "note"),
        (checks.prepared_transactions, {"database": "d", "owner": "o", "seconds": 59.0}, None),
        (checks.prepared_transactions, {"database": "d", "owner": "o", "seconds": 60.0}, "warning"),
        (
            checks.idle_locks,
            {"pid": 1, "usename": "risk_api", "locks": 1, "idle_seconds": 2.0},
            "critical",
        ),
        (
            checks.temporary_objects,
            {"usename": "risk_api", "nspname": "pg_temp_1", "relname": "t"},
            "critical",
        ),
    ],
)
def test_each_check_has_its_limit(check: Check, row: Row, expected: str | None) -> None:
    found = list(check([row]))
    assert [one.severity.value for one in found] == ([expected] if expected else [])
    assert all(one.evidence and one.meaning and one.remedy for one in found)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        ({"server_version_num": "170011"}, ["version"]),
        ({"server_version_num": "180000"}, []),
        ({"autovacuum": "off"}, ["autovacuum-off"]),
    ],
)
def test_settings_and_version_of_the_server(changed: dict[str, str], expected: list[str]) -> None:
    assert [one.rule for one in checks.server_settings(SETTINGS | changed)] == expected


@pytest.mark.parametrize(("text", "old"), [("1.26.0", True), ("1.26.1", False), ("1.27", False)])
def test_the_version_of_pgbouncer(text: str, old: bool) -> None:
    assert bool(list(checks.pgbouncer_version("p", f"PgBouncer {text}"))) is old


def test_the_floor_is_the_one_below_which_no_image_is_built() -> None:
    text = (REPOSITORY / "pgbouncer" / "Dockerfile").read_text(encoding="utf-8")
    (floor,) = re.findall(r"PGBOUNCER_VERSION_FLOOR=(\S+)", text)
    assert ".".join(map(str, checks.PGBOUNCER_FLOOR)) == floor


def pool(database: str, **values: Any) -> ServerPool:
    return replace(ServerPool(database, "role", clients_active=1, pool_size=4), **values)


POOLS = (pool("risk"), pool("risk_batch"))
HOST = HostFacts((), Disk(2**40, 2**39))
CLEAN = Sample(
    (AppProcess("api", "api-1"),),
    (Pooler("pgbouncer-1", pools=POOLS),),
    Server(60, 2),
    HOST,
    (Certificate("ca.crt", 31),),
)
OLD = Session(7, "risk_api", 60.0, SECRET, state="idle in transaction")
WAITS = Session(8, "risk_api", 0.2, SECRET, blocked_by=(7,))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        ({"certificates": (Certificate("ca.crt", 30),)}, [("warning", "certificate")]),
        ({"certificates": (Certificate("ca.crt", -1),)}, [("critical", "certificate")]),
        ({"server": Server(60, 2, oldest=replace(OLD, seconds=59.0))}, []),
        ({"server": Server(60, 2, oldest=OLD)}, [("warning", "open-transaction")]),
        (
            {"server": Server(60, 2, blocked=(WAITS,), holders=(OLD,))},
            [("warning", "blocked-session")],
        ),
        (
            {
                "poolers": (
                    Pooler(
                        "p", pools=(pool("risk", servers_active=4, clients_waiting=1), POOLS[1])
                    ),
                )
            },
            [("warning", "full-pool")],
        ),
        ({"poolers": (Pooler("p", pools=POOLS[:1]),)}, [("note", "unused-pool")]),
        ({"poolers": (Pooler("p", paused=True, pools=POOLS),)}, [("critical", "bottleneck")]),
        ({"host": HostFacts((), Disk(2**40, 2**20))}, [("critical", "bottleneck")]),
        ({"host": HostFacts((), Disk(2**40, 2**30, 2**31))}, [("warning", "bottleneck")]),
        (
            {"host": HostFacts((Container("api", "api-1", "running", "now", restarts=1),))},
            [("note", "restarts")],
        ),
        (
            {"app": (AppProcess("api", "api-1", needs_restart=("API_PORT",)),)},
            [("note", "waiting-settings")],
        ),
    ],
)
def test_a_sample_is_judged(changed: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    found = list(checks.of_sample(replace(CLEAN, **changed), renew_days=30))
    assert rules(found) == expected
    assert SECRET not in str(found)


def test_with_everything_down_it_says_what_it_could_not_judge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    down = Sample(
        (AppProcess("api", "api", error="is not running"),),
        (Pooler("pgbouncer", error="a replica is not running"),),
        Server(error="has no address: its container does not run"),
        certificates=(Certificate("ca.crt", 3),),
    )

    class Down:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def sample(self) -> Sample:
            return down

        def close(self) -> None:
            pass

    monkeypatch.setattr(live, "Collector", Down)
    monkeypatch.setattr(app_control, "connect", lambda _: None)
    monkeypatch.setattr(pgbouncer, "replicas", lambda _: ())
    monkeypatch.setattr(live, "resolve", lambda *_: ())
    settings = OpsSettings(
        {"postgres": {"host": "postgres", "port": 5432, "processors": 2, "instances": ["postgres"]}}
    )
    made = live.examine(settings, host=None, recorded={"CERTIFICATE_RENEW_DAYS": 5})
    assert [one.rule for one in made.ordered()] == ["bottleneck", "certificate"]
    assert made.ordered()[0].severity is Severity.CRITICAL
    assert {one.what for one in made.not_judged} >= {
        *("postgres", "pgbouncer", "api", "containers and disk", "settings", "sequences"),
        "statements of pooled roles",
    }
    assert made.exit_code == Exit.FAILED
