"""The page about one run: self-contained HTML, raw data as JSON beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from loadtest.findings import Finding
from loadtest.report import (
    compare_part,
    constraints_part,
    isolation_part,
    load_part,
    sql_part,
    timelines,
    tune_part,
)
from loadtest.report.parts import Section
from loadtest.run_directory import RunDirectory
from loadtest.samples import Series, read_samples

TITLES = {
    "load": "Load on the api",
    "soak": "Soak",
    "load-sql": "pgbench through PgBouncer and direct",
    "compare": "The incident, before and after",
    "isolation": "Requests beside a full batch pool",
    "tune": "Pool sizes, measured",
}


@dataclass(frozen=True, slots=True)
class Content:
    """What one command's page shows below its constraints."""

    options: Mapping[str, Any]
    findings: list[Finding]
    sections: list[Section]


def write(directory: RunDirectory) -> Path:
    """Write index.html and the findings of a run; return the page's path."""
    series = read_samples(directory.path / "samples")
    content = read(directory, series)
    sections = [constraints_part.section(directory, content.options), *content.sections]
    over_time = timelines.section(series)
    if over_time is not None:
        sections.append(over_time)
    directory.write(
        "findings",
        [
            {"claim": one.claim, "measured": one.measured, "verdict": one.verdict}
            for one in content.findings
        ],
    )
    target = directory.path / "index.html"
    html = template("run.html.j2").render(
        title=TITLES.get(directory.command, directory.command),
        run=directory,
        findings=content.findings,
        sections=sections,
        # Ours, of the installed package, and not to be escaped: it is a program.
        plotly=Markup(get_plotlyjs()),  # noqa: S704
        data=sorted(path.name for path in directory.path.glob("*.json")),
    )
    target.write_text(html, encoding="utf-8")
    return target


def read(directory: RunDirectory, series: Sequence[Series]) -> Content:
    """Return what a run found; empty where it ended before it measured anything."""
    readers = {
        "load": _load,
        "soak": _load,
        "load-sql": _sql,
        "compare": _compare,
        "isolation": _isolation,
        "tune": _tune,
    }
    reader = readers.get(directory.command)
    content = reader(directory, series) if reader else None
    return content or Content({}, [], [Section("No result", "This run measured nothing.")])


def template(name: str) -> Any:
    """Return a page's template."""
    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template(name)


def _load(directory: RunDirectory, _: Sequence[Series]) -> Content | None:
    data, growth = directory.read(directory.command), directory.read("growth")
    if data is None:
        return None
    options = data["options"] | data["thresholds"]
    return Content(options, load_part.findings(data, growth), load_part.sections(data, growth))


def _sql(directory: RunDirectory, series: Sequence[Series]) -> Content | None:
    data = directory.read("load-sql")
    if data is None:
        return None
    return Content(
        data["options"], sql_part.findings(data, series), sql_part.sections(data, series)
    )


def _compare(directory: RunDirectory, series: Sequence[Series]) -> Content | None:
    lab, stack = directory.read("compare-lab"), directory.read("compare-stack")
    if lab is None and stack is None:
        return None
    options = {name: (lab or {}).get(name) for name in ("site", "site_years")}
    return Content(
        options,
        compare_part.findings(lab, stack, series),
        compare_part.sections(lab, stack, series),
    )


def _isolation(directory: RunDirectory, _: Sequence[Series]) -> Content | None:
    data = directory.read("isolation")
    if data is None:
        return None
    return Content(data["options"], isolation_part.findings(data), isolation_part.sections(data))


def _tune(directory: RunDirectory, _: Sequence[Series]) -> Content | None:
    data = directory.read("tune")
    if data is None:
        return None
    return Content(data["options"], tune_part.findings(data), tune_part.sections(data))
