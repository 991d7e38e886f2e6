"""Locust as a library: start it, record every request, stop it in time.

Importing this module makes the process's sockets and threads gevent's.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import gevent
from locust import LoadTestShape
from locust.env import Environment
from locust.log import setup_logging

from loadtest.traffic.console import ProgressLine, table
from loadtest.traffic.options import TrafficOptions
from loadtest.traffic.recorder import Recorder
from loadtest.traffic.shapes import spawn_rate, users_at
from loadtest.traffic.users import make_user

WEB_PORT = 8089
TICK_SECONDS = 0.5
# Requests in flight at the end are given this long, then cut.
STOP_SECONDS = 10


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
        user_classes=[make_user(options)], host=options.url, stop_timeout=STOP_SECONDS
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
