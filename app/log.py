"""Logging: one JSON object a line on stdout, for our own events and for libraries alike.

Bind `request_id`, `assessment_id` or the task batch once with `structlog.contextvars`;
every event below it carries them.
"""

import logging
import sys

import structlog
from structlog.typing import Processor

Logger = structlog.stdlib.BoundLogger


def get_logger(name: str) -> Logger:
    """Return a logger; it may be made before `configure_logging` runs."""
    return structlog.stdlib.get_logger(name)


def configure_logging(service: str, level: str) -> None:
    """Send structlog and the standard library's loggers to stdout as JSON.

    `level` is one of the standard level names. Call once, from a program's entry point.
    """
    shared = _shared_processors(service)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_json_formatter(shared))
    logging.basicConfig(handlers=[handler], level=level, force=True)


def set_level(level: str) -> None:
    """Change how much is logged from now on; `level` as for `configure_logging`."""
    logging.getLogger().setLevel(level)


def _shared_processors(service: str) -> list[Processor]:
    def add_service(
        _logger: object, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        event["service"] = service
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        add_service,
    ]


def _json_formatter(shared: list[Processor]) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            # ensure_ascii keeps a control character or a lone surrogate from a caller
            # out of the log stream.
            structlog.processors.JSONRenderer(ensure_ascii=True, default=repr),
        ],
    )
