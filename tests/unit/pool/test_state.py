"""An outage and a saturated pool are told apart."""

import pytest

from app.pool import PoolState
from app.pool.state import ConnectRecord, is_outage, summary


def state(in_use: int, idle: int = 0) -> PoolState:
    return PoolState("p", in_use + idle, 1, 4, in_use, idle, 0, 8)


def record(*, opened_at: float, failed_at: float) -> ConnectRecord:
    made = ConnectRecord()
    made.note_opened(opened_at)
    made.note_failed(failed_at, OSError("refused\nsecond line"))
    return made


@pytest.mark.parametrize(
    ("in_use", "failing", "expected"),
    [(4, True, False), (4, False, False), (1, True, True), (1, False, False), (0, False, True)],
)
def test_an_outage_is_when_connections_are_missing_and_cannot_be_made(
    in_use: int, failing: bool, expected: bool
) -> None:
    connects = record(opened_at=1.0, failed_at=2.0 if failing else 0.0)
    assert is_outage(state(in_use), connects) is expected


def test_an_outage_begins_and_ends_once() -> None:
    connects = ConnectRecord()
    assert connects.note_failed(1.0, OSError())
    assert not connects.note_failed(2.0, OSError())
    assert connects.note_opened(3.0)
    assert not connects.note_opened(4.0)


def test_a_summary_is_one_short_line() -> None:
    assert summary(OSError("refused\nsecond line")) == "OSError: refused"
    assert len(summary(OSError("x" * 999))) == 200
