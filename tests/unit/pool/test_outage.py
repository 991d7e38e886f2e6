"""When callers are refused at once, and when they are served again."""

import pytest

from app.pool import ConnectionSettings, DatabaseUnavailable, Deadline, PoolSettings
from app.pool.classification import is_unreachable
from app.pool.health import Outage
from app.pool.lender import Lender
from tests.unit.pool.fakes import Bench, Script, error
from tests.unit.pool.test_types import PLACE

AFTER_SECONDS = 8.0
FAILING = "server login has been failing, cached error: connect failed (server_login_retry)"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outage(clock: Clock) -> Outage:
    # Its probe ends at once, so that nothing but the test notes anything.
    return Outage(after_seconds=AFTER_SECONDS, probe=lambda: False, clock=clock)


def test_failures_that_do_not_outlast_the_budget_are_no_outage(
    outage: Outage, clock: Clock
) -> None:
    outage.failed()
    clock.now += AFTER_SECONDS - 0.1
    outage.failed()
    assert not outage.known


def test_failures_without_a_success_since_are_an_outage_and_one_success_ends_it(
    outage: Outage, clock: Clock
) -> None:
    outage.failed()
    clock.now += AFTER_SECONDS
    assert not outage.known, "time alone tells nothing"
    outage.failed()
    assert outage.known
    outage.reached()
    assert not outage.known


def test_a_success_in_between_begins_the_budget_anew(outage: Outage, clock: Clock) -> None:
    outage.failed()
    clock.now += AFTER_SECONDS - 1
    outage.reached()
    outage.failed()
    clock.now += AFTER_SECONDS - 1
    outage.failed()
    assert not outage.known


def test_probing_goes_on_until_something_is_reached() -> None:
    probes: list[bool] = []

    def probe() -> bool:
        probes.append(probed.known)
        if len(probes) == 3:
            probed.reached()
        return True

    probed = Outage(after_seconds=0.0, probe=probe)
    # What `failed` does, without its thread.
    probed.since = 0.0
    probed.known = True
    probed.probe()
    assert probes == [True, True, True]


def test_callers_are_refused_at_once_while_no_server_is_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probes: list[str] = []
    connection = ConnectionSettings(**PLACE, sslmode="require")
    lender = Lender(connection, PoolSettings(), "risk")
    monkeypatch.setattr(lender.outage, "keep_probing", lambda: probes.append("probe"))
    lender.outage.known = True
    with pytest.raises(DatabaseUnavailable, match="no server has been reached") as caught:
        lender.borrow(Deadline.after(10.0), "status")
    assert caught.value.retry_after_seconds >= 1
    assert caught.value.state.unreachable
    assert probes, "nothing would ever find out that a server is back"
    assert lender.tally.counts()["timeouts", "outage"] == 1


@pytest.mark.parametrize(
    ("text", "tells"),
    [
        (FAILING, True),
        ("the database system is starting up", True),
        # In a planned pause as well.
        ("query_wait_timeout", False),
        ("server conn crashed?", False),
        ("server shutting down", False),
        ("no more connections allowed (max_client_conn)", False),
    ],
)
def test_only_a_missing_server_tells_of_an_outage(text: str, tells: bool) -> None:
    assert is_unreachable(error("08P01", text)) is tells
    bench = Bench()
    assert bench.run(Script(error("08P01", text), "done")) == "done"
    assert bench.lender.unreachable == tells
