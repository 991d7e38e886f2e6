"""The operators' control plane of every api and worker process."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.faults.load import Load
from tests.fix_api import BUSAN, SEOUL, Api, assessment_body
from tests.fix_control import Operator, Recompile
from tests.fix_faults import MakeLoad, frozen, wait_for_traffic
from tests.fix_probe import Probe
from tests.fix_sql import AdminConsole
from tests.fix_stack import Stack, during, poll, run_in

PORT = 9000
UIDS = {"api": 10072, "worker": 10073}
CALLS = [("GET", "/control/state"), ("POST", "/control/reload"), ("POST", "/control/drain")]


def address(stack: Stack, service: str, network: str) -> str:
    """Return the first container's address on a network of the stack."""
    networks = stack.container(service).attrs["NetworkSettings"]["Networks"]
    return str(networks[f"{stack.project}_{network}"]["IPAddress"])


@pytest.mark.parametrize("service", ["api", "worker"])
def test_every_process_says_what_the_settings_say(
    stack: Stack, operator: Operator, settings: dict[str, str], service: str
) -> None:
    prefix = service.upper()
    states = operator.states(service)
    known = {one.attrs["Config"]["Hostname"] for one in stack.containers(service)}
    assert {one["instance"] for one in states} == known
    assert len(states) == int(settings.get(f"{prefix}_REPLICAS", "1"))
    for state in states:
        pool, running = state["pool"], state["settings"]
        assert state["service"] == service
        assert pool["min_size"] == running["pool"]["min_size"]
        assert pool["min_size"] == int(settings[f"{prefix}_POOL_MIN_SIZE"])
        assert pool["max_size"] == running["pool"]["max_size"]
        assert pool["max_size"] == int(settings[f"{prefix}_POOL_MAX_SIZE"])
        assert pool["max_waiting"] == int(settings[f"{prefix}_POOL_MAX_WAITING"])
        assert running["log"]["level"] == settings[f"{prefix}_LOG_LEVEL"]
        assert (state["needs_reload"], state["needs_restart"], state["file_fault"]) == ([], [], "")


def test_no_state_holds_a_secret(stack: Stack, operator: Operator) -> None:
    said = json.dumps(operator.ask("state"))
    for service in ("api", "worker"):
        secrets = [f"/etc/sluice/{service}.password", f"/etc/sluice/{service}-control.token"]
        for path in secrets:
            code, output = run_in(stack.container(service), ["cat", path])
            assert code == 0
            assert output.strip() not in said


def test_a_reload_changes_the_pools_of_every_process_live(
    stack: Stack, operator: Operator, settings: dict[str, str], recompile: Recompile
) -> None:
    started = {one["instance"]: one["started_at"] for one in operator.states()}
    sizes = {prefix: int(settings[f"{prefix}_POOL_MAX_SIZE"]) - 1 for prefix in ("API", "WORKER")}
    recompile(**{f"{prefix}_POOL_MAX_SIZE": size for prefix, size in sizes.items()})
    for state in operator.states():
        assert state["needs_reload"] == ["pool.max_size"]
        assert state["pool"]["max_size"] == sizes[state["service"].upper()] + 1
    assert all("state" in one for one in operator.ask("reload"))
    for state in operator.states():
        assert state["needs_reload"] == []
        wanted = sizes[state["service"].upper()]
        assert state["pool"]["max_size"] == state["settings"]["pool"]["max_size"] == wanted
    assert {one["instance"]: one["started_at"] for one in operator.states()} == started


def test_a_field_that_needs_a_restart_is_named_and_not_changed(
    operator: Operator, settings: dict[str, str], recompile: Recompile
) -> None:
    recompile(API_POOL_TIMEOUT_MS=int(settings["API_POOL_TIMEOUT_MS"]) - 500)
    (answer,) = operator.ask("reload", "api")
    state = answer["state"]
    assert state["needs_restart"] == ["pool.timeout_seconds"]
    running = state["settings"]["pool"]["timeout_seconds"]
    assert running == int(settings["API_POOL_TIMEOUT_MS"]) / 1000


def test_a_limit_counts_from_the_reload_on(
    api: Api, operator: Operator, recompile: Recompile
) -> None:
    body = assessment_body(SEOUL, BUSAN, scenarios=["SSP126"], years={"from": 2030, "to": 2030})
    recompile(API_SITES_MAX=1)
    assert api.submit(body).status_code == 202
    operator.ask("reload", "api")
    refused = api.submit(body)
    assert refused.status_code == 422
    assert "at most 1 sites" in refused.text


@pytest.fixture(params=["api", "worker"])
def broken(request: pytest.FixtureRequest, operator: Operator) -> Iterator[str]:
    """Break a service's settings file; give the service's name; put the file back."""
    service = str(request.param)
    name = f"{service}.json"
    good = operator.read(f"/out/app/{name}")
    operator.replace(name, good.replace('"max_size": ', '"max_sise": '), UIDS[service])
    yield service
    operator.replace(name, good, UIDS[service])
    assert all("state" in one for one in operator.ask("reload", service))


def test_a_broken_file_is_refused_and_the_old_values_serve(
    operator: Operator, api: Api, broken: str
) -> None:
    before = operator.states(broken)
    answers = operator.ask("reload", broken)
    assert len(answers) == len(before)
    for answer in answers:
        assert answer["refused"]
        assert "pool.max_sise" in answer["error"]
    after = operator.states(broken)
    assert [one["settings"] for one in after] == [one["settings"] for one in before]
    assert all("pool.max_sise" in one["file_fault"] for one in after)
    assert api.http.get("/health/ready").status_code == 200
    token = operator.read(f"/etc/sluice/ops/{broken}-control.token")
    (raw,) = operator.call(("POST", f"{broken}-control", "/control/reload", f"Bearer {token}"))
    assert (raw["status"], raw["body"]["error"]["code"]) == (409, "reload_refused")


def clients(stack: Stack, console: AdminConsole) -> set[str]:
    """Return the api's and workers' connections to every PgBouncer, by identity."""
    return {
        f"{replica}/{row['addr']}:{row['port']}"
        for replica in range(len(stack.containers("pgbouncer")))
        for row in console.show("CLIENTS", replica=replica)
        if row["user"] in ("risk_api", "risk_worker")
    }


def failed(load: Load) -> list[object]:
    """Return the requests of a load that did not succeed."""
    return [one for one in load.of() if not 200 <= one.status < 300]


def test_a_drain_replaces_every_connection_without_a_failed_request(
    stack: Stack, operator: Operator, console: AdminConsole, make_load: MakeLoad
) -> None:
    with make_load(threads=6) as load:
        wait_for_traffic(load)
        before = clients(stack, console)
        assert before
        for _ in range(3):
            assert all("state" in one for one in operator.ask("drain"))
        poll(
            lambda: not before & clients(stack, console), seconds=10, what="all connections are new"
        )
        wait_for_traffic(load, count=len(load.of()) + 50)
    assert failed(load) == []
    assert clients(stack, console)


@pytest.mark.parametrize("service", ["api", "worker"])
def test_without_the_services_own_token_nothing_is_answered(
    operator: Operator, service: str
) -> None:
    other = {"api": "worker", "worker": "api"}[service]
    foreign = operator.read(f"/etc/sluice/ops/{other}-control.token")
    answers = operator.call(
        *(
            (method, f"{service}-control", path, authorization)
            for method, path in CALLS
            for authorization in ("", "Bearer wrong", f"Bearer {foreign}")
        )
    )
    assert [one["status"] for one in answers] == [401] * 9
    assert all(set(one["body"]) == {"error"} for one in answers)


@pytest.mark.parametrize("service", ["api", "worker"])
def test_it_listens_on_its_control_address_only(stack: Stack, service: str) -> None:
    for container in stack.containers(service):
        lines = stack.host(container).file("/proc/net/tcp").content_string.splitlines()[1:]
        lines += stack.host(container).file("/proc/net/tcp6").content_string.splitlines()[1:]
        fields = [line.split() for line in lines]
        ends = [one[1].split(":") for one in fields if one[3] == "0A"]
        listening = [host for host, port in ends if int(port, 16) == PORT]
        control = container.attrs["NetworkSettings"]["Networks"][f"{stack.project}_control"]
        own = control["IPAddress"].split(".")
        assert listening == ["".join(f"{int(part):02X}" for part in reversed(own))]


@pytest.mark.parametrize(
    ("network", "service"), [("pool", "api"), ("pool", "worker"), ("edge", "api")]
)
def test_no_other_network_reaches_it(
    stack: Stack, probe: Probe, network: str, service: str
) -> None:
    ends = [(address(stack, service, one), PORT) for one in (network, "control")]
    reached = probe("reach", json.dumps(ends), network=network)
    assert reached == [False, False]


def test_the_control_network_reaches_it_and_nothing_is_published(
    stack: Stack, probe: Probe
) -> None:
    for service in ("api", "worker"):
        ends = [(address(stack, service, "control"), PORT)]
        assert probe("reach", json.dumps(ends), network="control") == [True]
        for container in stack.containers(service):
            assert f"{PORT}/tcp" not in container.attrs["NetworkSettings"]["Ports"]


@pytest.mark.slow
def test_it_answers_while_every_request_thread_waits(
    stack: Stack, operator: Operator, make_load: MakeLoad, settings: dict[str, str]
) -> None:
    seconds: list[float] = []
    with make_load(threads=int(settings["API_THREADS"]) + 4) as load:
        wait_for_traffic(load)
        with frozen(stack.containers("pgbouncer")):
            poll(
                lambda: operator.states("api")[0]["pool"]["waiting"] > 0,
                seconds=10,
                what="callers wait for a connection",
            )
            for _ in during(3):
                answers = operator.ask("state")
                assert all("state" in one for one in answers), answers
                seconds += [one["seconds"] for one in answers]
    # Behind the requests it would wait for a thread, which waits for a connection that long.
    # On a machine at rest it takes 20 ms; here its processors have other things to do.
    assert max(seconds) < int(settings["API_POOL_TIMEOUT_MS"]) / 1000, seconds
    stack.wait_healthy(seconds=60)
