"""Pages are whole in themselves, and say what a run found."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from loadtest.measure.recorder import Recorder
from loadtest.measure.traffic import TrafficOptions
from loadtest.report import pages
from loadtest.report.parts import Table, show
from loadtest.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = tmp_path / "20260102T030405Z-load"
    (directory / "samples").mkdir(parents=True)
    (directory / "constraints").mkdir()
    (directory / "constraints" / "machine.txt").write_text("processors=2\n", "utf-8")
    (directory / "samples" / "api-1.txt").write_text(
        "t=1 process_pss_kb=50000 pool_size=2 cpu_ns=1\n"
        "t=2 process_pss_kb=50000 pool_size=4 cpu_ns=5\n",
        "utf-8",
    )
    found = RunDirectory(directory)
    recorder = Recorder(0.0)
    for number in range(100):
        recorder.add("poll", number / 50, 0.01, 200, "")
    found.write("constraints", {"Machine and tools": {"processors": "2"}})
    settings = {
        "options": TrafficOptions().as_dict(),
        "thresholds": {"error_percent_max": 0.0, "p95_ms_max": 1000.0},
    }
    found.write("load", settings | recorder.result(2.0))
    return found


def test_a_page_needs_no_network(run: RunDirectory) -> None:
    text = pages.write(run).read_text("utf-8")
    assert re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", text) == []


def test_constraints_come_before_any_figure(run: RunDirectory) -> None:
    text = pages.write(run).read_text("utf-8")
    body = text[text.index("<body>") :]
    folded = body.index("<details><summary>Constraints</summary>")
    assert body.index("What was to be shown") < folded < body.index("<h2>Requests</h2>")
    assert body.count("<details") == body.count("</details>") == 1


def test_axes_have_titles_with_units(run: RunDirectory) -> None:
    text = pages.write(run).read_text("utf-8")
    for title in ("latency, ms", "time into the run, s", "PSS of all processes, MiB"):
        assert title in text


def test_the_list_links_every_run_with_what_it_found(run: RunDirectory) -> None:
    pages.write(run)
    text = pages.write_index(run.path.parent).read_text("utf-8")
    assert "20260102T030405Z-load/index.html" in text
    assert "failed requests" in text


def test_a_run_that_was_cut_short_still_has_a_page(tmp_path: Path) -> None:
    directory = tmp_path / "20260102T030405Z-compare"
    (directory / "samples").mkdir(parents=True)
    found = RunDirectory(directory)
    found.write("constraints", {})
    assert "measured nothing" in pages.write(found).read_text("utf-8")


def test_the_document_has_constraints_findings_and_tables(run: RunDirectory) -> None:
    pages.write(run)
    text = pages.document(run.path.parent)
    assert "processors 2" in text
    assert "| failed requests (<= 0 %) | 0 % | yes |" in text
    assert "Not measured yet: `make compare`" in text


def test_no_figure_is_shown_as_nan(run: RunDirectory) -> None:
    run.write("odd", {"value": float("nan")})
    assert json.loads((run.path / "odd.json").read_text("utf-8"))["value"] is None
    assert Table("", ("a",), [[float("nan")]]).shown() == [["-"]]
    assert [show(value) for value in (1234.5, 0.01234, 7, "x", None)] == [
        "1,234",
        "0.0123",
        "7",
        "x",
        "-",
    ]
