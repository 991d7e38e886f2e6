"""The list of runs: newest first, with what each was to show."""

from __future__ import annotations

from pathlib import Path

from loadtest.report.page import TITLES, template
from loadtest.run_directory import RunDirectory, all_runs


def write(results: Path) -> Path:
    """Write index.html below the results directory; return its path."""
    rows = [_row(run) for run in all_runs(results)]
    target = results / "index.html"
    target.write_text(template("index.html.j2").render(rows=rows), encoding="utf-8")
    return target


def _row(run: RunDirectory) -> dict[str, object]:
    return {
        "name": run.path.name,
        "started": run.started,
        "title": TITLES.get(run.command, run.command),
        "has_page": (run.path / "index.html").exists(),
        "findings": run.read("findings") or [],
    }
