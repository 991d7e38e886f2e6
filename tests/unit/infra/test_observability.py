"""What watches the path: its settings, its defaults in compose.yaml, its documents."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from infra.config import catalogue, host, observability
from infra.config.host import Host
from infra.config.settings import Tier
from infra.ops.reloading import reload_observers
from tests.unit.infra.support import REPOSITORY, judge, messages

RULES = (REPOSITORY / "infra" / "templates" / "rules.yml.j2").read_text(encoding="utf-8")
# The objectives have one alert each, whose name is made of theirs.
ALERTS = sorted(
    {*re.findall(r"- alert: (\w+)$", RULES, re.MULTILINE)}
    | {f"Sluice{name.capitalize()}Budget" for name in ("errors", "latency")}
)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"PROMETHEUS_SCRAPE_SECONDS": 0}, "PROMETHEUS_SCRAPE_SECONDS=0 is outside 1..60 seconds"),
        ({"PROMETHEUS_DISK_MB": "2GB"}, "PROMETHEUS_DISK_MB=2GB carries the unit 'GB'"),
        ({"PROMETHEUS_RETENTION_DAYS": "7d"}, "PROMETHEUS_RETENTION_DAYS=7d carries the unit 'd'"),
        ({"ALERT_WEBHOOK_URL": "example.com"}, "is no URL of a web server; write http://... or"),
        ({"ALERT_WEBHOOK_URL": "http://"}, "is no URL of a web server"),
        ({"ALERT_WEBHOOK_URL": "ftp://hooks"}, "is no URL of a web server"),
        ({"ALERT_WEBHOOK_URL": "http://hooks:99999/"}, "is no URL"),
        ({"ALERT_WEBHOOK_URL": "https://me:secret@hooks/"}, "has credentials"),
        ({"ALERT_WEBHOOK_URL": "https://hooks/" + "x" * 2000}, "is longer than 2000 characters"),
        (
            {"COMPOSE_PROFILES": "observability", "PROMETHEUS_PORT": 8080},
            "API_PORT=8080 and PROMETHEUS_PORT=8080 are the same port",
        ),
        (
            {"COMPOSE_PROFILES": "observability", "ALERTMANAGER_PORT": 9090},
            "PROMETHEUS_PORT=9090 and ALERTMANAGER_PORT=9090 are the same port",
        ),
        (
            {"COMPOSE_PROFILES": "observability", "POSTGRES_MONITOR_CONNECTIONS": 2},
            "POSTGRES_MONITOR_CONNECTIONS=2 must be at least 3 with COMPOSE_PROFILES=observability",
        ),
        (
            {
                "COMPOSE_PROFILES": "observability",
                "PGBOUNCER_IGNORE_STARTUP_PARAMETERS": "options",
            },
            "PGBOUNCER_IGNORE_STARTUP_PARAMETERS=options must have extra_float_digits",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_setting_and_rule(
    tmp_path: Path, changed: dict[str, object], fault: str
) -> None:
    assert fault in messages(judge(tmp_path, **changed))


@pytest.mark.parametrize(
    "changed",
    [
        {"PROMETHEUS_PORT": 8080, "POSTGRES_MONITOR_CONNECTIONS": 1},
        {"PGBOUNCER_IGNORE_STARTUP_PARAMETERS": "options"},
        {"ALERT_WEBHOOK_URL": "https://hooks.example.com:8443/alerts?team=path"},
        {"COMPOSE_PROFILES": "observability"},
    ],
)
def test_what_does_not_run_or_is_right_is_not_judged(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    assert messages(judge(tmp_path, **changed)) == ""


@pytest.mark.parametrize(("profile", "faults"), [("none", 0), ("observability", 1)])
def test_a_port_of_the_host_that_is_in_use_is_refused_where_it_is_published(
    tmp_path: Path, profile: str, faults: int
) -> None:
    values = judge(tmp_path, COMPOSE_PROFILES=profile).values
    # 127.0.0.1:9093
    taken = Host(project="sluice", listening=frozenset({"0100007F:2385"}))
    found = [str(one) for one in host.faults(values, taken, file="stack.env")]
    assert len(found) == faults
    assert all("ALERTMANAGER_PORT=9093 is in use by another program" in one for one in found)


def test_compose_has_the_defaults_of_settings_that_may_be_left_out() -> None:
    files = (REPOSITORY / "compose.yaml", *(REPOSITORY / "infra" / "postgres").glob("*.yaml"))
    compose = "".join(path.read_text(encoding="utf-8") for path in files)
    settings = {one.name: one for one in catalogue.all_settings() if not one.left_out}
    given = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", compose))
    found = {name: text for name, text in given.items() if name in settings}
    assert len(found) == 11
    assert found == {name: str(settings[name].default) for name in found}
    # Each place in the file has the same.
    for name, text in found.items():
        assert compose.count(f"${{{name}") == compose.count(f"${{{name}:-{text}}}")


def test_every_service_of_the_profile_is_behind_it() -> None:
    compose = (REPOSITORY / "compose.yaml").read_text(encoding="utf-8")
    services = compose.partition("\nservices:\n")[2].partition("\nnetworks:\n")[0]
    found = dict(re.findall(r"^  ([a-z-]+):\n((?:    .*\n|\n|  #.*\n)+)", services, re.MULTILINE))
    observers = {name for name, text in found.items() if "observability-config:/etc/" in text}
    assert observers >= {"prometheus", "alertmanager", "postgres-exporter", "pgbouncer-exporter"}
    assert all("profiles: [observability]" in found[name] for name in observers)
    assert all("mem_limit: " in found[name] for name in observers)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_its_section_of_the_runbook_and_its_row(alert: str) -> None:
    runbook = (REPOSITORY / "docs" / "runbook.md").read_text(encoding="utf-8")
    table = (REPOSITORY / "docs" / "observability.md").read_text(encoding="utf-8")
    assert f"\n### {alert}\n" in runbook
    assert f"| [{alert}](runbook.md#{alert.lower()}) |" in table


def test_every_section_of_an_alert_has_its_alert() -> None:
    runbook = (REPOSITORY / "docs" / "runbook.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^### (Sluice\w+)$", runbook, re.MULTILINE)) == ALERTS


@pytest.mark.parametrize(
    ("profile", "written", "asked"),
    [
        ("observability", ["observability/rules.yml"], True),
        ("observability", ["observability/monitor.pgpass", "postgres/pg_hba.conf"], False),
        ("none", ["observability/rules.yml"], False),
    ],
)
def test_the_host_is_asked_for_a_reload_where_they_run_and_what_they_read_changed(
    profile: str, written: list[str], asked: bool
) -> None:
    values = catalogue.defaults().with_changes({"COMPOSE_PROFILES": profile})
    steps: list[tuple[str, ...]] = []
    reload_observers(lambda *words: steps.append(words), values, written)
    assert steps == ([("reload", "prometheus", "alertmanager")] if asked else [])


def test_the_settings_of_the_profile_are_not_listed_but_for_the_switch() -> None:
    mine = [one for one in catalogue.all_settings() if one.tier is Tier.OBSERVABILITY]
    assert [one.name for one in mine if one.listed] == ["COMPOSE_PROFILES"]
    assert set(observability.PORTS) <= {one.name for one in mine}
