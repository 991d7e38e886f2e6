"""One raw call to the control plane. Arguments: method, host, path, Authorization header.

Verifies the certificate against the host name; prints the status and the body as JSON.
"""

import json
import sys
from pathlib import Path

import httpx

from infra.ops import settings
from infra.ops.app_control import connect

method, host, path, authorization = sys.argv[1:]
headers = {"Authorization": authorization} if authorization else {}
control = connect(settings.read(Path("/etc/sluice/ops/ops.json")))
url = f"https://{host}:{control.port}{path}"
with httpx.Client(verify=control.tls, trust_env=False, timeout=5) as client:
    answer = client.request(method, url, headers=headers)
print(json.dumps({"status": answer.status_code, "body": answer.json()}))
