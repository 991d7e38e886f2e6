"""Two parts of the page that Prometheus knows: the charts' last hour, and active alerts."""

import time
from typing import Any, Final

import httpx

from infra.config.names import MONITOR
from infra.console.board import Document

SECONDS: Final = 2.0
HOUR_SECONDS: Final = 3600
STEP_SECONDS: Final = 30
_POOLS = f'{{database!="pgbouncer",user!="{MONITOR}"}}'
_ENTRIES = '{database!~"pgbouncer|risk_monitor"}'
_WAITED = f"sum(rate(pgbouncer_stats_client_wait_seconds_total{_ENTRIES}[2m]))"
_DONE = f"sum(rate(pgbouncer_stats_sql_transactions_pooled_total{_ENTRIES}[2m]))"
# By the names of `path.point`: one chart goes on where the other begins.
LINES: Final = {
    "p95_ms": "1000 * histogram_quantile(0.95, sum by (le) "
    "(rate(sluice_http_request_seconds_bucket[2m])))",
    "requests_per_second": "sum(rate(sluice_http_requests_total[2m]))",
    "transaction_ms": "1000 * sum(rate(pgbouncer_stats_server_in_transaction_seconds_total"
    f"{_ENTRIES}[2m])) / {_DONE}",
    "wait_ms": f"1000 * {_WAITED} / {_DONE}",
    "transactions_per_second": _DONE,
    "app_waiting": "sum(dbpool_waiting)",
    "pgbouncer_waiting": f"sum(pgbouncer_pools_client_waiting_connections{_POOLS})",
    "app_in_use": "sum(dbpool_in_use)",
    "servers_active": f"sum(pgbouncer_pools_server_active_connections{_POOLS})",
    "sessions": "sum(pg_stat_activity_count)",
}


class Prometheus:
    """Asks fixed questions; each call is over after SECONDS. Raises httpx.HTTPError."""

    def __init__(self, url: str) -> None:
        # No proxy of the environment may come between.
        self._client = httpx.Client(base_url=url, timeout=SECONDS, trust_env=False)

    def hour(self) -> Document:
        """Return the lines of the last hour as `PathWatch.history` does."""
        end, now = int(time.time()), time.monotonic()
        span = {"start": end - HOUR_SECONDS, "end": end, "step": STEP_SECONDS}
        times = range(end - HOUR_SECONDS, end + 1, STEP_SECONDS)
        lines = {}
        deadline = now + SECONDS
        for name, query in LINES.items():
            if time.monotonic() > deadline:
                raise httpx.ReadTimeout(f"no answer to all queries within {SECONDS:g} s")
            found = self._get("query_range", span | {"query": query})["result"]
            values = {at: _number(text) for at, text in found[0]["values"]} if found else {}
            lines[name] = [values.get(at) for at in times]
        return {"times": [round(now - end + at, 1) for at in times], "lines": lines}

    def alerts(self) -> Document:
        """Return what fires, the worst first; `since` is the time of it as Prometheus has it."""
        found = self._get("alerts", {})["alerts"]
        firing = [one for one in found if one["state"] == "firing"]
        return {
            "alerts": sorted(
                (
                    {
                        "name": one["labels"]["alertname"],
                        "severity": one["labels"].get("severity", ""),
                        "summary": one["annotations"].get("summary", ""),
                        "since": one["activeAt"][:19] + "Z",
                    }
                    for one in firing
                    # The one that fires always, to show that alerts arrive.
                    if one["labels"].get("severity") != "none"
                ),
                key=lambda one: (one["severity"] != "critical", one["name"]),
            )
        }

    def _get(self, what: str, parameters: dict[str, Any]) -> dict[str, Any]:
        answer = self._client.get(f"/api/v1/{what}", params=parameters)
        answer.raise_for_status()
        return dict(answer.json()["data"])


def _number(text: str) -> float | None:
    """Return a value as JSON can hold it: 0 transactions have no mean time."""
    value = float(text)
    return round(value, 3) if abs(value) < float("inf") else None
