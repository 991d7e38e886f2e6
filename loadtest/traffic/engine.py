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
from locust.stats import print_error_report, print_percentile_stats, print_stats, stats_printer

from loadtest.traffic.options import TrafficOptions
from loadtest.traffic.recorder import Recorder
from loadtest.traffic.shapes import spawn_rate, users_at
from loadtest.traffic.users import make_user

WEB_PORT = 8089
TICK_SECONDS = 0.5
# Requests in flight at the end are given this long, then cut.
STOP_SECONDS = 10


def run_headless(options: TrafficOptions, *, quiet: bool = False) -> dict[str, Any]:
    """Run the shape to its end; print progress and the final table unless `quiet`."""
    environment, recorder = _environment(options)
    environment.shape_class = _shape(options)
    runner = environment.create_local_runner()
    watcher = gevent.spawn(_watch, environment, recorder, options)
    printer = None if quiet else gevent.spawn(stats_printer(environment.stats))
    runner.start_shape()
    if runner.shape_greenlet is not None:
        runner.shape_greenlet.join()
    ended = time.time()
    runner.quit()
    for helper in filter(None, (watcher, printer)):
        helper.kill()
    if not quiet:
        print_stats(environment.stats, current=False)
        print_percentile_stats(environment.stats)
        print_error_report(environment.stats)
    return recorder.result(ended)


def run_web(options: TrafficOptions) -> dict[str, Any]:
    """Serve Locust's page until Ctrl-C, or for the run's seconds; return what was recorded."""
    environment, recorder = _environment(options)
    runner = environment.create_local_runner()
    # Locust's page reads the command line for options of its own, and ends at one of ours.
    del sys.argv[1:]
    page = environment.create_web_ui("0.0.0.0", WEB_PORT)  # noqa: S104  # published on loopback
    watcher = gevent.spawn(_watch, environment, recorder, options)
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
    # Locust's own table goes through this logger.
    logging.getLogger("locust.stats_logger").setLevel(logging.INFO)
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


def _watch(environment: Environment, recorder: Recorder, options: TrafficOptions) -> None:
    """Note the number of users; end the run when it has made enough requests."""
    while True:
        runner = environment.runner
        if runner is not None:
            recorder.note_users(time.time(), runner.user_count)
            if recorder.requests >= options.requests_max:
                logging.getLogger("locust.main").warning("enough requests: stopping")
                runner.quit()
                return
        gevent.sleep(TICK_SECONDS)
