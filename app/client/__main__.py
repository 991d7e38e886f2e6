"""`python -m app.client URL`: run the sample assessment and show what came of it."""

import argparse
import sys
import time
from typing import Any

from app.client.http import PATH, Client, ClientError
from app.client.sample import sample_request
from app.client.view import ProgressBar, failure_lines, next_steps, summary_table

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


if __name__ == "__main__":
    sys.exit(main())
