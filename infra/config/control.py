"""The operators' control plane of api and worker: where each listens and who may call it.

Each service has a certificate and a token of its own, so that one that was broken into
cannot pose as the other, nor command it.
"""

from typing import Final

from infra.config.settings import Values

Section = dict[str, object]

PORT: Final = 9000
# The alias on the control network; also the host name of the certificate.
ALIASES: Final = {"api": "api-control", "worker": "worker-control"}


def served(service: str) -> Section:
    """Return the section `control` of a service's settings file."""
    alias = ALIASES[service]
    return {
        "alias": alias,
        "port": PORT,
        "certificate_file": f"/etc/sluice/{alias}.crt",
        "key_file": f"/etc/sluice/{alias}.key",
        "token_file": f"/etc/sluice/{alias}.token",
    }


def called(values: Values, directory: str) -> Section:
    """Return the section `control` of ops.json; the operator's files are in `directory`."""
    processes = {"api": 1, "worker": values.integer("WORKER_REPLICAS")}
    services = {
        service: {
            "alias": alias,
            "token_file": f"{directory}/{alias}.token",
            "processes": processes[service],
        }
        for service, alias in ALIASES.items()
    }
    return {"port": PORT, "services": services}
