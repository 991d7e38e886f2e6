"""Serve the page: python -m infra.console."""

import logging
import socket
from pathlib import Path
from typing import Final

import uvicorn

from infra.console.board import Board, Part
from infra.console.path import Files, PathWatch, planned
from infra.console.prometheus import Prometheus
from infra.console.web import create_app

PORT: Final = 8090
# Measured: 0.2 MB for each page that is open.
READERS_MAX = 128
# Requests beside the streams.
CONNECTIONS_MAX = READERS_MAX + 64
# Of a reader that takes nothing: what waits for it in the kernel, and for how long.
SEND_BUFFER_BYTES = 64 << 10
STUCK_MS = 15_000
PAGE = Path(__file__).parent / "page"


def listening() -> socket.socket:
    """Return the socket; what it accepts is ended when its peer takes nothing for STUCK_MS."""
    found = socket.create_server(("0.0.0.0", PORT), reuse_port=False)  # noqa: S104  # in its container
    found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STUCK_MS)
    return found


def main() -> None:
    """Serve until a signal."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    files = Files(Path("/etc/sluice/env/stack.env"), Path("/etc/sluice/ops"))
    watch, prometheus = PathWatch(files), Prometheus("http://prometheus:9090")
    parts = (
        Part("path", watch.look, 1.0, rest_seconds=5.0),
        Part("alerts", prometheus.alerts, 5.0),
        Part("plan", lambda: planned(files), 15.0),
        Part("hour", prometheus.hour, 30.0),
    )
    config = uvicorn.Config(
        create_app(Board(watch.history, readers_max=READERS_MAX), parts, PAGE),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=5,
        # Streams do not end by themselves.
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listening()])


main()
