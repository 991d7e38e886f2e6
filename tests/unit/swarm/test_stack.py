"""What Compose resolves becomes a stack file of Docker Swarm, with the compiled files in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from infra.config.backups import GIVEN
from infra.config.build import compile_stack
from infra.config.render import UIDS
from infra.config.write import write_secrets
from infra.swarm import stack
from infra.swarm.stack import Bundle, Compiled
from tests.unit.infra.support import NOW, REPOSITORY, write_env

OWN, ALL = 0o400, 0o444


def _service(image: str, volume: str, **more: Any) -> dict[str, Any]:
    """Return a service as `docker compose config` prints it, with what Swarm does not know."""
    return {
        "image": f"{image}:latest",
        "build": {"context": "."},
        "cap_drop": ["ALL"],
        "command": None,
        "depends_on": {"config": {"condition": "service_completed_successfully"}},
        "healthcheck": {"test": ["CMD", "healthcheck"], "interval": "10s", "retries": 3},
        "mem_limit": "134217728",
        "networks": {"db": None},
        "pids_limit": 256,
        "read_only": True,
        "restart": "unless-stopped",
        "security_opt": ["no-new-privileges:true"],
        "tmpfs": ["/tmp"],  # noqa: S108
        "volumes": [
            {"type": "volume", "source": volume, "target": "/etc/sluice", "read_only": True}
        ],
    } | more


def _with_data(name: str, volume: str, data: str) -> dict[str, Any]:
    made = _service(name, volume)
    made["volumes"].append({"type": "volume", "source": data, "target": "/data", "volume": {}})
    return made


API = _service(
    "sluice-app",
    "app-config",
    user="10072:10072",
    cpus=1,
    deploy={"replicas": 3},
    healthcheck={"test": ["CMD", "check", "http://127.0.0.1:8000/health/ready"], "retries": 3},
    networks={"edge": {}, "control": {"aliases": ["api-control"]}},
    ports=[{"target": 8000, "published": "8080", "host_ip": "0.0.0.0", "mode": "ingress"}],
)
SERVICES = {
    "api": API,
    "config": _service("sluice-infra", "app-config"),
    "etcd-2": _with_data("sluice-etcd", "postgres-config", "etcd-data-2"),
    "ingress": _service(
        "sluice-gateway", "none", volumes=[], ports=API["ports"], networks={"entry": {}, "edge": {}}
    ),
    "pgbouncer": _service(
        "sluice-pgbouncer",
        "pgbouncer-config",
        tmpfs=["/run/pgbouncer:uid=10071,mode=0700", "/tmp"],  # noqa: S108
        ulimits={"nofile": 4096},
    ),
    "postgres": _service("sluice-gateway", "observability-config"),
    # What works beside the first instance, on its data and as its user.
    "beside": _with_data("sluice-beside", "postgres-config", "postgres-data"),
    "backup": _with_data("sluice-backup", "postgres-config", "postgres-data"),
    "postgres-2": _with_data("sluice-postgres", "postgres-config", "postgres-data-2"),
}
NAMES = (
    "app-config",
    "postgres-data",
    "postgres-config",
    "pgbouncer-config",
    "etcd-data-2",
    "postgres-data-2",
)
RESOLVED: dict[str, Any] = {
    "name": "sluice",
    "services": SERVICES,
    "networks": {
        **{one: {"name": f"sluice_{one}", "internal": True} for one in ("db", "edge", "control")},
        "entry": {"name": "sluice_entry"},
        "unused": {"name": "sluice_unused"},
    },
    "volumes": {name: {"name": f"sluice_{name}"} for name in NAMES},
}
IMAGES = {
    f"{one['image']}": f"{one['image'].partition(':')[0]}:0123456789ab" for one in SERVICES.values()
}


def _file(path: str, owner: str, mode: int = OWN, content: bytes = b"x") -> Compiled:
    return Compiled(path, content, UIDS[owner], UIDS[owner], mode)


FILES = (
    _file("app/api.json", "api"),
    _file("app/api.password", "api"),
    _file("app/worker.json", "worker"),
    _file("app/ca.crt", "root", ALL),
    _file("observability/ca.crt", "root", ALL),
    _file("observability/rules.yml", "root", ALL),
    _file("postgres/etcd.key", "etcd"),
    _file("postgres/server.key", "postgres"),
    _file("postgres/postgresql.conf", "postgres"),
    _file("postgres/patroni-postgres-1.yml", "postgres"),
    _file("postgres/patroni-postgres-2.yml", "postgres"),
    _file("pgbouncer/userlist.txt", "pgbouncer"),
    _file("pgbouncer/pgbouncer.ini", "pgbouncer"),
)


def _bundle(*changed: Compiled, encrypted: bool = False) -> Bundle:
    files = {one.path: one for one in (*FILES, *changed)}
    return stack.build(RESOLVED, files, IMAGES, encrypted=encrypted)


def _targets(bundle: Bundle, service: str, kind: str) -> set[str]:
    return {one["target"].rpartition("/")[2] for one in bundle.stack["services"][service][kind]}


def test_what_runs_once_is_not_in_the_stack() -> None:
    assert set(_bundle().stack["services"]) == set(SERVICES) - {"backup", "config"}


def test_backups_are_made_beside_a_single_server_only() -> None:
    single = {name: one for name, one in SERVICES.items() if name != "postgres-2"}
    files = {one.path: one for one in FILES}
    made = stack.build(RESOLVED | {"services": single}, files, IMAGES, encrypted=False)
    placement = made.stack["services"]["backup"]["deploy"]["placement"]
    assert placement == {"constraints": ["node.labels.sluice.postgres == 1"]}


@pytest.mark.parametrize("elsewhere", [True, False])
def test_no_config_has_a_byte_of_a_secret(tmp_path: Path, elsewhere: bool) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    changed: dict[str, object] = {}
    if elsewhere:
        changed = {
            "BACKUP_REPOSITORY": "s3",
            "BACKUP_NETWORK": "uplink",
            "BACKUP_HOST": "s3.example.org",
            "BACKUP_BUCKET": "sluice",
        }
        for name in GIVEN["s3"]:
            (secrets / name).write_text(f"the-secret-of-{name}")
    made = compile_stack(write_env(tmp_path, **changed), secrets, now=NOW)
    write_secrets(made.new_secrets, secrets)
    compiled = [Compiled(one.path, one.content, one.uid, one.gid, one.mode) for one in made.files]
    # The operator's are in no container of the stack.
    shown = [one for one in compiled if not one.is_secret and not one.path.startswith("ops/")]
    assert {"postgres/postgresql.conf", "pgbouncer/pgbouncer.ini"} <= {one.path for one in shown}
    known = {
        (path.name, line)
        for path in secrets.iterdir()
        if path.suffix not in (".crt", ".serial")
        for line in path.read_bytes().splitlines()
        if len(line) > 12 and not line.startswith(b"-----")
    }
    assert {"backup.key", "ca.key"} < {name for name, _ in known}
    leaked = {(one.path, name) for one in shown for name, line in known if line in one.content}
    assert leaked == set()


def test_nothing_is_left_that_swarm_does_not_know() -> None:
    ignored = {"build", "depends_on", "restart", "security_opt", "mem_limit", "tmpfs", "cpus"}
    for name, service in _bundle().stack["services"].items():
        assert not ignored & set(service), name
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["deploy"]["resources"]["limits"]["pids"] == 256
        assert service["image"].endswith(":0123456789ab")


@pytest.mark.parametrize(
    ("service", "configs", "secrets"),
    [
        ("api", {"api.json", "ca.crt"}, {"api.password"}),
        ("postgres-2", {"postgresql.conf"}, {"server.key", "patroni-postgres-2.yml"}),
        ("etcd-2", set(), {"etcd.key"}),
        ("pgbouncer", {"pgbouncer.ini"}, {"userlist.txt"}),
        ("postgres", {"ca.crt"}, set()),
        (
            "beside",
            {"postgresql.conf"},
            {"server.key"},
        ),
    ],
)
def test_a_service_gets_the_files_that_it_may_read(
    service: str, configs: set[str], secrets: set[str]
) -> None:
    bundle = _bundle()
    assert _targets(bundle, service, "configs") == configs
    assert _targets(bundle, service, "secrets") == secrets


def test_a_file_keeps_its_owner_and_mode() -> None:
    (secret,) = _bundle().stack["services"]["pgbouncer"]["secrets"]
    assert secret.pop("source").startswith("pgbouncer-userlist.txt-")
    assert secret == {
        "target": "/etc/sluice/userlist.txt",
        "uid": "10071",
        "gid": "10071",
        "mode": OWN,
    }


def test_only_what_a_changed_file_belongs_to_changes() -> None:
    before = _bundle().stack["services"]
    after = _bundle(_file("app/api.json", "api", content=b"y")).stack["services"]
    changed = {
        name
        for name, service in after.items()
        if service["deploy"]["labels"] != before[name]["deploy"]["labels"]
    }
    assert changed == {"api"}


def test_the_name_of_a_secret_does_not_follow_from_its_content_alone() -> None:
    one, other = (
        set(_bundle(_file("pgbouncer/server.key", "pgbouncer", content=key)).stack["secrets"])
        for key in (b"one", b"other")
    )
    assert {name for name in one & other if name.startswith("pgbouncer-userlist")} == set()


def test_what_has_data_is_pinned_and_the_rest_spread() -> None:
    services = _bundle().stack["services"]
    placed = {name: one["deploy"].get("placement") for name, one in services.items()}
    assert placed["postgres-2"] == {"constraints": ["node.labels.sluice.postgres == 2"]}
    assert placed["beside"] == {"constraints": ["node.labels.sluice.postgres == 1"]}
    assert placed["etcd-2"] == {"constraints": ["node.labels.sluice.etcd == 2"]}
    assert placed["api"] == {
        "constraints": ["node.labels.sluice.app != no"],
        "preferences": [{"spread": "node.labels.sluice.zone"}],
    }
    assert services["api"]["deploy"]["replicas"] == 3
    assert services["ingress"]["deploy"]["mode"] == "global"
    assert {one["deploy"]["endpoint_mode"] for one in services.values()} == {"dnsrr"}


def test_only_the_entry_is_published_and_only_the_api_starts_first() -> None:
    services = _bundle().stack["services"]
    published = {name: one["ports"] for name, one in services.items() if "ports" in one}
    assert published == {"ingress": [{"target": 8000, "published": 8080, "mode": "host"}]}
    orders = {name: one["deploy"]["update_config"]["order"] for name, one in services.items()}
    assert orders.pop("api") == "start-first"
    assert set(orders.values()) == {"stop-first"}


def test_health_checks_do_not_end_a_tier_for_the_absence_of_another() -> None:
    checks = {name: one["healthcheck"] for name, one in _bundle().stack["services"].items()}
    assert checks["api"]["test"][-2:] == [
        "http://127.0.0.1:8000/health/ready",
        "http://127.0.0.1:8000/health/live",
    ]
    assert checks["pgbouncer"]["test"] == ["CMD", "healthcheck", "once"]
    assert checks["etcd-2"] == {"disable": True}
    assert checks["postgres-2"]["retries"] > 1000


def test_memory_with_an_owner_is_a_volume_of_the_slot() -> None:
    bundle = _bundle().stack
    mounts = {one["target"]: one for one in bundle["services"]["pgbouncer"]["volumes"]}
    assert mounts["/tmp"]["type"] == "tmpfs"  # noqa: S108
    source = mounts["/run/pgbouncer"]["source"]
    assert bundle["volumes"][source]["name"].endswith("{{.Task.Slot}}")
    assert bundle["volumes"][source]["driver_opts"]["o"] == "size=1m,uid=10071,mode=0700"


@pytest.mark.parametrize("encrypted", [True, False])
def test_what_is_not_tls_already_is_encrypted_where_asked(encrypted: bool) -> None:
    networks = _bundle(encrypted=encrypted).stack["networks"]
    assert set(networks) == {"db", "edge", "control", "entry"}
    plain = {name for name, one in networks.items() if "driver_opts" in one}
    assert plain == ({"edge", "control"} if encrypted else set())
    assert {name for name, one in networks.items() if "internal" not in one} == {"entry"}


def test_a_container_on_a_manager_makes_no_network_of_its_own() -> None:
    files = [REPOSITORY / "compose.yaml", *(REPOSITORY / "infra" / "postgres").glob("*.yaml")]
    networks = {
        name
        for file in files
        for block in re.findall(r"(?m)^networks:\n((?:  .*\n|\n)*)", file.read_text() + "\n")
        for name in re.findall(r"(?m)^  ([a-z]+):", block)
    }
    given = (REPOSITORY / "infra" / "host" / "manager.yaml").read_text()
    assert set(re.findall(r"(?m)^  ([a-z]+): !override", given)) == networks


def test_phases_go_from_postgres_to_what_callers_reach() -> None:
    bundle = _bundle()
    assert bundle.phases == (
        ("etcd-2",),
        ("postgres-2",),
        ("postgres",),
        ("pgbouncer",),
        ("api", "beside", "ingress"),
    )
    assert set(bundle.phase(("pgbouncer",))["services"]) == {"pgbouncer"}
    made = stack.documents(bundle)
    labels = bundle.stack["services"]["pgbouncer"]["deploy"]["labels"]
    assert made["04.definitions"].decode() == f"pgbouncer {labels['sluice.definition']}\n"
    names = set(made)
    assert {"01.json", "05.json", "stack.json"} <= names
    assert {one["file"][2:] for one in bundle.stack["secrets"].values()} <= names


def test_a_secret_that_there_is_not_is_none_of_swarm(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "backup.sftp-key").touch(mode=0o400)
    (tmp_path / "postgres" / "backup.key").write_text("a key")
    assert list(stack.read_compiled(tmp_path)) == ["postgres/backup.key"]
