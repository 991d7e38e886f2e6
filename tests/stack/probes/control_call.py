"""Raw calls to the control plane, each verified against the host's certificate.

Argument: a JSON list of [method, host, path, Authorization header]. Prints a JSON list of
the status and the body of each.
"""

import json
import sys
from pathlib import Path

import httpx

from infra.ops.clients.app_control import connect
from infra.ops.clients.processes import OpsSettings

control = connect(OpsSettings.read(Path("/etc/sluice/ops/ops.json")))
answers = []
with httpx.Client(verify=control.tls, trust_env=False, timeout=5) as client:
    for method, host, path, authorization in json.loads(sys.argv[1]):
        headers = {"Authorization": authorization} if authorization else {}
        url = f"https://{host}:{control.port}{path}"
        answer = client.request(method, url, headers=headers)
        answers.append({"status": answer.status_code, "body": answer.json()})
print(json.dumps(answers))
