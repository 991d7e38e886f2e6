"""Wait for a condition with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    look: Callable[[], T], done: Callable[[T], object] = bool, *, seconds: float, every: float
) -> T:
    """Look until what is found is `done` or the time is over; return what was found last.

    Looks at least once, then every `every` seconds, for `seconds`. An exception of `look` passes.
    """
    deadline = time.monotonic() + seconds
    while not done(found := look()) and time.monotonic() < deadline:
        time.sleep(every)
    return found


def gone(found: object) -> bool:
    """Return True if nothing is found any more: a `done` for what must go away."""
    return not found
