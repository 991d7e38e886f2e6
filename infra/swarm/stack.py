"""From what Compose resolves to a stack file of Docker Swarm.

Images, commands, hardening, limits and health checks stay in compose.yaml. Here is what only Swarm
has: where a service runs, how it is updated, and configs and secrets instead of the volumes with
compiled files. Swarm has no depends_on, and ends a task that is unhealthy.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from infra.config.names import ETCD, INSTANCES
from infra.config.render import UIDS

Section = dict[str, Any]

CONFIG_DIRECTORY: Final = "/etc/sluice"
CHANGE_LABEL: Final = "sluice.definition"
LABEL: Final = "sluice."
# The option of an overlay network that has it.
ENCRYPTED: Final = "encrypted"
# Run once, on a manager, with the volumes of Compose; or not on several machines at all.
_NOT_IN_STACK: Final = frozenset({"config", "migrate", "ops", "gateway"})
# It works beside the servers, on their data and sockets: with one of them, and not with several.
_BESIDE_SERVERS: Final = frozenset({"backup"})
# Understood by `docker stack deploy` as they are.
_KEPT: Final = (
    "cap_add",
    "cap_drop",
    "command",
    "entrypoint",
    "environment",
    "image",
    "logging",
    "read_only",
    "stop_grace_period",
    "stop_signal",
    "sysctls",
    "user",
)
_MOUNT_KEYS: Final = ("type", "source", "target", "read_only", "volume")
# Of a .conf each by its name: pgBackRest's has the key of the backups in it.
_SHOWN_SUFFIXES: Final = (
    *(".crt", ".id", ".ini", ".json"),
    *("/postgresql.conf", "/pg_hba.conf", "/pg_ident.conf", "/pgbouncer_hba.conf"),
)
_DIGEST_CHARACTERS: Final = 12
# The volumes of instances: the kind of label, and its number; of a single server there is none.
_DATA: Final = re.compile(r"(postgres|etcd)-data(?:-(\d+))?")
_MINUTES: Final = 6
_DAY: Final = 24 * 60 * _MINUTES

# Where callers come in, on every node; the api itself is not published.
ENTRY: Final = "ingress"
# `postgres` where it has no data itself: HAProxy. Each asks every instance several times a second.
_GATEWAY_REPLICAS: Final = 2
# What Swarm is to do where a health check fails for as long as the tier below is away: nothing.
# It would end the task, and with it what still works. By the service without its number: the check,
# where it is another than Compose's, and how often it may fail before the task is ended.
_CHECKS: Final[Mapping[str, tuple[list[str], int]]] = {
    # A copy or a recovery may take hours.
    "postgres": ([], _DAY),
    # Its check takes a majority, and Swarm does not tell the others the address of a task before
    # its check has succeeded.
    "etcd": (["NONE"], 1),
    "pgbouncer": (["CMD", "healthcheck", "once"], 3),
    "api": ([], 3),
    "worker": ([], 3),
}
_READY_THEN_LIVE: Final = ("/health/ready", "/health/live")


@dataclass(frozen=True, slots=True)
class Compiled:
    """One compiled file as it lies in its volume: path below the output directory, owner, mode."""

    path: str
    content: bytes
    uid: int
    gid: int
    mode: int

    @property
    def is_secret(self) -> bool:
        """Return True unless whoever may look at the stack may read it: passwords, keys, tokens."""
        return not (self.mode & 0o004 or self.path.endswith(_SHOWN_SUFFIXES))


@dataclass(frozen=True, slots=True)
class Bundle:
    """The stack, and the content of every file that it names; which services are updated together.

    `phases` are names of services, from PostgreSQL to what callers reach.
    """

    stack: Section
    files: dict[str, bytes]
    phases: tuple[tuple[str, ...], ...]

    def phase(self, services: tuple[str, ...]) -> Section:
        """Return a stack file with these services only, which leaves the others as they are."""
        return self.stack | {"services": {name: self.stack["services"][name] for name in services}}


def read_compiled(out: Path) -> dict[str, Compiled]:
    """Return the files of every tier by their path below `out`.

    An empty one stands for a secret that there is not, and Swarm takes none.
    """
    found = {}
    for path in sorted(one for one in out.rglob("*") if one.is_file()):
        status = path.stat()
        if not status.st_size:
            continue
        name = str(path.relative_to(out))
        found[name] = Compiled(
            name, path.read_bytes(), status.st_uid, status.st_gid, status.st_mode & 0o777
        )
    return found


def build(
    resolved: Mapping[str, Any],
    compiled: Mapping[str, Compiled],
    images: Mapping[str, str],
    *,
    encrypted: bool,
) -> Bundle:
    """Return the stack of what `docker compose config` resolved.

    `images` has the name under which every node has an image, by its name in compose.yaml.
    """
    stack = Stack(str(resolved["name"]), compiled, images)
    is_replicated = not resolved["services"].keys().isdisjoint(INSTANCES)
    left_out = _NOT_IN_STACK | (_BESIDE_SERVERS if is_replicated else frozenset())
    services = {
        name: stack.service(name, service)
        for name, service in sorted(resolved["services"].items())
        if name not in left_out
    }
    used = {one["source"] for service in services.values() for one in service["volumes"]}
    shared = {
        name: {key: volume[key] for key in ("name", "driver_opts") if key in volume}
        for name, volume in resolved["volumes"].items()
        if name in used
    }
    document = {
        "version": "3.13",
        "services": services,
        "networks": dict(_networks(resolved, services, encrypted=encrypted)),
        "volumes": shared | stack.volumes,
        "configs": stack.configs,
        "secrets": stack.secrets,
    }
    return Bundle(document, stack.files, tuple(_phases(services)))


def _networks(
    resolved: Mapping[str, Any], services: Mapping[str, Section], *, encrypted: bool
) -> Iterator[tuple[str, Section]]:
    """Yield the overlay networks; a container of an operator on a manager may join them.

    What is TLS at both ends is not encrypted again.
    """
    used = {network for service in services.values() for network in service["networks"]}
    for name, network in resolved["networks"].items():
        if name not in used:
            continue
        made = {"name": network["name"], "driver": "overlay", "attachable": True}
        if network.get("internal"):
            made["internal"] = True
        if encrypted and name in _PLAIN:
            made["driver_opts"] = {ENCRYPTED: ""}
        yield name, made


# Requests between the nodes, and metrics.
_PLAIN: Final = ("edge", "control")


def _phases(services: Mapping[str, Section]) -> Iterator[tuple[str, ...]]:
    """Yield what is updated together; of instances and of etcd one at a time."""
    order = (*((name,) for name in (*ETCD, *INSTANCES)), ("postgres",), ("pgbouncer",))
    for names in order:
        if present := tuple(name for name in names if name in services):
            yield present
    done = {name for names in order for name in names}
    yield tuple(name for name in services if name not in done)


class Stack:
    """Makes one service after the other, and gathers the files that they name."""

    def __init__(
        self, name: str, compiled: Mapping[str, Compiled], images: Mapping[str, str]
    ) -> None:
        self._name = name
        self._compiled = compiled
        self._images = images
        self.configs: dict[str, Section] = {}
        self.secrets: dict[str, Section] = {}
        self.volumes: dict[str, Section] = {}
        self.files: dict[str, bytes] = {}

    def service(self, name: str, service: Mapping[str, Any]) -> Section:
        """Return a service of the stack file."""
        made: Section = {key: service[key] for key in _KEPT if service.get(key) is not None}
        made["image"] = self._images[made["image"]]
        made["networks"] = {
            network: {"aliases": (options or {}).get("aliases", [])}
            for network, options in service["networks"].items()
        }
        made["healthcheck"] = _healthcheck(name, service["healthcheck"])
        made["volumes"] = [*_volumes(service), *self._memory(name, service)]
        made |= self._files_of(name, service)
        if "ulimits" in service:
            made["ulimits"] = {
                key: {"soft": limit, "hard": limit} for key, limit in service["ulimits"].items()
            }
        if name == ENTRY:
            # Each node its own: without the routing mesh, which knows nothing of health.
            made["ports"] = [
                {"target": one["target"], "published": int(one["published"]), "mode": "host"}
                for one in service["ports"]
            ]
        made["deploy"] = _deploy(name, service)
        definition = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
        made["deploy"]["labels"] = {CHANGE_LABEL: definition[:_DIGEST_CHARACTERS]}
        return made

    def _memory(self, name: str, service: Mapping[str, Any]) -> Iterator[Section]:
        """Yield what is in memory.

        What has an owner is a volume of its task's slot: Swarm's own kind has none.
        """
        for entry in service.get("tmpfs", ()):
            target, _, options = str(entry).partition(":")
            if options:
                key = f"{name}{target.replace('/', '-')}"
                self.volumes[key] = {
                    "name": f"{self._name}_{key}-{{{{.Task.Slot}}}}",
                    "driver_opts": {"type": "tmpfs", "device": "tmpfs", "o": f"size=1m,{options}"},
                }
                mounted = {"type": "volume", "source": key, "volume": {"nocopy": True}}
            else:
                mounted = {"type": "tmpfs", "source": ""}
            yield mounted | {"target": target}
        if "shm_size" in service:
            size = {"size": int(service["shm_size"])}
            yield {"type": "tmpfs", "source": "", "target": "/dev/shm", "tmpfs": size}  # noqa: S108

    def _files_of(self, name: str, service: Mapping[str, Any]) -> Section:
        """Return the configs and secrets of the volume with compiled files."""
        found: dict[str, list[Section]] = {"configs": [], "secrets": []}
        for volume in service.get("volumes", ()):
            if volume["target"] == CONFIG_DIRECTORY:
                tier = str(volume["source"]).removesuffix("-config")
                for file in self._readable(name, service, tier):
                    kind = "secrets" if file.is_secret else "configs"
                    target = f"{CONFIG_DIRECTORY}/{file.path.partition('/')[2]}"
                    owner = {"uid": str(file.uid), "gid": str(file.gid), "mode": file.mode}
                    found[kind].append(
                        {"source": self._object(kind, tier, file), "target": target} | owner
                    )
        return dict(found)

    def _readable(self, name: str, service: Mapping[str, Any], tier: str) -> Iterator[Compiled]:
        """Yield what the service may read: its own files, and those that all may read."""
        own = service.get("user") or UIDS.get(_kind(name), UIDS.get(tier, UIDS["root"]))
        uid = int(str(own).partition(":")[0])
        others = {one for one in INSTANCES if one != name}
        for path, file in self._compiled.items():
            if path.partition("/")[0] != tier or any(one in path for one in others):
                continue
            if tier == "observability" and not path.endswith("/ca.crt"):
                continue
            if file.uid == uid or file.mode & 0o004:
                yield file

    def _object(self, kind: str, tier: str, file: Compiled) -> str:
        """Have a config or secret of the file, which cannot change: its name follows its content.

        The name of a secret gives nothing away to whoever tries passwords.
        """
        keys = b"".join(
            one.content
            for path, one in self._compiled.items()
            if path.startswith(f"{tier}/") and path.endswith(".key")
        )
        if file.is_secret:
            digest = hmac.digest(keys, file.content, "sha256").hex()
        else:
            digest = hashlib.sha256(file.content).hexdigest()
        source = f"{file.path.replace('/', '-')}-{digest[:_DIGEST_CHARACTERS]}"
        getattr(self, kind)[source] = {"name": f"{self._name}_{source}", "file": f"./{source}"}
        self.files[source] = file.content
        return source


def _kind(name: str) -> str:
    """Return the service without the number of its instance."""
    stem, _, number = name.rpartition("-")
    return stem if number.isdigit() else name


def _healthcheck(name: str, check: Mapping[str, Any]) -> Section:
    test, retries = _CHECKS.get(_kind(name), ([], 5 * _MINUTES))
    made = dict(check) | {"retries": retries}
    if test == ["NONE"]:
        return {"disable": True}
    if test:
        made["test"] = test
    elif check["test"][-1].endswith(_READY_THEN_LIVE[0]):
        ready = check["test"][-1]
        made["test"] = [*check["test"], ready.replace(*_READY_THEN_LIVE)]
    return made


def _volumes(service: Mapping[str, Any]) -> Iterator[Section]:
    for volume in service.get("volumes", ()):
        if volume["target"] != CONFIG_DIRECTORY:
            yield {key: volume[key] for key in _MOUNT_KEYS if volume.get(key)}


def _deploy(name: str, service: Mapping[str, Any]) -> Section:
    limits = {
        "cpus": str(service["cpus"]) if "cpus" in service else None,
        "memory": str(service["mem_limit"]),
        "pids": int(service["pids_limit"]),
    }
    made: Section = {
        # The address of every task behind the name, as with Compose: whoever calls looks at each.
        "endpoint_mode": "dnsrr",
        "resources": {"limits": {key: value for key, value in limits.items() if value}},
        "restart_policy": {"condition": "any", "delay": "1s"},
        # Its task is there for so long before the update goes on.
        "update_config": _update("stop-first"),
        "rollback_config": {"parallelism": 1, "order": "stop-first"},
    }
    if pinned := _pinned(service):
        return made | {"replicas": 1, "placement": {"constraints": [pinned]}}
    if name == ENTRY:
        return made | {"mode": "global"}
    if name == "api":
        made["update_config"] = _update("start-first")
        made["rollback_config"]["order"] = "start-first"
    fewest = _GATEWAY_REPLICAS if name == "postgres" else 1
    replicas = service.get("deploy", {}).get("replicas", fewest)
    placement = {
        "constraints": [f"node.labels.{LABEL}app != no"],
        "preferences": [{"spread": f"node.labels.{LABEL}zone"}],
    }
    return made | {"replicas": replicas, "placement": placement}


def _update(order: str) -> Section:
    return {"parallelism": 1, "order": order, "failure_action": "rollback", "monitor": "10s"}


def _pinned(service: Mapping[str, Any]) -> str:
    """Return the constraint of what uses data on one node; empty for what may run anywhere."""
    for volume in service.get("volumes", ()):
        if found := _DATA.fullmatch(str(volume["source"])):
            return f"node.labels.{LABEL}{found[1]} == {found[2] or 1}"
    return ""


def documents(bundle: Bundle) -> dict[str, bytes]:
    """Return by name the stack files, one for each phase and one with all, and what they name.

    Beside that of a phase, a line for each of its services: its name and the digest of its
    definition.
    """
    made: dict[str, bytes] = {}
    for number, names in enumerate(bundle.phases, 1):
        phase = bundle.phase(names)
        made[f"{number:02}.json"] = _text(phase)
        made[f"{number:02}.definitions"] = "".join(
            f"{name} {service['deploy']['labels'][CHANGE_LABEL]}\n"
            for name, service in phase["services"].items()
        ).encode()
    return made | {"stack.json": _text(bundle.stack)} | bundle.files


def _text(document: Section) -> bytes:
    return json.dumps(document, indent=1).encode()
