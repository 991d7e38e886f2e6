"""The watchdog ends what is late, reports what is long, and never touches what is back."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic

import pytest

from app.pool.watchdog import STALE_MAX, LeakReport, Lease, Watchdog

NEVER = float("inf")
SLACK_SECONDS = 0.5


class Line:
    """A socket pair whose near end can be cut, like a pooled connection."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.near.settimeout(5.0)

    def cut(self) -> None:
        with suppress(OSError):  # closed already, as a connection may be
            self.near.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.close()


@pytest.fixture
def reports() -> list[LeakReport]:
    return []


@pytest.fixture
def watchdog(reports: list[LeakReport]) -> Iterator[Watchdog[Line]]:
    made: Watchdog[Line] = Watchdog("test", on_leak=reports.append)
    made.start()
    yield made
    made.stop()


def lease(line: Line, seconds: float, leak_seconds: float = NEVER) -> Lease[Line]:
    now = monotonic()
    return Lease(line, now + seconds, now + leak_seconds, "work", now)


def test_a_blocked_read_ends_at_the_deadline(watchdog: Watchdog[Line], line: Line) -> None:
    loan = lease(line, 0.2)
    watchdog.arm(loan)
    assert line.near.recv(1) == b""
    assert 0.0 <= monotonic() - loan.deadline_at < SLACK_SECONDS
    assert watchdog.disarm(loan)
    assert watchdog.cuts == 1


def test_an_earlier_deadline_wakes_a_sleeping_watchdog(watchdog: Watchdog[Line]) -> None:
    patient, urgent = Line(), Line()
    watchdog.arm(lease(patient, 60.0))
    loan = lease(urgent, 0.1)
    watchdog.arm(loan)
    assert urgent.near.recv(1) == b""
    assert monotonic() - loan.deadline_at < SLACK_SECONDS
    patient.far.sendall(b"x")
    assert patient.near.recv(1) == b"x"
    patient.close()
    urgent.close()


def test_a_returned_connection_is_not_cut(watchdog: Watchdog[Line], line: Line) -> None:
    first, later = lease(line, 0.1), lease(Line(), 0.2)
    watchdog.arm(first)
    assert not watchdog.disarm(first)
    watchdog.arm(later)
    assert later.connection.near.recv(1) == b""  # the first deadline has passed as well
    line.far.sendall(b"x")
    assert line.near.recv(1) == b"x"
    later.connection.close()


def test_a_loan_cannot_be_cut_after_disarm_said_it_was_not() -> None:
    cut = threading.Event()

    class Racer:
        def cut(self) -> None:
            cut.set()

    racing: Watchdog[Racer] = Watchdog("race", on_leak=lambda _: None)
    racing.start()
    for _ in range(500):
        cut.clear()
        now = monotonic()
        loan = Lease(Racer(), now + 0.0005, NEVER, "race", now)
        racing.arm(loan)
        while monotonic() < loan.deadline_at:
            pass
        assert racing.disarm(loan) == cut.is_set()
    racing.stop()


def test_a_long_loan_is_reported_once_with_its_borrower(
    watchdog: Watchdog[Line], line: Line, reports: list[LeakReport]
) -> None:
    loan = lease(line, 0.4, leak_seconds=0.1)
    watchdog.arm(loan)
    assert line.near.recv(1) == b""  # ends at the deadline, after the threshold
    assert [report.name for report in reports] == ["work"]
    assert "test_a_long_loan_is_reported_once" in reports[0].stack
    assert reports[0].held_seconds >= 0.1
    assert watchdog.leaks == 1


def test_returned_loans_do_not_pile_up(watchdog: Watchdog[Line], line: Line) -> None:
    for _ in range(10_000):
        loan = lease(line, 60.0)
        watchdog.arm(loan)
        watchdog.disarm(loan)
    assert len(watchdog._heap) <= STALE_MAX + 2


def test_disarming_twice_counts_once(watchdog: Watchdog[Line], line: Line) -> None:
    loan = lease(line, 60.0)
    watchdog.arm(loan)
    watchdog.disarm(loan)
    watchdog.disarm(loan)
    assert watchdog.active == 0


def test_waiting_until_idle_ends_when_the_last_loan_is_back(
    watchdog: Watchdog[Line], line: Line
) -> None:
    loan = lease(line, 60.0)
    watchdog.arm(loan)
    assert not watchdog.wait_until_idle(0.05)
    threading.Timer(0.05, watchdog.disarm, [loan]).start()
    assert watchdog.wait_until_idle(5.0)


def test_a_deadline_holds_after_stop_while_a_loan_is_out(
    watchdog: Watchdog[Line], line: Line
) -> None:
    watchdog.arm(lease(line, 0.2))
    watchdog.stop()
    assert line.near.recv(1) == b""
