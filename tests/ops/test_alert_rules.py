"""The compiled rules: Prometheus takes them, and each alert fires at its limit and not below.

promtool of the image runs them; the alerts of the running stack are in test_observability.py.
"""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

import pytest

from infra.config import catalogue, secrets
from infra.config.certificates import PEERS, SERVERS, Certificates, Expiry
from infra.config.clients import logins
from infra.config.render import Inputs, render
from infra.config.secrets import SecretStore
from infra.config.settings import Value
from tests import command
from tests.command import Done

SCRAPE = "5s"
# These must hold for five minutes.
SLOW = ("SluiceBackupFailed", "SluiceBackupOld", "SluiceDiskFilling")
# promtool's clock begins with 1970.
EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)
EXPIRY = tuple(
    Expiry(f"{name}.crt", EPOCH + datetime.timedelta(days=days), True)
    for name, days in {"ca": 3650, "postgres": 16, "pgbouncer": 14}.items()
)
Series = dict[str, str]

API = 'job="api", route="/api/v1/site-assessments"'
WAITING = 'pgbouncer_pools_client_waiting_connections{database="risk", replica="pgbouncer-1"}'
MAX_WAIT = 'pgbouncer_pools_client_maxwait_seconds{{database="{}", replica="pgbouncer-1"}}'
SESSIONS = 'pg_stat_activity_count{{state="active", wait_event_type="{}"}}'
OLDEST = 'pg_stat_activity_max_tx_duration{{state="active", backend_type="{}"}}'
UP: Series = {
    'up{job="api", instance="a"}': "1x400",
    'up{job="worker", instance="a"}': "1x400",
    'up{job="worker", instance="b"}': "1x400",
    'up{job="pgbouncer", replica="pgbouncer-1"}': "1x400",
    'up{job="pgbouncer", replica="pgbouncer-2"}': "1x400",
    'pgbouncer_up{replica="pgbouncer-1"}': "1x400",
    'pgbouncer_up{replica="pgbouncer-2"}': "1x400",
    "pg_up": "1x400",
}


def requests(failed: int, slow: int) -> Series:
    """Return requests of which so many of a thousand fail and are slow."""
    bucket = f'sluice_http_request_seconds_bucket{{{API}, le="1.0"}}'
    return {
        f'sluice_http_requests_total{{{API}, status="202"}}': f"0+{1000 - failed}x400",
        f'sluice_http_requests_total{{{API}, status="503"}}': f"0+{failed}x400",
        bucket: f"0+{1000 - slow}x400",
        f"sluice_http_request_seconds_count{{{API}}}": "0+1000x400",
    }


# Alert, series beyond its limit, how many alerts that makes, series at its limit: those make none.
CASES: list[tuple[str, Series, int, Series]] = [
    ("TargetDown", {'up{job="postgres", instance="x"}': "1x2 0x400"}, 1, UP),
    ("ReplicasMissing", UP | {'pgbouncer_up{replica="pgbouncer-2"}': "1x2 0x400"}, 1, UP),
    ("PostgresDown", {"pg_up": "0x400"}, 1, UP),
    # The clock of the test begins with 1970: a backup was before that.
    (
        "BackupOld",
        {"sluice_backup_last_timestamp_seconds": "-95000x400"},
        1,
        {"sluice_backup_last_timestamp_seconds": "-90000x400"},
    ),
    ("BackupFailed", {"sluice_backup_failed": "1x400"}, 1, {"sluice_backup_failed": "1x50 0x400"}),
    (
        "ArchiveLag",
        {"sluice_backup_archive_waiting_seconds": "301x400"},
        1,
        {"sluice_backup_archive_waiting_seconds": "300x400"},
    ),
    ("PostgresDown", {'up{job="postgres"}': "0x400"}, 1, UP),
    (
        "ConnectionsNearLimit",
        UP | {'pg_stat_activity_count{state="active"}': "55x400"},
        1,
        UP | {'pg_stat_activity_count{state="active"}': "54x400"},
    ),
    (
        "ConnectionsNearLimit",
        UP | {'pgbouncer_used_clients{replica="pgbouncer-1"}': "901x400"},
        1,
        UP
        | {
            'pgbouncer_used_clients{replica="pgbouncer-1"}': "900x400",
            # All server connections of a pool are its ordinary state under load.
            'pgbouncer_databases_current_connections{name="risk", replica="pgbouncer-1"}': "3x400",
        },
    ),
    (
        "ConnectionsNearLimit",
        {'dbpool_in_use{job="api", pool="risk"}': "19x400"},
        1,
        {'dbpool_in_use{job="api", pool="risk"}': "18x400"},
    ),
    (
        "ClientsWaiting",
        {WAITING: "1x400"},
        1,
        # It comes and goes.
        {WAITING: "1x4 0 1x4 0x400"},
    ),
    (
        "MaxWait",
        {MAX_WAIT.format("risk"): "3x400"},
        1,
        # Batch work may wait longer.
        {MAX_WAIT.format("risk_batch"): "8x400"},
    ),
    # It is firing for a minute after the last long wait.
    (
        "MaxWait",
        {MAX_WAIT.format("risk"): "3x14 0x400"},
        1,
        {MAX_WAIT.format("risk"): "3x10 0x400"},
    ),
    (
        "PoolSaturated",
        {'dbpool_waiting{job="api", instance="a", pool="risk"}': "1x400"},
        1,
        {'dbpool_waiting{job="api", instance="a", pool="risk"}': "0x400"},
    ),
    ("Leak", {'dbpool_leaks_total{job="api"}': "0x5 1x400"}, 1, {"dbpool_leaks_total": "1x400"}),
    (
        "DeadlineCuts",
        {'dbpool_watchdog_cuts_total{job="worker"}': "0x5 1x400"},
        1,
        {"dbpool_watchdog_cuts_total": "1x400"},
    ),
    (
        "TasksFailed",
        {"sluice_tasks_failed_total": "0x5 1x400"},
        1,
        {"sluice_tasks_failed_total": "1x400"},
    ),
    # Two: the fast one and the slow one.
    ("ErrorsBudget", requests(15, 0), 2, requests(5, 0)),
    ("ErrorsBudget", requests(7, 0), 1, requests(5, 0)),
    ("LatencyBudget", requests(0, 150), 2, requests(0, 59)),
    (
        "BlockedSessions",
        {SESSIONS.format("Lock"): "1x400"},
        1,
        {SESSIONS.format("IO"): "9x400"},
    ),
    (
        "LongTransaction",
        {OLDEST.format("client backend"): "31x400"},
        1,
        {
            OLDEST.format("client backend"): "30x400",
            OLDEST.format("autovacuum worker"): "999x400",
        },
    ),
    (
        "CheckpointPressure",
        {"pg_stat_checkpointer_num_requested_total": "0x5 4x400"},
        1,
        {"pg_stat_checkpointer_num_requested_total": "0x5 2x400"},
    ),
    (
        "StandbyMissing",
        {"sluice_replication_standbys": "1x400"},
        1,
        {"sluice_replication_standbys": "2x400"},
    ),
    (
        "NoStandby",
        {"sluice_replication_standbys": "0x400"},
        1,
        {"sluice_replication_standbys": "1x400"},
    ),
    (
        "DiskFilling",
        {
            'pg_database_size_bytes{datname="risk"}': "17000000000x400",
            "pg_wal_size_bytes": "1000000000x400",
        },
        1,
        {
            'pg_database_size_bytes{datname="risk"}': "16000000000x400",
            "pg_wal_size_bytes": "1000000000x400",
        },
    ),
    (
        "ReloadFailed",
        {'prometheus_config_last_reload_successful{job="prometheus"}': "0x400"},
        1,
        {'alertmanager_config_last_reload_successful{job="alertmanager"}': "1x400"},
    ),
    (
        "NotificationsFailed",
        {'alertmanager_notifications_failed_total{integration="webhook"}': "0x5 1x400"},
        1,
        {'alertmanager_notifications_failed_total{integration="webhook"}': "0x400"},
    ),
]


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with prometheus.yml and rules.yml of the defaults, with three servers."""
    store = SecretStore(Path("/nonexistent"))
    three: dict[str, Value] = {"POSTGRES_INSTANCES": 3, "PGBOUNCER_SERVER_HOP": "tls"}
    values = catalogue.defaults().with_changes(three)
    passwords, _ = secrets.passwords(store, tuple(logins(values)))
    verifiers, _ = secrets.verifiers(store, passwords)
    tokens, _ = secrets.tokens(store)
    pair = Certificates(b"ca", dict.fromkeys((*SERVERS, *PEERS), (b"certificate", b"key")))
    directory = tmp_path_factory.mktemp("rules")
    for file in render(
        Inputs(values, passwords, verifiers, tokens, {"backup.key": "key"}, pair, EXPIRY)
    ):
        if file.path.endswith(".yml"):
            (directory / Path(file.path).name).write_bytes(file.content)
    directory.chmod(0o755)
    return directory


def in_image(directory: Path, image: str, *words: str) -> Done:
    """Run a program of one of the profile's images on the files of a directory."""
    tag = os.environ.get("SLUICE_IMAGE_TAG", "latest")
    mount = ("--volume", f"{directory}:/etc/sluice:ro", "--workdir", "/etc/sluice")
    run = ("docker", "run", "--rm", "--network", "none", *mount, "--entrypoint", words[0])
    return command.run(*run, f"sluice-{image}:{tag}", *words[1:], seconds=120)


@pytest.mark.usefixtures("observability_images")
@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("prometheus", ("promtool", "check", "rules", "--lint-fatal", "rules.yml")),
        ("prometheus", ("promtool", "check", "config", "--lint-fatal", "prometheus.yml")),
        ("alertmanager", ("amtool", "check-config", "alertmanager.yml")),
    ],
    ids=["rules", "config", "alertmanager"],
)
def test_the_compiled_file_is_valid(rules: Path, image: str, words: tuple[str, ...]) -> None:
    done = in_image(rules, image, *words)
    assert done.exit_code == 0, done.text


@pytest.mark.usefixtures("observability_images")
def test_each_alert_fires_beyond_its_limit_and_not_at_it(rules: Path) -> None:
    tests = [
        _promtool(f"Sluice{alert}", series, count)
        for alert, beyond, firing, at_limit in CASES
        for series, count in ((beyond, firing), (at_limit, 0))
    ]
    tests.append(_promtool("SluiceWatchdog", {}, 1))
    tests.append(_promtool('SluiceCertificateExpiry",certificate="pgbouncer', {}, 1))
    tests.append(_promtool('SluiceCertificateExpiry",certificate="postgres', {}, 0))
    document = {"rule_files": ["rules.yml"], "evaluation_interval": SCRAPE, "tests": tests}
    (rules / "tests.yml").write_text(json.dumps(document))
    done = in_image(rules, "prometheus", "promtool", "test", "rules", "tests.yml")
    assert done.exit_code == 0, done.text


def test_each_alert_that_needs_series_has_its_case(rules: Path) -> None:
    text = (rules / "rules.yml").read_text()
    alerts = {line.split()[-1] for line in text.splitlines() if "- alert: " in line}
    cases = {f"Sluice{alert}" for alert, *_ in CASES}
    assert alerts - cases == {"SluiceWatchdog", "SluiceCertificateExpiry"}
    assert cases <= alerts


def _promtool(alert: str, series: Series, count: int) -> dict[str, Any]:
    """Return a test of promtool: so many alerts of that name fire."""
    firing = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
    return {
        "name": f"{alert}: {count}",
        "interval": SCRAPE,
        "input_series": [{"series": name, "values": text} for name, text in series.items()],
        "promql_expr_test": [
            {
                "expr": firing,
                "eval_time": "6m" if alert in SLOW else "2m",
                "exp_samples": [{"labels": "{}", "value": count}] if count else [],
            }
        ],
    }
