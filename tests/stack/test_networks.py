"""Who can reach whom, and what is published."""

from __future__ import annotations

import json

import pytest

from tests.fix_api import Api
from tests.fix_probe import Probe
from tests.fix_stack import TIERS, Stack, metrics_of, run_in

REACH = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"


def reaches(stack: Stack, service: str, host: str, port: int) -> bool:
    """Return whether a service's container opens a TCP connection to host and port."""
    code, _ = run_in(stack.container(service), ["python", "-c", REACH, host, str(port)])
    return code == 0


@pytest.mark.parametrize("service", ["api", "worker"])
def test_the_app_reaches_the_pooler(stack: Stack, service: str) -> None:
    assert reaches(stack, service, "pgbouncer", 6432)


@pytest.mark.parametrize("service", ["api", "worker"])
def test_the_app_cannot_reach_postgresql_by_name_or_address(stack: Stack, service: str) -> None:
    addresses = [
        network["IPAddress"]
        for network in stack.container("postgres").attrs["NetworkSettings"]["Networks"].values()
    ]
    assert addresses
    assert not any(reaches(stack, service, host, 5432) for host in ["postgres", *addresses])


def test_only_the_api_is_published_and_only_on_loopback(
    stack: Stack, settings: dict[str, str]
) -> None:
    published = {
        (tier, inside, binding["HostIp"], binding["HostPort"])
        for tier in TIERS
        for container in stack.containers(tier)
        for inside, bindings in container.attrs["NetworkSettings"]["Ports"].items()
        for binding in bindings or []
    }
    assert published == {("api", "8000/tcp", "127.0.0.1", settings["API_PORT"])}


@pytest.mark.parametrize("service", ["api", "worker"])
@pytest.mark.parametrize("network", ["control", "pool"])
def test_metrics_are_there_for_whoever_scrapes_on_an_inner_network(
    stack: Stack, probe: Probe, service: str, network: str
) -> None:
    assert probe("reach", json.dumps([(service, 8001)]), network=network) == [True]
    text = metrics_of(stack.container(service))
    assert {"dbpool_size", "process_resident_memory_bytes"} <= {
        line.partition("{")[0].partition(" ")[0] for line in text.splitlines()
    }


def test_metrics_are_not_on_the_published_port(api: Api) -> None:
    answer = api.http.get("/metrics", headers={"Host": "127.0.0.1:8001"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("service", "networks"),
    [
        ("postgres", {"db", "backups"}),
        ("backup", {"backups"}),
        ("pgbouncer", {"pool", "db"}),
        ("api", {"edge", "pool", "control"}),
        ("worker", {"pool", "control"}),
    ],
)
def test_the_service_is_on_its_networks_only(
    stack: Stack, service: str, networks: set[str]
) -> None:
    for container in stack.containers(service):
        names = set(container.attrs["NetworkSettings"]["Networks"])
        assert names == {f"{stack.project}_{name}" for name in networks}


@pytest.mark.parametrize("network", ["pool", "db", "control"])
def test_the_inner_networks_have_no_way_out(stack: Stack, network: str) -> None:
    assert stack.client.networks.get(f"{stack.project}_{network}").attrs["Internal"]
