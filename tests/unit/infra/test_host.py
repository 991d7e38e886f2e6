"""What a host cannot carry: every rule of the env file against it, and all faults at once."""

import json
from pathlib import Path

import pytest

from infra.config import host
from infra.config.host import Host, Published
from tests.unit.infra.support import judge

FILE = "infra/env/stack.env"
GB = 1024**3
ROOMY = {
    "project": "sluice",
    "processors": 64,
    "memory_bytes": 256 * GB,
    "docker": "28.0.1",
    "compose": "v2.40.3-desktop.1",
    "disk_free_bytes": 500 * GB,
}


def _faults(directory: Path, facts: Host, **changed: object) -> list[str]:
    values = judge(directory, **changed).values
    return [str(fault) for fault in host.faults(values, facts, file=FILE)]


def test_nothing_known_is_nothing_refused(tmp_path: Path) -> None:
    assert _faults(tmp_path, Host()) == []
    assert host.parse("\n") is None


def test_what_the_host_hands_over_is_read() -> None:
    lines = [
        {"project": "sluice", "processors": 2, "has_data": True},
        {"docker": "26.1.5+dfsg1"},
        {"container": "other-api-1", "project": "other", "ports": "127.0.0.1:8080->8000/tcp"},
        {"listening": "0100007F:1F90"},
        {"name": "API_PORT", "value": "8080"},
    ]
    assert host.parse("\n".join(map(json.dumps, lines))) == Host(
        project="sluice",
        processors=2,
        has_data=True,
        docker="26.1.5+dfsg1",
        published=(Published("other-api-1", "other", "127.0.0.1:8080->8000/tcp"),),
        listening=frozenset({"0100007F:1F90"}),
        environment=(("API_PORT", "8080"),),
    )


@pytest.mark.parametrize(
    ("facts", "changed", "fault"),
    [
        ({"docker": "24.0.7"}, {}, "this host: Docker Engine 24.0.7 is older than 25.0"),
        ({"compose": "2.9.0"}, {}, "this host: Docker Compose 2.9.0 is older than 2.26"),
        ({"processors": 2}, {"API_CPUS": "2.5"}, "API_CPUS=2.5 exceeds the 2 processors"),
        ({}, {"API_REPLICAS": 2}, "API_REPLICAS=2, and the port of a single host belongs to one"),
        (
            {"memory_bytes": GB},
            {},
            "POSTGRES_MEMORY_MB=1024 + PGBOUNCER_REPLICAS=2 x PGBOUNCER_MEMORY_MB=128 + "
            "API_MEMORY_MB=256 + WORKER_REPLICAS=2 x WORKER_MEMORY_MB=256 = 2048 exceeds the 1024",
        ),
        (
            {"memory_bytes": 2 * GB},
            {"PGBOUNCER_PORT": 6432},
            "PGBOUNCER_REPLICAS=2 x PGBOUNCER_MEMORY_MB=128 + PGBOUNCER_MEMORY_MB=128 + "
            "API_MEMORY_MB=256 + WORKER_REPLICAS=2 x WORKER_MEMORY_MB=256 = 2176 exceeds the 2048",
        ),
        (
            {"listening": frozenset({"0100007F:1920"})},
            {"PGBOUNCER_PORT": 6432},
            "PGBOUNCER_PORT=6432 is in use by another program on 127.0.0.1",
        ),
        ({"open_files": 1024}, {}, "PGBOUNCER_OPEN_FILES=4096 exceeds the hard limit"),
        ({"disk_free_bytes": GB}, {}, "POSTGRES_MAX_WAL_MB=1024 needs up to 1536 MB of disk"),
        (
            {"environment": (("API_PORT", "99999"),)},
            {},
            "API_PORT=8080 is overridden by API_PORT=99999 in the environment",
        ),
        (
            {"environment": (("POSTGRES_CPUS", "1.0"),)},
            {},
            "POSTGRES_CPUS=2.0 is overridden by POSTGRES_CPUS=1.0",
        ),
    ],
)
def test_what_a_host_cannot_carry_is_named_with_the_rule(
    tmp_path: Path, facts: dict[str, object], changed: dict[str, object], fault: str
) -> None:
    facts = ROOMY | facts
    (found,) = _faults(tmp_path, Host(**facts), **changed)  # type: ignore[arg-type]
    assert fault in found
    assert found.startswith(("this host: ", f"{FILE}: "))


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"processors": 2, "memory_bytes": 2 * GB, "open_files": 4096},
        {"docker": "25.0.0", "compose": "2.26.1-4"},
        # Part of the log is there already; a smaller one must be possible.
        {"disk_free_bytes": 0, "has_data": True},
        {"environment": (("POSTGRES_CPUS", "2"), ("API_PORT", "8080"))},
    ],
)
def test_what_a_host_can_carry_is_not_refused(tmp_path: Path, facts: dict[str, object]) -> None:
    facts = ROOMY | facts
    assert _faults(tmp_path, Host(**facts)) == []  # type: ignore[arg-type]


def test_little_room_beside_data_is_a_warning(tmp_path: Path) -> None:
    values = judge(tmp_path).values
    (warning,) = host.warnings(values, Host(disk_free_bytes=GB // 2, has_data=True), file=FILE)
    assert "needs up to 1024 MB of disk, and 512 MB are free" in warning.message


@pytest.mark.parametrize(("has_data", "warned"), [(False, True), (True, False)])
def test_less_disk_than_the_setting_promises_is_a_warning_before_the_first_start(
    tmp_path: Path, has_data: bool, warned: bool
) -> None:
    facts = Host(disk_free_bytes=20 * GB - 1, has_data=has_data)
    found = host.warnings(judge(tmp_path).values, facts, file=FILE)
    assert ("POSTGRES_DISK_MB=20480 exceeds the 20479 MB free" in str(found)) is warned


@pytest.mark.parametrize(
    "address",
    ["00000000", "0100007F", "0" * 32, "0000000000000000FFFF00000100007F"],
    ids=["every address", "localhost", "every address, v6", "localhost, v6"],
)
def test_a_port_that_another_program_has_is_refused(tmp_path: Path, address: str) -> None:
    (fault,) = _faults(tmp_path, Host(listening=frozenset({f"{address}:1F90"})))
    assert "API_PORT=8080 is in use by another program" in fault


@pytest.mark.parametrize(
    ("bound", "taken"),
    [
        ("0.0.0.0", "0200007F"),
        ("192.0.2.7", "070200C0"),
        ("192.0.2.7", "00000000"),
        ("::1", "00000000000000000000000001000000"),
        ("::1", "0" * 32),
        ("::", "00000000000000000000000001000000"),
    ],
)
def test_a_port_is_in_use_on_the_address_that_the_api_is_published_on(
    tmp_path: Path, bound: str, taken: str
) -> None:
    facts = Host(listening=frozenset({f"{taken}:1F90"}))
    (fault,) = _faults(tmp_path, facts, API_BIND_ADDRESS=bound)
    assert f"API_PORT=8080 is in use by another program on {bound};" in fault


@pytest.mark.parametrize(
    ("bound", "taken"),
    [
        ("192.0.2.7", "0100007F"),
        ("::1", "0100007F"),
        ("::1", "00000000"),
        ("::", "00000000"),
        ("0.0.0.0", "00000000000000000000000001000000"),
    ],
)
def test_a_port_of_an_address_that_the_api_is_not_published_on_is_free(
    tmp_path: Path, bound: str, taken: str
) -> None:
    facts = Host(listening=frozenset({f"{taken}:1F90"}))
    assert _faults(tmp_path, facts, API_BIND_ADDRESS=bound) == []


@pytest.mark.parametrize(
    ("bound", "ports", "free"),
    [
        ("127.0.0.1", "192.0.2.7:8080->8000/tcp", True),
        ("192.0.2.7", "127.0.0.1:8080->8000/tcp", True),
        ("0.0.0.0", "127.0.0.1:8080->8000/tcp", False),
        ("::1", "[::1]:8080->8000/tcp", False),
        ("::1", "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp", False),
    ],
)
def test_another_container_s_port_counts_where_the_addresses_meet(
    tmp_path: Path, bound: str, ports: str, free: bool
) -> None:
    taken = Host(project="sluice", published=(Published("other-api-1", "other", ports),))
    assert (_faults(tmp_path, taken, API_BIND_ADDRESS=bound) == []) is free


@pytest.mark.parametrize(
    ("bound", "known"),
    [
        ("192.0.2.7", True),
        ("2001:db8::7", True),
        ("127.0.0.2", True),
        ("::", True),
        ("192.0.2.8", False),
        ("ff02::1", False),
    ],
)
def test_an_address_must_be_one_of_this_host(tmp_path: Path, bound: str, known: bool) -> None:
    facts = Host(addresses=("192.0.2.7", "2001:db8::7"))
    found = _faults(tmp_path, facts, API_BIND_ADDRESS=bound)
    assert (found == []) is known
    if not known:
        assert f"API_BIND_ADDRESS={bound} is no address of this host; it has 192.0.2.7," in found[0]
    assert _faults(tmp_path, Host(), API_BIND_ADDRESS=bound) == []


def test_a_port_of_another_address_is_free(tmp_path: Path) -> None:
    assert _faults(tmp_path, Host(listening=frozenset({"0200007F:1F90", "0100007F:1F91"}))) == []


@pytest.mark.parametrize(
    "ports", ["127.0.0.1:8080->8000/tcp", "0.0.0.0:8000-8100->8000-8100/tcp, :::53->53/udp"]
)
def test_a_port_that_another_container_has_is_refused_with_its_name(
    tmp_path: Path, ports: str
) -> None:
    taken = Host(project="sluice", published=(Published("other-api-1", "other", ports),))
    (fault,) = _faults(tmp_path, taken)
    assert "API_PORT=8080 is in use by container other-api-1" in fault


def test_the_port_of_the_running_stack_is_its_own(tmp_path: Path) -> None:
    own = Published("sluice-api-1", "sluice", "127.0.0.1:8080->8000/tcp")
    running = Host(project="sluice", published=(own,), listening=frozenset({"0100007F:1F90"}))
    assert _faults(tmp_path, running) == []


def test_a_faulty_setting_hides_no_fault_of_another(tmp_path: Path) -> None:
    found = _faults(
        tmp_path,
        Host(processors=1, memory_bytes=GB, open_files=1024),
        POSTGRES_MEMORY_MB="2GB",
        POSTGRES_CPUS="many",
        WORKER_CPUS=2,
    )
    assert [one.split(" exceeds")[0] for one in found] == [
        f"{FILE}: WORKER_CPUS=2",
        f"{FILE}: PGBOUNCER_OPEN_FILES=4096",
    ]
