"""The board: the latest of every part of the page, and who reads it.

One look at a time for all readers: a part is looked for again when the look before has ended. A
reader gets what is newest when it is ready for more, so that nothing queues up for a slow one, and
a hundred cost no look more than one.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from anyio import to_thread

from infra.ops.clients.processes import first_line

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the page: what looks for it, in a thread, and how often while somebody reads.

    `rest_seconds` is how often while nobody does; None: not at all.
    """

    name: str
    look: Callable[[], Document]
    seconds: float
    rest_seconds: float | None = None


class Board:
    """The latest document of each part, as it is sent."""

    def __init__(self, greeting: Callable[[], Document], *, readers_max: int) -> None:
        self._greeting = greeting
        self._readers_max = readers_max
        self._latest: dict[str, tuple[int, str]] = {}
        self._posted_at: dict[str, float] = {}
        self._serial = 0
        self._news = asyncio.Event()
        self._arrived = asyncio.Event()
        self.readers = 0

    @property
    def is_full(self) -> bool:
        """Return True if one more reader would be too many."""
        return self.readers >= self._readers_max

    def age(self, part: str) -> float:
        """Return the seconds since a part was last looked for; infinite when it never was."""
        return time.monotonic() - self._posted_at.get(part, float("-inf"))

    def post(self, part: str, document: Document) -> None:
        """Replace a part; its time is that of a clock that does not jump."""
        now = time.monotonic()
        self._serial += 1
        self._latest[part] = (self._serial, event(part, document | {"at": round(now, 2)}))
        self._posted_at[part] = now
        self._news.set()
        self._news = asyncio.Event()

    async def keep(self, part: Part) -> None:
        """Look for a part again and again; a look that fails is a document that says why."""
        while True:
            started = time.monotonic()
            try:
                document = await to_thread.run_sync(part.look, abandon_on_cancel=True)
            except Exception as error:
                # Whatever it is, the page says so and goes on.
                document = {"error": first_line(error)}
            self.post(part.name, document)
            await self._pause(part, time.monotonic() - started)

    async def _pause(self, part: Part, taken: float) -> None:
        """Wait until it is time, or until a reader comes where there was none."""
        seconds = part.seconds if self.readers else part.rest_seconds
        left = None if seconds is None else max(0.0, seconds - taken)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._arrived.wait(), left)

    async def read(self) -> AsyncIterator[str]:
        """Yield server-sent events: the greeting, then each part when it is another."""
        if not self.readers:
            # Of a time when nobody read: all of it is looked for now.
            self._latest.clear()
            self._arrived.set()
            self._arrived = asyncio.Event()
        self.readers += 1
        try:
            yield event("history", self._greeting() | {"at": round(time.monotonic(), 2)})
            seen = 0
            while True:
                news = self._news
                fresh = sorted(one for one in self._latest.values() if one[0] > seen)
                for serial, text in fresh:
                    seen = serial
                    yield text
                await news.wait()
        finally:
            self.readers -= 1


def event(name: str, document: Document) -> str:
    """Return a server-sent event."""
    return f"event: {name}\ndata: {json.dumps(document, separators=(',', ':'))}\n\n"
