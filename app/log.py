"""Logging to stdout, one event a line, for our own events and for libraries alike.

As JSON for programs, or as text for people: `TIME LEVEL LOGGER: EVENT key=value ...`.

Bind `request_id`, `assessment_id` or the task batch once with `structlog.contextvars`;
every event below it carries them.
"""

import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import structlog
from structlog.typing import EventDict, ExcInfo, Processor

from app.pool.types import summary

Logger = structlog.stdlib.BoundLogger
Renderer = Callable[[Any, str, EventDict], str | bytes]
# Between an error and the one before it: whether that was its cause.
_LINKS = {
    True: "The above exception was the direct cause of the following exception:",
    False: "During handling of the above exception, another exception occurred:",
}
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
    # What ends a process or a thread would else be printed as it is, values and all.
    sys.excepthook = lambda *exc_info: _ended("process ended by an error", exc_info)
    threading.excepthook = lambda args: _ended("thread ended by an error", args[:3])


def _ended(event: str, exc_info: Any) -> None:
    if exc_info[0] is not SystemExit:
        get_logger("app").critical(event, exc_info=exc_info)


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
        structlog.processors.ExceptionRenderer(_traceback),
        add_origin,
    ]


def _traceback(exc_info: ExcInfo) -> str:
    """Return a traceback in which errors of the database are without the values they quote."""
    return "\n".join(_told(exc_info[1], set()))


def _told(error: BaseException, seen: set[int]) -> Iterator[str]:
    # The form of the standard library, cause first; a group's errors after the group.
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in seen:
        yield from _told(before, seen)
        yield f"\n{_LINKS[error.__cause__ is not None]}\n"
    yield "Traceback (most recent call last):"
    yield from "".join(traceback.format_tb(error.__traceback__)).splitlines()
    yield describe(error)
    for one in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield from _told(one, seen)


def describe(error: BaseException) -> str:
    """Return the class and message of an error; of the database's without the values it quotes."""
    # SQLAlchemy wraps the driver's, and adds the statement and its parameters.
    origin = getattr(error, "orig", None) or error
    if isinstance(origin, psycopg.Error):
        return summary(origin)
    return f"{type(error).__name__}: {error}"


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
