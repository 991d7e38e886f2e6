"""Locust as a library: start its users, record every request, stop in time.

Importing this module makes the process's sockets and threads gevent's.
"""

from __future__ import annotations

import logging
import random
import sys
import time
from collections import deque
from typing import Any

import gevent
from locust import LoadTestShape, between, task
from locust.contrib.fasthttp import FastHttpUser
from locust.env import Environment
from locust.log import setup_logging

from app.client.http import PATH
from app.client.sample import SITES, sample_request
from loadtest.api import assessment
from loadtest.measure.recorder import ProgressLine, Recorder, table
from loadtest.measure.traffic import TrafficOptions, spawn_rate, users_at

WEB_PORT = 8089
TICK_SECONDS = 0.5
# Requests in flight at the end are given this long, then cut.
STOP_SECONDS = 10
KNOWN_MAX = 200
# Past the service's own deadline of a request, so that a late answer is seen late.
TIMEOUT_SECONDS = 20.0
rng = random.Random()  # noqa: S311  # a mix of requests, not a secret


def run_headless(options: TrafficOptions, *, quiet: bool = False) -> dict[str, Any]:
    """Run the shape to its end; show a line of progress and a final table unless `quiet`."""
    environment, recorder = _environment(options)
    environment.shape_class = _shape(options)
    runner = environment.create_local_runner()
    progress = None if quiet else ProgressLine(recorder, options.seconds)
    watcher = gevent.spawn(_watch, environment, recorder, options, progress)
    runner.start_shape()
    if runner.shape_greenlet is not None:
        runner.shape_greenlet.join()
    ended = time.time()
    runner.quit()
    watcher.kill()
    result = recorder.result(ended)
    if progress is not None:
        progress.end()
        sys.stdout.write(table(result) + "\n")
    return result


def run_web(options: TrafficOptions) -> dict[str, Any]:
    """Serve Locust's page until Ctrl-C, or for the run's seconds; return what was recorded."""
    environment, recorder = _environment(options)
    runner = environment.create_local_runner()
    # Locust's page reads the command line for options of its own, and ends at one of ours.
    del sys.argv[1:]
    page = environment.create_web_ui("0.0.0.0", WEB_PORT)  # noqa: S104  # published on loopback
    # Locust's page shows the progress.
    watcher = gevent.spawn(_watch, environment, recorder, options, None)
    try:
        gevent.sleep(options.seconds)
    except KeyboardInterrupt:
        sys.stderr.write("stopping\n")
    ended = time.time()
    runner.quit()
    page.stop()  # type: ignore[no-untyped-call]
    watcher.kill()
    return recorder.result(ended)


def _environment(options: TrafficOptions) -> tuple[Environment, Recorder]:
    setup_logging("WARNING")  # type: ignore[no-untyped-call]
    environment = Environment(
        user_classes=[_make_user(options)], host=options.url, stop_timeout=STOP_SECONDS
    )
    recorder = Recorder(time.time())

    def record(**request: Any) -> None:
        error, response = request["exception"], request["response"]
        recorder.add(
            request["name"],
            time.time(),
            request["response_time"] / 1000,
            getattr(response, "status_code", 0) or 0,
            "" if error is None else str(error),
        )

    environment.events.request.add_listener(record)  # type: ignore[no-untyped-call]
    return environment, recorder


def _shape(options: TrafficOptions) -> LoadTestShape:
    class Shape(LoadTestShape):
        def tick(self) -> tuple[int, float] | None:
            seconds: float = self.get_run_time()  # type: ignore[no-untyped-call]
            users = users_at(options, seconds)
            return None if users is None else (users, spawn_rate(options))

    return Shape()  # type: ignore[no-untyped-call]


def _watch(
    environment: Environment,
    recorder: Recorder,
    options: TrafficOptions,
    progress: ProgressLine | None,
) -> None:
    """Note and show the number of users; end the run when it has made enough requests."""
    while True:
        runner = environment.runner
        if runner is not None:
            recorder.note_users(time.time(), runner.user_count)
            if progress is not None:
                progress.show(time.time(), runner.user_count)
            if recorder.requests >= options.requests_max:
                logging.getLogger("locust.main").warning("enough requests: stopping")
                runner.quit()
                return
        gevent.sleep(TICK_SECONDS)


def _make_user(options: TrafficOptions) -> type[FastHttpUser]:
    """Return the class of users that behaves as the options say."""
    known: deque[str] = deque(maxlen=KNOWN_MAX)
    kinds, weights = list(options.mix), list(options.mix.values())
    scenarios = sample_request()["scenarios"]
    pause = options.pause_ms / 1000

    class Visitor(FastHttpUser):
        host = options.url
        wait_time = between(0.5 * pause, 1.5 * pause)
        connection_timeout = TIMEOUT_SECONDS
        network_timeout = TIMEOUT_SECONDS

        @task
        def visit(self) -> None:
            kind = rng.choices(kinds, weights)[0]
            if kind == "submit" or not known:
                self._submit()
            else:
                self._read(kind, rng.choice(known))

        def _submit(self) -> None:
            body = assessment(
                [rng.choice(SITES)], years=options.tasks_each, scenarios=[rng.choice(scenarios)]
            )
            with self.client.post(PATH, json=body, name="submit", catch_response=True) as answer:
                if answer.status_code == 202:
                    known.append(answer.json()["assessment_id"])

        def _read(self, kind: str, assessment_id: str) -> None:
            tail = {"poll": "", "results": "/results?limit=90", "summary": "/summary"}[kind]
            self.client.get(f"{PATH}/{assessment_id}{tail}", name=kind)

    return Visitor
