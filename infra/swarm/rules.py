"""What must hold between the env file and the nodes of a swarm before anything is deployed.

infra/host/swarm.sh asks a manager, and each node that it reaches, and hands over one JSON document.
"""

import datetime
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from infra.config import sizing
from infra.config.faults import Fault
from infra.config.settings import UnavailableError, Values
from infra.config.times import shown
from infra.swarm.stack import ENCRYPTED, LABEL

SWARM_SHOWN: Final = "this swarm"
# Patroni, certificates and leases live with less; more is a clock that nobody keeps.
CLOCK_SECONDS_MAX: Final = 2.0
_MB: Final = 1024 * 1024
_MAJORITY: Final = 3


@dataclass(frozen=True, slots=True)
class Node:
    """One node as `docker node inspect` has it, and what came of asking the node itself.

    `clock_seconds` is how far its clock is from that of the machine that asks, 0 where the answer
    took longer than that; None is unknown, as are the `missing` images of a node that `error` says
    could not be asked.
    """

    name: str
    labels: Mapping[str, str]
    is_manager: bool
    state: str
    availability: str
    memory_bytes: int
    error: str = ""
    clock_seconds: float | None = None
    missing: tuple[str, ...] = ()

    @property
    def takes_tasks(self) -> bool:
        """Return True if Swarm starts tasks there."""
        return self.state == "ready" and self.availability == "active"

    @classmethod
    def of(cls, document: Mapping[str, Any], asked: Mapping[str, Any]) -> Self:
        """Return the node of a manager's document and of the node's own answers."""
        spec, description = document["Spec"], document["Description"]
        return cls(
            name=description["Hostname"],
            labels=spec.get("Labels") or {},
            is_manager=spec["Role"] == "manager",
            state=document["Status"]["State"],
            availability=spec["Availability"],
            memory_bytes=description["Resources"].get("MemoryBytes", 0),
            error=asked.get("error", ""),
            clock_seconds=_apart(asked) if "time" in asked else None,
            missing=tuple(asked.get("missing", ())),
        )


def _apart(asked: Mapping[str, Any]) -> float:
    """Return how far a node's time is outside of the span in which it answered, in seconds."""
    # Python 3.11 reads six digits of a second; Docker writes nine.
    whole, _, rest = str(asked["time"]).rstrip("Z").partition(".")
    told = datetime.datetime.fromisoformat(f"{whole}.{(rest + '000000')[:6]}+00:00").timestamp()
    return max(float(asked["before"]) - told, told - float(asked["after"]), 0.0)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the manager and the nodes say.

    `stack` and `compose` are whether the project runs as a stack, and under Compose on the host of
    the manager; `has_secrets` is whether its secrets are on that host. `encrypted` is how its
    networks were made, None where there are none.
    """

    state: str
    is_manager: bool
    nodes: tuple[Node, ...] = ()
    stack: bool = False
    # PostgreSQL servers in it.
    servers: int = 0
    compose: bool = False
    encrypted: bool | None = None
    has_secrets: bool = False
    asks_nodes: bool = field(default=True)

    @classmethod
    def parse(cls, document: Mapping[str, Any], *, has_secrets: bool) -> Self:
        """Return the facts of the host's document."""
        swarm, asked = document["swarm"], {one["id"]: one for one in document["asked"]}
        network = document["network"]
        return cls(
            state=swarm["LocalNodeState"],
            is_manager=bool(swarm["ControlAvailable"]),
            nodes=tuple(Node.of(one, asked.get(one["ID"], {})) for one in document["nodes"]),
            stack=document["stack"],
            servers=document["servers"],
            compose=document["compose"],
            encrypted=None if network is None else ENCRYPTED in network,
            has_secrets=has_secrets,
        )


def faults(values: Values, facts: Facts, *, file: str) -> tuple[Fault, ...]:
    """Return everything for which nothing is deployed."""
    if not facts.is_manager:
        return (
            Fault(
                SWARM_SHOWN,
                f"this Docker host is no manager (swarm: {facts.state}); make it one (docker "
                "swarm init, or join as a manager), or have DOCKER_HOST or DOCKER_CONTEXT name one",
            ),
        )
    of_swarm = (
        _project(facts),
        _form(values, facts),
        _networks(values, facts),
        _placed(values, facts),
        _asked(facts),
        _room(values, facts),
    )
    return (
        *(Fault(SWARM_SHOWN, message) for found in of_swarm for message in _judged(found)),
        *(Fault(file, message) for message in _judged(_settings(values))),
    )


def _judged(found: Iterator[str]) -> Iterator[str]:
    """Pass on what is found, up to a setting that is itself at fault."""
    with suppress(UnavailableError):
        yield from found


def replaced(names: Iterable[str], secrets: Path) -> Fault:
    """Return why these secrets cannot take the place of those that the stack runs with.

    What is updated first has them and the rest has not, so the first server that is restarted is
    never seen to be back.
    """
    return Fault(
        str(secrets),
        f"{', '.join(names)}: not what this manager compiled last (where another one has deployed "
        "since, see docs/several-machines.md), and tiers with and without it would not reach each "
        "other; put back what was there, or: make swarm-down, then make swarm-up",
    )


def warnings(facts: Facts) -> tuple[Fault, ...]:
    """Return what an operator should know of this swarm."""
    return tuple(Fault(SWARM_SHOWN, message) for message in _warnings(facts))


def _settings(values: Values) -> Iterator[str]:
    wanted: tuple[tuple[str, str | int, str], ...] = (
        ("PGBOUNCER_SERVER_HOP", "tls", "PgBouncer runs on other machines than PostgreSQL"),
        ("API_BIND_ADDRESS", "0.0.0.0", "Swarm publishes on every address of a node"),  # noqa: S104
        ("PGBOUNCER_PORT", 0, "Swarm does not publish on 127.0.0.1; join the network `pool`"),
        ("COMPOSE_PROFILES", "none", "the optional services are for a single machine"),
    )
    for name, value, why in wanted:
        yield from _judged(_other(values, name, value, why))
    if sizing.is_replicated(values):
        why = "they work beside the servers, and three are not on one machine"
        yield from _other(values, "BACKUPS", "off", why)


def _other(values: Values, name: str, value: str | int, why: str) -> Iterator[str]:
    if values[name] != value:
        yield f"{shown(values, name)}: on several machines it must be {value}; {why}"


def _project(facts: Facts) -> Iterator[str]:
    if facts.compose:
        yield "the project runs here under Docker Compose; its volumes stay: make down"
    if facts.stack and not facts.has_secrets:
        yield (
            "the stack is deployed, and its secrets are not on this manager; deploy from the one "
            "that has the volume, or copy it here (docs/several-machines.md)"
        )


def _form(values: Values, facts: Facts) -> Iterator[str]:
    """Check that as many servers run as are wanted: data change hands only while none does."""
    wanted = sizing.is_replicated(values)
    if facts.servers == 1 and wanted:
        yield "one PostgreSQL server is deployed, not three: make swarm-down, then make swarm-up"
    if facts.servers > 1 and not wanted:
        yield (
            "three PostgreSQL instances are deployed; on several machines there is no way back to "
            "one but a new stack with their data loaded"
        )


def _networks(values: Values, facts: Facts) -> Iterator[str]:
    """Check the option of networks that exist: nothing changes them, and nothing says so."""
    wanted = values.text("SWARM_ENCRYPTED")
    if facts.encrypted is not None and facts.encrypted != (wanted == "yes"):
        remove = "make swarm-down" if facts.stack else "docker network rm"
        yield (
            f"its networks were made with SWARM_ENCRYPTED={'yes' if facts.encrypted else 'no'}, "
            f"not {wanted}, and are not changed while they are there: {remove}, then make swarm-up"
        )


def _placed(values: Values, facts: Facts) -> Iterator[str]:
    """Check the labels of what has its data on one node."""
    instances = len(sizing.instances(values))
    kinds = ("postgres", "etcd") if instances > 1 else ("postgres",)
    for kind in kinds:
        homes: dict[str, int] = {}
        for number in range(1, instances + 1):
            label = f"{LABEL}{kind}={number}"
            found = [one for one in facts.nodes if one.labels.get(f"{LABEL}{kind}") == str(number)]
            if len(found) != 1:
                has = " and ".join(one.name for one in found) or "no node"
                yield (
                    f"{has} has the label {label}; give it to exactly one: "
                    f"docker node update --label-add {label} NODE"
                )
            elif not found[0].takes_tasks:
                yield f"{found[0].name}, which has the label {label}, is {_why_not(found[0])}"
            else:
                homes[found[0].name] = number


def _why_not(node: Node) -> str:
    if node.state != "ready":
        return f"{node.state}; start it, or see: docker node ls"
    return f"set to {node.availability}: docker node update --availability active {node.name}"


def _asked(facts: Facts) -> Iterator[str]:
    for node in facts.nodes:
        if not node.takes_tasks:
            continue
        if node.error:
            yield (
                f"{node.name} cannot be asked ({node.error}); make a Docker context of that name, "
                f"or let this user in by ssh"
            )
        if node.missing:
            yield f"{node.name} lacks {', '.join(node.missing)}; bring them: make swarm-images"
        if node.clock_seconds and node.clock_seconds > CLOCK_SECONDS_MAX:
            yield (
                f"the clock of {node.name} is {node.clock_seconds:.1f} s from this machine's, more "
                f"than {CLOCK_SECONDS_MAX:g}; set it (NTP)"
            )


def _room(values: Values, facts: Facts) -> Iterator[str]:
    """Check that all limits together fit into what the nodes have."""
    count, each = values.integer, len(sizing.instances(values))
    demand = (
        each * count("POSTGRES_MEMORY_MB")
        + count("PGBOUNCER_REPLICAS") * count("PGBOUNCER_MEMORY_MB")
        + (count("API_REPLICAS") + 1) * count("API_MEMORY_MB")
        + count("WORKER_REPLICAS") * count("WORKER_MEMORY_MB")
    )
    there = sum(one.memory_bytes for one in facts.nodes if one.takes_tasks) // _MB
    if demand > there:
        yield (
            f"PostgreSQL, PgBouncer, api (and one more during an update) and worker may take "
            f"{demand} MB together, and the nodes have {there} MB; lower the limits or add a node"
        )


def _warnings(facts: Facts) -> Iterator[str]:
    managers = [one for one in facts.nodes if one.is_manager]
    if len(managers) < _MAJORITY:
        yield (
            f"{len(managers)} of {len(facts.nodes)} nodes manage the swarm; without a majority of "
            "the managers nothing is moved or updated: three outlive the loss of one"
        )
    for node in facts.nodes:
        if not node.takes_tasks:
            yield f"{node.name} is {_why_not(node)}; nothing runs there"
