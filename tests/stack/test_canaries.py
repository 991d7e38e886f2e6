"""A secret of the stack, and what a caller sends: in no place that shows anything."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx
import pytest

from infra.ops.outcome import Exit
from tests.fix_api import ASSESSMENTS, SEOUL, Api, assessment_body
from tests.fix_ops import Commands
from tests.fix_secrets import Secrets
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import TIERS, Stack, metrics_of, run_in

SERVICES = (*TIERS, "backup", "config", "migrate")
# A shorter one could be there by chance.
CHARACTERS_MIN = 16
LISTED = 'for file in /secrets/*; do echo "== ${file##*/}"; cat "$file"; echo; done'
PROCESSES = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'"
CONSOLE = ("CONFIG", "DATABASES", "USERS", "CLIENTS", "SERVERS", "POOLS", "PEERS")
VIEWS = ("pg_stat_activity", "pg_settings", "pg_file_settings", "public.pg_stat_statements")
COMMANDS = (
    ("plan", "--full"),
    ("plan", "--full", "--json"),
    ("status",),
    ("status", "--json"),
    ("doctor", "--json"),
)


def needles(listed: str) -> dict[str, str]:
    """Return what tells each secret, by its file; certificates are none."""
    found: dict[str, str] = {}
    for part in listed.split("== ")[1:]:
        name, _, text = part.partition("\n")
        lines = text.split()
        if name.endswith(".crt") or not lines:
            continue
        # Of a key in PEM a line in its middle, of a verifier what no password is needed to know.
        line = max(lines, key=len) if "BEGIN" in text else lines[-1].rpartition("$")[2]
        if len(line) >= CHARACTERS_MIN:
            found[name] = line
    return found


def shown_by_docker(stack: Stack) -> Iterator[tuple[str, str]]:
    """Yield what Docker shows of every container, and of what it is made of."""
    for container in [one for name in SERVICES for one in stack.containers(name, all_states=True)]:
        yield f"inspect {container.name}", json.dumps(container.attrs)
        assert container.image
        yield f"history {container.name}", json.dumps(container.image.history())
        yield f"logs {container.name}", container.logs().decode(errors="replace")
        if container.status == "running":
            yield f"processes {container.name}", run_in(container, ["sh", "-c", PROCESSES])[1]


def shown_by_servers(stack: Stack, sql: Sql, console: AdminConsole) -> Iterator[tuple[str, str]]:
    """Yield what the servers tell those who watch them."""
    for service in ("api", "worker"):
        for container in stack.containers(service):
            yield f"metrics {container.name}", metrics_of(container)
    for what in CONSOLE:
        yield f"SHOW {what}", json.dumps(console.show(what))
    for view in VIEWS:
        # What is asked here is in neither.
        yield view, json.dumps(sql.rows(f"TABLE {view}"))


def places_of(needle: str, shown: dict[str, str]) -> list[str]:
    """Return where it is."""
    return [place for place, text in shown.items() if needle in text]


@pytest.mark.slow
def test_no_secret_is_in_a_log_a_list_of_processes_or_a_report(
    stack: Stack, api: Api, ops: Commands, secrets: Secrets, sql: Sql, console: AdminConsole
) -> None:
    known = {f"old {name}": text for name, text in needles(secrets.sh(LISTED)).items()}
    rotated = ops.run("rotate", "passwords")
    assert rotated.exit_code == Exit.OK, rotated.text
    known |= needles(secrets.sh(LISTED))
    assert len(known) > 12
    shown = dict(shown_by_docker(stack)) | dict(shown_by_servers(stack, sql, console))
    shown["rotate passwords"] = rotated.text
    shown |= {" ".join(words): ops.run(*words).text for words in COMMANDS}
    paths = ("/", "/health/ready", "/openapi.json", "/docs", f"{ASSESSMENTS}/x", "/nowhere")
    shown |= {path: api.http.get(path).text for path in paths}
    # Nothing is found in an empty text, whatever it leaves out.
    assert [place for place, text in shown.items() if not text] == []
    assert {name: found for name, one in known.items() if (found := places_of(one, shown))} == {}


def send(http: httpx.Client, api: Api, canary: str) -> None:
    """Send the value wherever a request has room for one."""
    headers = {
        **dict.fromkeys(("User-Agent", "Cookie", "Referer", "X-Api-Key"), canary),
        "Authorization": f"Bearer {canary}",
        "Idempotency-Key": f"{canary}-key",
    }
    body = assessment_body({**SEOUL, "site_id": canary}, years={"from": 2030, "to": 2030})
    answer = http.post(ASSESSMENTS, json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    assessment_id = answer.json()["assessment_id"]
    assert api.wait_finished(assessment_id)["status"] == "succeeded"
    results = f"{ASSESSMENTS}/{assessment_id}/results"
    assert canary in http.get(f"{results}?format=csv&site_id={canary}").text
    http.get(f"{ASSESSMENTS}/{assessment_id}/events")
    refused = [
        http.get(f"{results}?site_id=other-{canary}"),
        http.get(f"{results}?cursor={canary}"),
        http.get(f"{results}?limit={canary}"),
        http.get(f"{results}?{canary}=1&{canary}=2"),
        http.post(ASSESSMENTS, json=body | {canary: 1}),
        http.post(ASSESSMENTS, json=body | {"asset_value": canary}),
        http.post(ASSESSMENTS, json=body | {"scenarios": [canary]}),
        http.post(ASSESSMENTS, json=body | {"years": canary}, headers=headers),
        # The key is that of another request.
        http.post(ASSESSMENTS, json=body | {"asset_value": 7}, headers=headers),
        http.post(ASSESSMENTS, content=canary, headers={"Content-Type": "application/json"}),
        http.post(ASSESSMENTS, json=body, headers={"Content-Type": canary}),
        http.post(ASSESSMENTS, json=body, headers={"Content-Encoding": canary}),
        http.get("/health/live", headers={"Host": f"{canary}.example"}),
        http.request(f"X{canary}", "/health/live"),
    ]
    assert {one.status_code for one in refused} <= {200, 400, 405, 415, 422}


def test_nothing_that_a_caller_sends_is_in_a_log_or_a_metric(
    stack: Stack, api: Api, ops: Commands, sql: Sql, console: AdminConsole
) -> None:
    canary = f"canary{time.time_ns()}"
    with httpx.Client(base_url=api.http.base_url, timeout=15) as http:
        send(http, api, canary)
    shown = dict(shown_by_docker(stack)) | dict(shown_by_servers(stack, sql, console))
    shown |= {" ".join(words): ops.run(*words).text for words in COMMANDS[2:]}
    assert places_of(canary, shown) == []
