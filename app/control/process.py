"""What an operator may ask of this process: its running settings, reload, drain, restart."""

import os
import socket
import threading
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic

from pydantic import ValidationError

from app.database import Resizable
from app.log import get_logger, set_logging
from app.metrics import LastMinute
from app.settings import LIVE_FIELDS, Live, Service, SettingsError, differing, load_settings, merged

log = get_logger("app.control")


class ReloadRefusedError(Exception):
    """The settings file cannot be applied; the message says why, the running values stay."""


class NotRestartedError(Exception):
    """No new process has taken over; this one goes on serving. The message says why."""


class Process(Generic[Service]):
    """The running process as its operator sees it. Methods may block: call them in a thread."""

    def __init__(
        self,
        live: Live[Service],
        path: Path,
        pool: Resizable,
        *,
        restarting: Callable[[], None] | None = None,
        last_minute: LastMinute | None = None,
    ) -> None:
        self._live: Live[Service] = live
        self._path = path
        self._pool = pool
        self._restarting = restarting
        self._last_minute = last_minute
        self._changing = threading.Lock()
        self._started_at = datetime.now(UTC).isoformat(timespec="milliseconds")

    def state(self) -> dict[str, Any]:
        """Return the running settings, the pool's numbers and what the file would change.

        `last_minute` is of the requests, and None where the process answers none.
        `needs_reload` names fields that a reload can change, `needs_restart` the others;
        `file_fault` says why the file cannot be used, and is empty when it can.
        """
        settings = self._live.current
        changed, fault = self._pending()
        return {
            "service": settings.service,
            "instance": socket.gethostname(),
            "pid": os.getpid(),
            "started_at": self._started_at,
            "settings": settings.model_dump(mode="json"),
            "pool": asdict(self._pool.state()),
            "last_minute": self._last_minute.state() if self._last_minute else None,
            "needs_reload": [name for name in changed if name in LIVE_FIELDS],
            "needs_restart": [name for name in changed if name not in LIVE_FIELDS],
            "file_fault": fault,
        }

    def reload(self) -> None:
        """Read the settings file and apply its live fields, all or none.

        Raises:
            ReloadRefusedError: the file, or its live part with the rest of the running values, is
                invalid.

        """
        with self._changing:
            running = self._live.current
            wanted = self._wanted()
            settings = _merged(running, wanted)
            self._resize(settings)
            self._live.replace(settings)
            set_logging(settings.log.level, settings.log.format)
        log.info(
            "settings reloaded",
            changed=list(differing(running, settings)),
            needs_restart=list(differing(settings, wanted)),
        )

    def drain(self) -> None:
        """Replace every connection of the pool; lent ones when they come back."""
        with self._changing:
            self._pool.drain()

    def restart(self) -> None:
        """Have a new process take over the service's socket, and make way for it.

        Raises:
            NotRestartedError: none has become ready, or this service cannot do so.

        """
        if self._restarting is None:
            raise NotRestartedError("this service is restarted with its container")
        self._restarting()

    def _wanted(self) -> Service:
        try:
            model: type[Service] = type(self._live.current)
            return load_settings(self._path, model)
        except SettingsError as error:
            raise ReloadRefusedError(str(error)) from error

    def _resize(self, settings: Service) -> None:
        state, wanted = self._pool.state(), settings.pool
        if (state.min_size, state.max_size) == (wanted.min_size, wanted.max_size):
            return
        try:
            self._pool.resize(wanted.min_size, wanted.max_size)
        except ValueError as error:
            raise ReloadRefusedError(str(error)) from error

    def _pending(self) -> tuple[tuple[str, ...], str]:
        try:
            return differing(self._live.current, self._wanted()), ""
        except ReloadRefusedError as error:
            return (), str(error)


def _merged(running: Service, wanted: Service) -> Service:
    try:
        return merged(running, wanted)
    except ValidationError as error:
        reasons = "; ".join(fault["msg"] for fault in error.errors(include_url=False))
        raise ReloadRefusedError(
            "the file needs a restart as a whole: its live values do not go with the running "
            f"values that only a restart changes ({reasons})"
        ) from error
