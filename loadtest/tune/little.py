"""Little's law beside the measurement: L = X x W.

Source: J. D. C. Little, "A Proof for the Queuing Formula L = lambda W" (1961). In a closed loop
of N users without thought, N = X x R; in the pooler, busy connections = transactions per second
x time of a transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean

from loadtest.samples import Series

MICROSECONDS = 1e6


@dataclass(frozen=True, slots=True)
class Little:
    """One span at the pooler; busy connections by the law and as sampled.

    `transaction_ms` is PgBouncer's own figure, from the client's first word: the wait for a
    server connection is part of it, and none of it keeps a connection busy.
    """

    transactions_per_second: float
    transaction_ms: float
    wait_ms: float
    busy_by_law: float
    busy_sampled: float


def at_pooler(
    series: Sequence[Series], entry: str, spans: Sequence[Sequence[float]]
) -> Little | None:
    """Return what the replicas did for a database entry in these spans; None without samples."""
    count = duration = waited = seconds = 0.0
    busy: list[float] = []
    for one in series:
        for span in spans:
            inside = one.between(span[0], span[1]).samples
            samples = [sample for sample in inside if f"{entry}_xacts" in sample]
            if len(samples) < 2:
                continue
            first, last = samples[0], samples[-1]
            count += last[f"{entry}_xacts"] - first[f"{entry}_xacts"]
            duration += last[f"{entry}_xact_us"] - first[f"{entry}_xact_us"]
            waited += last[f"{entry}_wait_us"] - first[f"{entry}_wait_us"]
            seconds += last["t"] - first["t"]
            busy.append(mean(sample.get(f"{entry}_busy", 0.0) for sample in samples))
    if not count or not seconds:
        return None
    # Each replica's span was added up: divide the sums by replicas to get one clock.
    replicas = len({one.label for one in series_with(series, entry)}) or 1
    clock = seconds / replicas
    return Little(
        count / clock,
        duration / count / MICROSECONDS * 1000,
        waited / count / MICROSECONDS * 1000,
        (duration - waited) / MICROSECONDS / clock,
        mean(busy) * replicas,
    )


def series_with(series: Iterable[Series], entry: str) -> list[Series]:
    """Return the series that have figures of a database entry."""
    return [one for one in series if any(f"{entry}_xacts" in sample for sample in one.samples)]
