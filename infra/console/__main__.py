"""Serve the page: python -m infra.console."""

import logging
from pathlib import Path
from typing import Final

from infra.console.board import Board, Part
from infra.console.path import Files, PathWatch, planned
from infra.console.prometheus import Prometheus
from infra.console.web import create_app, listening, make_server

PORT: Final = 8090
READERS_MAX: Final = 128
STUCK_MS: Final = 15_000


def main() -> None:
    """Serve until a signal."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    files = Files(Path("/etc/sluice/env/stack.env"), Path("/etc/sluice/ops"))
    watch, prometheus = PathWatch(files), Prometheus("http://prometheus:9090")
    parts = (
        Part("path", watch.look, 1.0, rest_seconds=10.0),
        Part("alerts", prometheus.alerts, 5.0),
        Part("plan", lambda: planned(files), 15.0),
        Part("hour", prometheus.hour, 30.0),
    )
    board = Board(watch.history, readers_max=READERS_MAX)
    app = create_app(board, parts, Path(__file__).parent / "page")
    in_its_container = listening("0.0.0.0", PORT, stuck_ms=STUCK_MS)  # noqa: S104
    make_server(app, readers_max=READERS_MAX).run(sockets=[in_its_container])


if __name__ == "__main__":
    main()
