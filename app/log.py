"""Logging to stdout, one event a line, for our own events and for libraries alike.

As JSON for programs, or as text for people: `TIME LEVEL LOGGER: EVENT key=value ...`.

Bind `request_id`, `assessment_id` or the task batch once with `structlog.contextvars`;
every event below it carries them.
"""

import json
import logging
import re
import sys
from collections.abc import Callable
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

Logger = structlog.stdlib.BoundLogger
Renderer = Callable[[Any, str, EventDict], str | bytes]
# A value that needs no quotes: nothing that could pass for the end of it or for another key.
PLAIN = re.compile(r"[!#-<>-\[\]-~]+")


def get_logger(name: str) -> Logger:
    """Return a logger; it may be made before `configure_logging` runs."""
    return structlog.stdlib.get_logger(name)


def configure_logging(service: str, level: str, form: str = "json", **more: object) -> None:
    """Send structlog and the standard library's loggers to stdout.

    `level` is one of the standard level names, `form` is `json` or `text`; every line has
    `service` and `more`. Call once, from a program's entry point.
    """
    shared = _shared_processors({"service": service, **more})
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _rendered],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    set_logging(level, form)


def set_logging(level: str, form: str) -> None:
    """Change how much is logged from now on, and as what; as for `configure_logging`."""
    logging.getLogger().setLevel(level)
    _Rendering.current = RENDERERS[form]


def _shared_processors(origin: dict[str, object]) -> list[Processor]:
    def add_origin(_logger: object, _method: str, event: EventDict) -> EventDict:
        event.update(origin)
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        add_origin,
    ]


def _text(_logger: object, _method: str, event: EventDict) -> str:
    """Return an event as one line; lines of a traceback follow, indented."""
    time, level, logger, what = (
        event.pop(name, "-") for name in ("timestamp", "level", "logger", "event")
    )
    traceback = event.pop("exception", None)
    parts = [f"{time} {level:<8} {logger}: {_printable(str(what))}"]
    parts += [f"{name}={_value(value)}" for name, value in event.items()]
    lines = [" ".join(parts)]
    if traceback:
        lines += [f"    {_printable(line)}" for line in str(traceback).splitlines()]
    return "\n".join(lines)


def _value(value: object) -> str:
    return (
        value
        if isinstance(value, str) and PLAIN.fullmatch(value)
        else json.dumps(value, default=repr)
    )


def _printable(text: str) -> str:
    # What a caller sent may be in it: no control character must reach a terminal.
    return text if text.isprintable() else json.dumps(text)[1:-1]


# ensure_ascii keeps a control character or a lone surrogate from a caller out of the log stream.
RENDERERS: dict[str, Renderer] = {
    "json": structlog.processors.JSONRenderer(ensure_ascii=True, default=repr),
    "text": _text,
}


class _Rendering:
    """The renderer of this process, as its root logger has one level: both change live."""

    current: Renderer = RENDERERS["json"]


def _rendered(logger: object, method: str, event: EventDict) -> str | bytes:
    return _Rendering.current(logger, method, event)
