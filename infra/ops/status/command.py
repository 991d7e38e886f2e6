"""Show the path once, as JSON, or again and again."""

import sys

from rich.console import Console
from rich.live import Live

from infra.ops import app_control, exits
from infra.ops.outcome import print_document
from infra.ops.settings import OpsSettings
from infra.ops.status import view
from infra.ops.status.collect import Collector
from infra.ops.status.sample import HostFacts, Sample

# A container has no terminal to ask when its output is piped.
PLAIN_WIDTH = 150


def show(
    settings: OpsSettings,
    *,
    as_json: bool,
    watch: bool,
    every_seconds: float,
    host: HostFacts | None = None,
) -> int:
    """Print the path as it is over `every_seconds`; return 1 when a process did not answer."""
    control = app_control.connect(settings)
    collector = Collector(
        settings,
        control,
        processors=settings.values["postgres"]["processors"],
        # Facts of the start would be stale on the next screen.
        host=None if watch else host,
        seconds=every_seconds,
    )
    if watch:
        return _watch(collector)
    sample = collector.sample()
    if as_json:
        print_document(view.as_dict(sample))
    else:
        # A command that is longer than the line stays whole.
        _console().print(view.screen(sample), crop=False)
    return _exit_code(sample)


def _watch(collector: Collector) -> int:
    code = exits.OK
    try:
        with Live(console=_console(), screen=sys.stdout.isatty(), auto_refresh=False) as live:
            while True:
                sample = collector.sample()
                code = _exit_code(sample)
                live.update(view.screen(sample, verdict_first=True), refresh=True)
    except KeyboardInterrupt:
        return code


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)


def _exit_code(sample: Sample) -> int:
    return exits.FAILED if sample.unreachable else exits.OK
