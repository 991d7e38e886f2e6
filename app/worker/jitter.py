"""Waits that threads and replicas do not spend in step."""

import random


def jittered(seconds: float) -> float:
    """Return a random wait between half and one and a half of the given one."""
    return seconds * random.uniform(0.5, 1.5)  # noqa: S311  # spreads load, hides nothing
