"""The users: each submits, polls and reads in the stated proportions, thinking in between."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

from locust import between, task
from locust.contrib.fasthttp import FastHttpUser

from app.client.sample import SITES
from loadtest.traffic.options import TrafficOptions

PATH = "/api/v1/site-assessments"
SCENARIOS = ("SSP126", "SSP245", "SSP370", "SSP585")
FIRST_YEAR = 2021
KNOWN_MAX = 200
# Past the service's own deadline of a request, so that a late answer is seen late.
PATIENCE_SECONDS = 20.0
dice = random.Random()  # noqa: S311  # a mix of requests, not a secret


def make_user(options: TrafficOptions) -> type[FastHttpUser]:
    """Return the class of users that behaves as the options say."""
    known: deque[str] = deque(maxlen=KNOWN_MAX)
    kinds, weights = list(options.mix), list(options.mix.values())
    pause = options.pause_ms / 1000

    class Visitor(FastHttpUser):
        host = options.url
        wait_time = between(0.5 * pause, 1.5 * pause)
        connection_timeout = PATIENCE_SECONDS
        network_timeout = PATIENCE_SECONDS

        @task
        def visit(self) -> None:
            kind = dice.choices(kinds, weights)[0]
            if kind == "submit" or not known:
                self._submit()
            else:
                self._read(kind, dice.choice(known))

        def _submit(self) -> None:
            body = assessment(options.tasks_each)
            with self.client.post(PATH, json=body, name="submit", catch_response=True) as answer:
                if answer.status_code == 202:
                    known.append(answer.json()["assessment_id"])

        def _read(self, kind: str, assessment_id: str) -> None:
            tail = {"poll": "", "results": "/results?limit=90", "summary": "/summary"}[kind]
            self.client.get(f"{PATH}/{assessment_id}{tail}", name=kind)

    return Visitor


def assessment(tasks: int) -> dict[str, Any]:
    """Return a request for one of the sample sites with that many tasks, 1-80."""
    name, latitude, longitude = dice.choice(SITES)
    return {
        "sites": [{"site_id": name, "latitude": latitude, "longitude": longitude}],
        "asset_value": 1e9,
        "insurance_coverage_rate": 0.3,
        "scenarios": [dice.choice(SCENARIOS)],
        "years": {"from": FIRST_YEAR, "to": FIRST_YEAR + tasks - 1},
    }
