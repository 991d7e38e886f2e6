"""The page about one run, the list of all runs, and docs/results.md.

A page is self-contained HTML; the raw data are JSON beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from loadtest.report import chaos, compare, constraints, pgbench, requests, timelines, tune
from loadtest.report.parts import Content, Section, Table
from loadtest.run_directory import RunDirectory, Series, all_runs


@dataclass(frozen=True, slots=True)
class _Kind:
    """What makes the page of a command's run; `content` returns None without a result."""

    title: str
    content: Callable[[RunDirectory, Sequence[Series]], Content | None]


# In the order of docs/results.md.
KINDS = {
    "compare": _Kind("The incident, before and after", compare.content),
    "load-sql": _Kind("pgbench through PgBouncer and direct", pgbench.content),
    "isolation": _Kind("Requests beside a full batch pool", requests.isolation),
    "tune": _Kind("Pool sizes, measured", tune.content),
    "load": _Kind("Load on the api", requests.load),
    "soak": _Kind("Soak", requests.load),
    "chaos": _Kind("Faults under load", chaos.content),
}
DOCUMENT_HEAD = """# Measured

One dated run of every load test, written by `make results` from `loadtest/results/`; what each
figure means is in [loadtest/README.md](../loadtest/README.md). Everything ran on one machine:
compare ratios within a run, not absolute figures with another machine's.
"""


def write(run: RunDirectory) -> Path:
    """Write index.html and the findings of a run; return the page's path."""
    series = run.samples()
    content = _content(run, series)
    sections = [constraints.section(run, content.options), *content.sections]
    over_time = timelines.section(series)
    if over_time is not None:
        sections.append(over_time)
    run.write(
        "findings",
        [
            {"claim": one.claim, "measured": one.measured, "verdict": one.verdict}
            for one in content.findings
        ],
    )
    target = run.path / "index.html"
    html = _template("run.html.j2").render(
        title=_title(run),
        run=run,
        findings=content.findings,
        sections=sections,
        # Ours, of the installed package, and not to be escaped: it is a program.
        plotly=Markup(get_plotlyjs()),  # noqa: S704
        data=sorted(path.name for path in run.path.glob("*.json")),
    )
    target.write_text(html, encoding="utf-8")
    return target


def write_index(results: Path) -> Path:
    """Write index.html below the results directory, newest run first; return its path."""
    rows = [
        {
            "name": run.path.name,
            "started": run.started,
            "title": _title(run),
            "has_page": (run.path / "index.html").exists(),
            "findings": run.read("findings") or [],
        }
        for run in all_runs(results)
    ]
    target = results / "index.html"
    target.write_text(_template("index.html.j2").render(rows=rows), encoding="utf-8")
    return target


def document(results: Path) -> str:
    """Return docs/results.md from the latest run of each command that has a result."""
    parts = [DOCUMENT_HEAD]
    for command, kind in KINDS.items():
        runs = (run for run in all_runs(results) if run.command == command and run.read("findings"))
        run = next(runs, None)
        if run is None:
            parts.append(f"## {kind.title}\n\nNot measured yet: `make {command}`.\n")
        else:
            parts.append("\n".join(_document_part(run)))
    return "\n".join(parts)


def _title(run: RunDirectory) -> str:
    kind = KINDS.get(run.command)
    return kind.title if kind else run.command


def _content(run: RunDirectory, series: Sequence[Series]) -> Content:
    """Return what a run found; without any figure where it ended before it measured anything."""
    kind = KINDS.get(run.command)
    found = kind.content(run, series) if kind else None
    return found or Content({}, [], [Section("No result", "This run measured nothing.")], [])


def _template(name: str) -> Any:
    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template(name)


def _document_part(run: RunDirectory) -> Iterator[str]:
    content = _content(run, run.samples())
    yield f"## {_title(run)}\n"
    yield f"`make {run.command}`, {run.started}.\n"
    yield _document_constraints(constraints.read(run, content.options))
    yield "| what was to be shown | measured | holds |\n| --- | --- | --- |"
    yield from (f"| {one.claim} | {one.measured} | {one.verdict} |" for one in content.findings)
    yield ""
    for table in content.tables:
        yield _markdown(table)


def _document_constraints(facts: Mapping[str, Mapping[str, str]]) -> str:
    lines = []
    for title, pairs in facts.items():
        if pairs and title != constraints.ENV_FILE:
            text = "; ".join(f"{name} {value}" for name, value in pairs.items())
            lines.append(f"- {title}: {text}.")
    return "\n".join(lines) + "\n"


def _markdown(table: Table) -> str:
    """Return a table as Markdown, its note below."""
    lines = [
        f"**{table.title}**\n",
        _markdown_row(table.columns),
        _markdown_row(["---"] * len(table.columns)),
        *map(_markdown_row, table.shown()),
    ]
    return "\n".join(lines) + (f"\n\n{table.note}\n" if table.note else "\n")


def _markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
