"""What a restart or a change of replicas reports: per process, with the times that are known."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

from infra.config import catalogue, documents
from infra.ops import pause, pause_record, paused_change, restart, rolling
from infra.ops.cli import create_app
from infra.ops.clients import app_control, pgbouncer
from infra.ops.clients.app_control import (
    Control,
    ControlError,
    NotListeningError,
    PoolNumbers,
    ProcessState,
)
from infra.ops.clients.processes import OpsSettings, Target
from infra.ops.operation import EndedBySignalError, Operation
from infra.ops.outcome import Exit
from infra.ops.pause import Pause
from tests.unit.ops.support import POOLERS, SETTINGS, Run, processes

API = Target("api-1", "api-control", "192.0.2.11", 9000)
WORKER = Target("worker-1", "worker-control", "192.0.2.12", 9000)


class Console:
    """A replica's admin console, on which nobody is left."""

    shutdowns: ClassVar[list[str]] = []

    def __init__(self, *_: object, **__: object) -> None:
        self.paused = False

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def shutdown(self, mode: str) -> None:
        self.shutdowns.append(mode)

    def show(self, _what: str) -> list[dict[str, str]]:
        return []

    def pools(self) -> list[dict[str, str]]:
        return []


class App:
    """A control plane of one api container and one worker; `silent` is who does not answer.

    The api runs `processes` and should have `wanted`, which it takes from a restart on. Of its
    ports, nobody listens on those that are `down`; those in `closed` have no pool yet; those in
    `staying` never go.
    """

    # How the processes are found is the real thing.
    targets, absent, _processes_of = Control.targets, Control.absent, Control._processes_of

    def __init__(
        self,
        silent: str = "",
        processes: int = 1,
        wanted: int = 1,
        *,
        down: Iterable[int] = (),
        closed: Iterable[int] = (),
        staying: Iterable[int] = (),
    ) -> None:
        self.port = API.port
        self.aliases = {"api": API.host, "worker": WORKER.host}
        self.replicas, self.processes = {"api": 1, "worker": 1}, {"api": wanted, "worker": 1}
        self.running = processes
        self._silent, self._closed, self._staying = silent, set(closed), set(staying)
        self._worker_age = 0
        # By port: which start, and how many processes its settings file had then.
        ports = {API.port + slot for slot in range(processes)} - set(down)
        self._up = dict.fromkeys(ports, (0, processes))

    def state(self, target: Target) -> ProcessState:
        service = target.host.removesuffix("-control")
        if service == "worker":
            return self._state(target, self._worker_age, {})
        if target.name == self._silent:
            raise ControlError("state: ReadTimeout")
        if target.port not in self._up:
            raise NotListeningError("state: ConnectError")
        age, processes = self._up[target.port]
        return self._state(target, age, {"processes": processes})

    def _state(self, target: Target, age: int, settings: dict[str, int]) -> ProcessState:
        service = target.host.removesuffix("-control")
        idle = 0 if service == "api" and target.port in self._closed else 2
        pool = PoolNumbers(service, 2, 2, 4, 0, idle, 0, 0)
        return ProcessState(
            target, service, target.container, target.port, str(age), settings, pool, ()
        )

    def drain(self, target: Target) -> ProcessState:
        if target.name == self._silent:
            raise ControlError("drain: ConnectError")
        return self.state(target)

    def restart(self, target: Target) -> ProcessState:
        self.running = self.processes["api"]
        ports = range(API.port, API.port + self.running)
        self._up[target.port] = (self._up[target.port][0] + 1, self.running)
        kept = {one: it for one, it in self._up.items() if one in ports or one in self._staying}
        self._up = dict.fromkeys(ports, (0, self.running)) | kept
        return self.state(target)

    def replace_api(self, _name: str) -> None:
        self.running = self.processes["api"]
        self._up = {API.port + slot: (1, self.running) for slot in range(self.running)}

    def replace_worker(self, _name: str) -> None:
        self._worker_age += 1


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> App:
    """Return an app that does all it is asked to."""
    return use(monkeypatch, App())


def use(monkeypatch: pytest.MonkeyPatch, app: App) -> App:
    found = {API.host: (API,), WORKER.host: (WORKER,)}
    monkeypatch.setattr(app_control, "resolve", lambda host, _: found[host])
    monkeypatch.setattr(app_control, "connect", lambda _: app)
    return app


@pytest.fixture
def replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have three replicas serve that nobody is connected to."""
    monkeypatch.setattr(pgbouncer, "require", lambda *_: POOLERS)
    monkeypatch.setattr(pgbouncer, "await_all", lambda *_, **__: POOLERS)
    monkeypatch.setattr(rolling, "PgBouncerAdmin", Console)
    Console.shutdowns.clear()


DRAINED = [("api-1", "connections replaced"), ("worker-1", "connections replaced")]


@pytest.mark.usefixtures("app", "replicas")
def test_a_rolling_restart_reports_every_replica_and_whose_connections_moved(
    document_of: Run,
) -> None:
    document = document_of(lambda request: rolling.restart(SETTINGS, request))
    assert processes(document) == [(one.name, "restarted") for one in POOLERS] + DRAINED
    assert all(one["seconds"] >= 0 for one in document["processes"][: len(POOLERS)])
    assert document["state"] == "3 PgBouncer replicas serve"
    assert (document["faults"], document["warnings"]) == ([], [])


@pytest.mark.usefixtures("app", "replicas")
def test_a_replica_that_was_taken_out_ends_soon_where_the_restart_is_interrupted(
    document_of: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_: object) -> None:
        raise EndedBySignalError("SIGHUP")

    monkeypatch.setattr(Operation, "ask_host", ended)
    document = document_of(lambda request: rolling.restart(SETTINGS, request))
    assert document["exit_code"] == Exit.FAILED
    assert Console.shutdowns == ["WAIT_FOR_CLIENTS", "WAIT_FOR_SERVERS"]


@pytest.mark.usefixtures("app", "replicas")
def test_what_an_interrupted_restart_left_out_is_started_first(
    document_of: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def require(*_: object) -> tuple[Target, ...]:
        if not asked:
            raise pgbouncer.NotServingError("2 of 3 PgBouncer replicas run")
        return POOLERS

    monkeypatch.setattr(pgbouncer, "require", require)
    monkeypatch.setattr(rolling, "DRAIN_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(Operation, "ask_host", lambda _, *step: asked.append(step))
    assert document_of(lambda request: rolling.restart(SETTINGS, request))["exit_code"] == Exit.OK
    assert asked[0] == ("start", "pgbouncer=3")
    assert asked[1] == ("replace-pgbouncer", "pgbouncer-1")


@pytest.mark.usefixtures("app", "replicas")
def test_a_replica_that_stays_away_is_a_refusal(
    document_of: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def require(*_: object) -> tuple[Target, ...]:
        raise pgbouncer.NotServingError("2 of 3 PgBouncer replicas run")

    monkeypatch.setattr(pgbouncer, "require", require)
    monkeypatch.setattr(rolling, "TAKE_OVER_SECONDS", 0.0)
    document = document_of(lambda request: rolling.restart(SETTINGS, request))
    assert document["exit_code"] == Exit.REFUSED
    assert document["faults"] == ["refused: 2 of 3 PgBouncer replicas run"]


@pytest.mark.usefixtures("app", "replicas")
def test_a_retired_replica_is_reported(document_of: Run) -> None:
    document = document_of(lambda request: rolling.retire(SETTINGS, request, "pgbouncer-3"))
    assert processes(document) == [("pgbouncer-3", "removed")]
    assert document["operation"] == "retire pgbouncer-3"
    assert document["state"] == "2 PgBouncer replicas serve"


@pytest.mark.usefixtures("app", "replicas")
def test_a_refused_retirement_says_what_runs(document_of: Run) -> None:
    document = document_of(lambda request: rolling.retire(SETTINGS, request, "pgbouncer-7"))
    assert document["exit_code"] == Exit.REFUSED
    (fault,) = document["faults"]
    assert fault.startswith("refused: pgbouncer-7 is not one of several replicas that run: ")


@pytest.mark.usefixtures("replicas")
def test_who_does_not_replace_its_connections_is_a_warning(
    document_of: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, App(silent="worker-1"))
    document = document_of(lambda request: rolling.spread(SETTINGS, request, 3))
    assert document["exit_code"] == Exit.OK
    assert processes(document) == DRAINED[:1]
    assert document["warnings"] == [f"{WORKER}: drain: ConnectError"]


def test_an_app_restart_reports_every_process(
    document_of: Run, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restart, "_is_ready", lambda _: True)
    steps: list[str] = []

    def host(_: Operation, step: str, name: str) -> None:
        steps.append(step)
        app.replace_worker(name)

    monkeypatch.setattr(Operation, "ask_host", host)
    document = document_of(
        lambda request: restart.app(SETTINGS, request, ("api", "worker"), new_api_container=False)
    )
    assert processes(document) == [("api-1", "restarted"), ("worker-1", "restarted")]
    assert steps == ["replace-worker"]
    assert document["operation"] == "restart api and worker"


def test_an_app_restart_first_starts_the_workers_that_are_missing(
    document_of: Run, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restart, "_is_ready", lambda _: True)
    there: list[Target] = []
    steps: list[tuple[str, ...]] = []

    def host(_: Operation, *step: str) -> None:
        steps.append(step)
        if step[0] == "start":
            there.append(WORKER)
        else:
            app.replace_worker(step[1])

    monkeypatch.setattr(app_control, "resolve", lambda *_: tuple(there))
    monkeypatch.setattr(Operation, "ask_host", host)
    document = document_of(
        lambda request: restart.app(SETTINGS, request, ("worker",), new_api_container=False)
    )
    assert document["exit_code"] == Exit.OK
    assert steps == [("start", "worker=1"), ("replace-worker", "worker-1")]


@pytest.mark.parametrize(
    ("running", "wanted", "done"),
    [
        (2, 2, ["api-1 process 1: restarted", "api-1 process 2: restarted"]),
        (1, 2, ["api-1 process 1: restarted", "api-1 process 2: started"]),
        (3, 2, ["api-1 process 1: restarted", "api-1 process 2: restarted"]),
        (2, 1, ["api-1: restarted"]),
    ],
)
def test_every_api_process_is_restarted_and_then_there_are_as_many_as_the_settings_say(
    document_of: Run, monkeypatch: pytest.MonkeyPatch, running: int, wanted: int, done: list[str]
) -> None:
    app = use(monkeypatch, App(processes=running, wanted=wanted))
    document = document_of(
        lambda request: restart.app(SETTINGS, request, ("api",), new_api_container=False)
    )
    assert document["exit_code"] == Exit.OK
    assert app.running == wanted
    assert [f"{name}: {what}" for name, what in processes(document)] == done


def test_a_new_container_is_asked_for_once_and_all_its_processes_are_awaited(
    document_of: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = use(monkeypatch, App(processes=2, wanted=2))
    steps: list[tuple[str, ...]] = []

    def host(_: Operation, *step: str) -> None:
        steps.append(step)
        app.replace_api(step[1])

    monkeypatch.setattr(Operation, "ask_host", host)
    document = document_of(
        lambda request: restart.app(SETTINGS, request, ("api",), new_api_container=True)
    )
    assert document["exit_code"] == Exit.OK
    assert steps == [("replace-api", "api-1")]
    assert len(processes(document)) == 2


def restart_api(document_of: Run) -> dict[str, Any]:
    return document_of(
        lambda request: restart.app(SETTINGS, request, ("api",), new_api_container=False)
    )


def test_a_surplus_api_process_that_stays_is_a_failure(
    document_of: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, App(processes=2, wanted=1, staying=[9001]))
    monkeypatch.setattr(restart, "_RETIRE_SECONDS", 0.2)
    document = restart_api(document_of)
    assert document["exit_code"] == Exit.FAILED
    assert "still there, or not answering: api-1 process 2" in document["faults"][0]


def test_an_additional_api_process_without_its_pool_is_not_started(
    document_of: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, App(processes=1, wanted=2, closed=[9001]))
    monkeypatch.setattr(restart, "_REPLACE_SECONDS", 0.2)
    document = restart_api(document_of)
    assert document["exit_code"] == Exit.FAILED
    assert processes(document) == [("api-1 process 1", "restarted")]


@pytest.mark.parametrize(
    ("pool", "ready"),
    [
        # Just made: its size is what it is to have.
        (PoolNumbers("risk", 2, 2, 4, 0, 0, 0, 0), False),
        (PoolNumbers("risk", 2, 2, 4, 0, 1, 0, 0), False),
        (PoolNumbers("risk", 2, 2, 4, 0, 2, 0, 0), True),
        # All lent, more being made, callers waiting.
        (PoolNumbers("risk", 4, 2, 4, 2, 0, 7, 9), True),
        (PoolNumbers("risk", 2, 2, 4, 0, 2, 0, 0, unreachable=True), False),
    ],
)
def test_an_api_process_is_ready_when_its_pool_has_its_connections(
    pool: PoolNumbers, ready: bool
) -> None:
    state = ProcessState(API, "api", "api-1", 1, "", {}, pool, ())
    assert restart._is_ready(state) == ready


def test_an_api_process_that_is_not_up_is_named_and_taken_away_by_a_lower_number(
    document_of: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, App(processes=2, wanted=1, down=[9001]))
    document = restart_api(document_of)
    assert document["exit_code"] == Exit.OK
    assert processes(document) == [("api-1", "restarted")]
    (warning,) = document["warnings"]
    assert warning.startswith("api-1 process 2 (192.0.2.11): state: ConnectError")


@pytest.mark.parametrize(
    ("app", "fault"),
    [
        # It may hold connections.
        (App("api-1 process 2", 2, 1), "api-1 process 2 (192.0.2.11): state: ReadTimeout"),
        (App(processes=1, down=[9000]), "api-1 (192.0.2.11): state: ConnectError"),
        # The only one that is up would have to go.
        (App(processes=2, wanted=1, down=[9000]), "api-1 (192.0.2.11): state: ConnectError"),
    ],
)
def test_an_api_process_that_is_silent_and_would_be_needed_is_named_in_the_refusal(
    document_of: Run, monkeypatch: pytest.MonkeyPatch, app: App, fault: str
) -> None:
    use(monkeypatch, app)
    document = restart_api(document_of)
    assert document["exit_code"] == Exit.REFUSED
    assert document["faults"][0].startswith(f"refused: {fault}")


class Server:
    """PostgreSQL, which another run answers for each time it is asked."""

    runs = 0

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def activity(self) -> list[dict[str, Any]]:
        return []

    def checkpoint(self) -> None:
        pass

    def started_at(self) -> str:
        Server.runs += 1
        return str(Server.runs)


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> Pause:
    """Have every replica pause at once; return the pause, in which clients wait for 1.5 s."""
    done = Pause(began=0.0)

    @contextmanager
    def pausing(*_: object, **__: object) -> Iterator[Pause]:
        done.began = time.monotonic()
        try:
            yield done
        finally:
            done.ended = done.began + 1.5

    def record(_: Path) -> AbstractContextManager[pause_record.Held]:
        return nullcontext(pause_record.Held(-1))

    monkeypatch.setattr(pause, "paused", pausing)
    monkeypatch.setattr(pause_record, "pause_record", record)
    monkeypatch.setattr(pgbouncer, "require", lambda *_: POOLERS)
    for module in (restart, paused_change):
        monkeypatch.setattr(module, "PostgresAdmin", Server)
    monkeypatch.setattr(paused_change, "PgBouncerAdmin", Console)
    return done


@pytest.mark.usefixtures("paused")
def test_a_restart_of_postgres_reports_how_long_clients_waited(document_of: Run) -> None:
    document = document_of(lambda request: restart.postgres(SETTINGS, request))
    assert document["exit_code"] == Exit.OK
    assert document["paused_seconds"] == 1.5
    assert document["state"] == "postgres restarted; clients waited for at most 1.50 s"
    assert processes(document) == [
        ("postgres.invalid", "restarted"),
        *((one.name, "paused and resumed") for one in POOLERS),
    ]


def test_a_replica_that_was_not_resumed_is_a_fault(document_of: Run, paused: Pause) -> None:
    paused.not_resumed = ["pgbouncer-2: no answer to RESUME"]
    document = document_of(lambda request: restart.postgres(SETTINGS, request))
    assert document["exit_code"] == Exit.FAILED
    assert document["faults"] == ["pgbouncer-2: no answer to RESUME"]
    assert processes(document) == [("postgres.invalid", "restarted")]


@pytest.mark.usefixtures("paused")
@pytest.mark.parametrize(("told", "expected"), [([], 2), (["--serving", "5"], 5)])
def test_as_many_replicas_are_asked_for_as_are_told_to_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str], expected: int
) -> None:
    asked: list[int] = []

    def require(_: OpsSettings, number: int) -> tuple[Target, ...]:
        asked.append(number)
        return POOLERS

    monkeypatch.setattr(pgbouncer, "require", require)
    settings = tmp_path / "ops.json"
    settings.write_text(json.dumps(documents.ops(catalogue.defaults())))
    places = ["--settings", str(settings), "--directory", str(tmp_path)]
    CliRunner().invoke(create_app(), ["restart", "postgres", *told, *places])
    assert asked == [expected]


@pytest.mark.usefixtures("paused")
def test_a_server_that_does_not_come_back_leaves_the_length_of_the_pause(
    document_of: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Server, "started_at", lambda _: "the same")
    document = document_of(lambda request: restart.postgres(SETTINGS, request))
    assert document["exit_code"] == Exit.FAILED
    assert document["paused_seconds"] == 1.5
    assert "was not back after PAUSE_MAX_SECONDS=2" in document["faults"][0]
    assert ("postgres.invalid", "restarted") not in processes(document)


@pytest.mark.usefixtures("paused")
def test_a_transaction_in_the_way_is_named_and_no_pause_is_reported(
    document_of: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"pid": 7, "usename": "risk_api", "xact_seconds": 9.0, "query": "SELECT\n 1"}
    monkeypatch.setattr(Server, "activity", lambda _: [row])
    monkeypatch.setattr(paused_change, "CALM_SECONDS", 0.0)
    document = document_of(lambda request: restart.postgres(SETTINGS, request))
    assert document["exit_code"] == Exit.REFUSED
    assert document["paused_seconds"] is None
    assert "process 7 (risk_api), 9.0 s, query: SELECT 1" in document["faults"][0]
