"""Ask every process of the services one thing over the control network, as operators do.

Arguments: what (state, reload, drain), then services. Prints one JSON list.
"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infra.ops.clients.app_control import ControlError, ReloadRefusedError, connect
from infra.ops.clients.processes import OpsSettings, Target, everywhere

control = connect(OpsSettings.read(Path("/etc/sluice/ops/ops.json")))
what, services = sys.argv[1], sys.argv[2:]


def ask(target: Target) -> dict[str, Any]:
    """Return what one process says and how long that took."""
    started = time.monotonic()
    answer: dict[str, Any] = {"address": target.address, "host": target.host}
    try:
        answer["state"] = asdict(getattr(control, what)(target))
    except ControlError as error:
        answer |= {"error": str(error), "refused": isinstance(error, ReloadRefusedError)}
    return answer | {"seconds": time.monotonic() - started}


print(json.dumps([one.get() for one in everywhere(control.targets(*services), ask)]))
