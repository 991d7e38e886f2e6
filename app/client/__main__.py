"""`python -m app.client URL`: run the sample assessment and show what came of it."""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

from app.client.http import PATH, Client, ClientError
from app.client.sample import sample_request

BAR_WIDTH = 40
HEADINGS = (
    "site",
    "highest risk",
    "score",
    "level",
    "when",
    "AAL %/year",
    "loss/year",
    "done",
    "failed",
    "missing",
)
NUMERIC = frozenset({"score", "AAL %/year", "loss/year", "done", "failed", "missing"})
POLL_SECONDS = 0.25


def main(arguments: list[str] | None = None) -> int:
    """Return 0 when the assessment succeeded, 1 when it or the api did not."""
    options = _parser().parse_args(arguments)
    started = time.monotonic()
    try:
        client = Client(options.url, started + options.timeout_seconds)
        assessment_id = client.submit(sample_request())
        print(f"assessment {assessment_id}")  # noqa: T201
        status = _follow(client, assessment_id, started, started + options.timeout_seconds)
        return _report(client, assessment_id, status, options.public_url or client.base_url)
    except ClientError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app.client", description=__doc__)
    parser.add_argument("url", help="the api, such as http://127.0.0.1:8000")
    parser.add_argument(
        "--public-url", help="the api as the reader reaches it, for the hints (default: url)"
    )
    parser.add_argument(
        "--timeout-seconds", type=float, default=300.0, help="give up after that (default 300)"
    )
    return parser


def _follow(client: Client, assessment_id: str, started: float, until: float) -> dict[str, Any]:
    bar = ProgressBar()
    while True:
        status = client.status(assessment_id)
        bar.show(status, time.monotonic() - started)
        if status["finished_at"] is not None:
            bar.end()
            return status
        if time.monotonic() > until:
            bar.end()
            raise ClientError(
                f"{PATH}/{assessment_id} did not end in time; is a worker up? "
                "try: docker compose ps, docker compose logs worker"
            )
        time.sleep(POLL_SECONDS)


def _report(client: Client, assessment_id: str, status: dict[str, Any], public_url: str) -> int:
    lines = [
        "",
        summary_table(status, client.summary(assessment_id)),
        "",
        "AAL and loss are yearly means over scenarios and years, summed over the nine perils.",
        "",
        next_steps(public_url.rstrip("/"), f"{PATH}/{assessment_id}"),
    ]
    if status["failures"]:
        lines += ["", "Failed tasks (the first of them):", *failure_lines(status)]
    print("\n".join(lines))  # noqa: T201
    return int(status["status"] != "succeeded")


class ProgressBar:
    """One line that is redrawn on a terminal; elsewhere a line per change of ten per cent."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Draw on `stream`, on stderr when there is none."""
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._shown: tuple[int, str] | None = None

    def show(self, status: dict[str, Any], seconds: float) -> None:
        """Draw the progress that a status reports."""
        ended = status["done_tasks"] + status["failed_tasks"]
        share = ended / max(1, status["total_tasks"])
        text = (
            f"[{'#' * int(share * BAR_WIDTH):<{BAR_WIDTH}}] {ended}/{status['total_tasks']} tasks"
            f"  {status['failed_tasks']} failed  {status['status']}  {seconds:.1f} s"
        )
        if self._live:
            self._stream.write(f"\r\x1b[K{text}")
        elif (step := (int(share * 10), status["status"])) != self._shown:
            self._shown = step
            self._stream.write(f"{text}\n")
        self._stream.flush()

    def end(self) -> None:
        """Leave the line."""
        if self._live:
            self._stream.write("\n")


def summary_table(status: dict[str, Any], summary: dict[str, Any]) -> str:
    """Return one line per site: its highest risk, its yearly loss, its tasks."""
    progress = {site["site_id"]: site for site in status["sites"]}
    rows = [_row(site, progress[site["site_id"]]) for site in summary["sites"]]
    return _table([HEADINGS, *rows])


def failure_lines(status: dict[str, Any]) -> list[str]:
    """Return one line per failed task that the status names."""
    return [
        f"  {task['site_id']} {task['scenario']} {task['year']}: {task['error']}"
        for task in status["failures"]
    ]


def next_steps(base_url: str, path: str) -> str:
    """Return where to look next."""
    return "\n".join(
        (
            "Next:",
            f"  all results       curl -o results.csv '{base_url}{path}/results?format=csv'",
            f"  what it found     curl {base_url}{path}/summary",
            f"  the whole api     {base_url}/docs",
            "  the running tiers docker compose ps",
            "  everything else   make help",
        )
    )


def _row(site: dict[str, Any], progress: dict[str, Any]) -> tuple[str, ...]:
    risk = site["highest_risk"] or {}
    when = f"{risk['scenario']} {risk['year']}" if risk else "-"
    return (
        site["site_id"],
        risk.get("risk_type", "-"),
        _number(risk.get("integrated_risk"), 1),
        risk.get("risk_level", "-"),
        when,
        _number(site["mean_final_aal"], 3, 100),
        _number(site["mean_expected_loss"], 0),
        str(progress["done_tasks"]),
        str(progress["failed_tasks"]),
        str(progress["missing_inputs"]),
    )


def _number(value: float | None, digits: int, factor: float = 1) -> str:
    return "-" if value is None else f"{value * factor:,.{digits}f}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if heading in NUMERIC else cell.ljust(width)
            for cell, width, heading in zip(row, widths, HEADINGS, strict=True)
        )
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
