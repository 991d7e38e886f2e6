"""The steps of a change: what is done live, in which order, and what has to wait."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.config import catalogue, clients, extra, rules, sizing
from infra.config.extra import PGBOUNCER_FILE, POSTGRES_FILE, key
from infra.config.settings import Change, Setting, Value, Values
from infra.ops import plan
from infra.ops.plan import SIZED, Step, live_part, smaller, steps, tiers_to_restart

DEADLINE = clients.key("billing", "DEADLINE_SECONDS")
CLIENT: dict[str, Value] = {
    one.name: one.derived(Values({clients.key("billing", "POOL_SIZE"): 2, DEADLINE: 10}))
    for one in clients.settings("billing").values()
}


def values(**changed: Value) -> Values:
    return Values(catalogue.defaults().as_dict() | changed)


def sizes(of: Values) -> dict[str, Value]:
    return {name: of[name] for name in SIZED}


@st.composite
def sized(draw: st.DrawFn) -> Values:
    """Values that hold the budget and differ from the defaults in sized resources only."""
    numbers: dict[str, Value] = {}
    for kind in ("INTERACTIVE", "BATCH"):
        size = draw(st.integers(1, 12))
        numbers[f"PGBOUNCER_{kind}_POOL_SIZE"] = size
        numbers[f"PGBOUNCER_{kind}_RESERVE_SIZE"] = draw(st.integers(0, 4))
        numbers[f"PGBOUNCER_{kind}_MIN_POOL_SIZE"] = draw(st.integers(0, size))
    for service, least in {"API": 1, "WORKER": 4}.items():
        size = draw(st.integers(least, 60))
        numbers[f"{service}_POOL_MAX_SIZE"] = size
        numbers[f"{service}_POOL_MIN_SIZE"] = draw(st.integers(1, size))
    numbers["PGBOUNCER_MAX_CLIENT_CONNECTIONS"] = draw(st.integers(200, 400))
    numbers["POSTGRES_OWNER_CONNECTIONS"] = draw(st.integers(2, 5))
    found = values(**numbers)
    return found if not rules.faults(found, file="") else values()


@given(sized(), sized())
@settings(deadline=None)
def test_the_configuration_in_between_holds_the_budget_and_exceeds_neither(
    before: Values, wanted: Values
) -> None:
    middle = smaller(before, wanted)
    assert not rules.faults(middle, file="")
    for name in SIZED:
        assert middle.integer(name) == min(before.integer(name), wanted.integer(name))


@given(sized(), sized())
@settings(deadline=None)
def test_no_tier_opens_more_than_the_tier_below_accepts_at_any_step(
    before: Values, wanted: Values
) -> None:
    """Each tier takes a configuration on its own; look at every moment in between."""
    app = pgbouncer = postgres = before
    for step in steps(before, wanted):
        order = ["app", "pgbouncer", "postgres"]
        for tier in order if step.downwards else reversed(order):
            app = step.values if tier == "app" else app
            pgbouncer = step.values if tier == "pgbouncer" else pgbouncer
            postgres = step.values if tier == "postgres" else postgres
            clients = pgbouncer.integer("PGBOUNCER_MAX_CLIENT_CONNECTIONS")
            assert sizing.app_pools(app) <= clients
            limits = sizing.role_limits(postgres)
            for pool in sizing.pools(pgbouncer):
                assert pool.limit * pgbouncer.integer("PGBOUNCER_REPLICAS") <= limits[pool.user]
    assert app.as_dict() == pgbouncer.as_dict() == postgres.as_dict() == wanted.as_dict()


def test_growth_goes_upwards_in_one_step() -> None:
    wanted = values(API_POOL_MAX_SIZE=20)
    assert [step.downwards for step in steps(values(), wanted)] == [False]


def test_shrinking_goes_downwards_in_one_step() -> None:
    wanted = values(PGBOUNCER_INTERACTIVE_RESERVE_SIZE=0)
    assert [step.downwards for step in steps(values(), wanted)] == [True]


def test_both_at_once_shrink_first_and_grow_then() -> None:
    wanted = values(PGBOUNCER_BATCH_POOL_SIZE=4, PGBOUNCER_INTERACTIVE_RESERVE_SIZE=0)
    first, second = steps(values(), wanted)
    assert (first.downwards, second.downwards) == (True, False)
    assert first.values["PGBOUNCER_INTERACTIVE_RESERVE_SIZE"] == 0
    assert first.values["PGBOUNCER_BATCH_POOL_SIZE"] == 2
    assert second == Step(wanted, downwards=False)


def test_what_is_not_sized_changes_with_the_last_step_only() -> None:
    wanted = values(API_POOL_MAX_SIZE=8, WORKER_POOL_MAX_SIZE=8, API_LOCK_TIMEOUT_MS=500)
    first, second = steps(values(), wanted)
    assert first.values["API_LOCK_TIMEOUT_MS"] == 1000
    assert second.values["API_LOCK_TIMEOUT_MS"] == 500


def test_no_difference_is_one_step() -> None:
    assert len(steps(values(), values())) == 1


def test_what_needs_a_restart_keeps_its_value() -> None:
    wanted = values(POSTGRES_MAX_CONNECTIONS=70, API_POOL_MAX_SIZE=20)
    part = live_part(values(), wanted)
    assert part.values["POSTGRES_MAX_CONNECTIONS"] == 60
    assert part.values["API_POOL_MAX_SIZE"] == 20
    assert part.waiting == ("POSTGRES_MAX_CONNECTIONS",)
    assert part.held == ()


def test_growth_that_only_the_restart_makes_room_for_is_held_back() -> None:
    wanted = values(
        POSTGRES_MAX_CONNECTIONS=90, PGBOUNCER_BATCH_POOL_SIZE=20, API_LOCK_TIMEOUT_MS=900
    )
    part = live_part(values(), wanted)
    assert part.values["PGBOUNCER_BATCH_POOL_SIZE"] == 2
    assert part.values["API_LOCK_TIMEOUT_MS"] == 900
    assert part.held == ("PGBOUNCER_BATCH_POOL_SIZE",)


def test_shrinking_before_a_restart_is_not_held_back() -> None:
    wanted = values(POSTGRES_MAX_CONNECTIONS=50, PGBOUNCER_INTERACTIVE_RESERVE_SIZE=0)
    part = live_part(values(), wanted)
    assert part.values["PGBOUNCER_INTERACTIVE_RESERVE_SIZE"] == 0
    assert part.held == ()


def test_where_no_part_holds_the_budget_nothing_is_done() -> None:
    """The lock timeout fits only under the longer deadline, which takes a restart."""
    slower: dict[str, Value] = {
        "API_QUERY_TIMEOUT_SECONDS": 15,
        "API_TRANSACTION_TIMEOUT_MS": 14_000,
        "API_REQUEST_DEADLINE_SECONDS": Decimal("18.0"),
    }
    part = live_part(values(), values(**slower))
    assert part.values.as_dict() == values().as_dict()
    assert set(part.held) == {"API_QUERY_TIMEOUT_SECONDS", "API_TRANSACTION_TIMEOUT_MS"}


def test_all_sized_resources_are_live_whole_numbers() -> None:
    known = catalogue.by_name()
    for name in SIZED:
        assert known[name].change is Change.LIVE
        assert isinstance(known[name].default, int)


@pytest.mark.parametrize("setting", catalogue.all_settings(), ids=lambda setting: setting.name)
def test_every_change_that_is_not_live_names_a_service(setting: Setting) -> None:
    restart, recreate = tiers_to_restart([setting.name])
    assert bool(restart or recreate) == (setting.change is not Change.LIVE)
    known = {"postgres", "migrate", "backup", "pgbouncer", "gateway", "api", "worker"}
    known |= {"observability"}
    assert set(restart + recreate) <= known


def test_a_service_that_gets_a_new_container_is_not_restarted_too() -> None:
    names = ["API_THREADS", "API_MEMORY_MB", "POSTGRES_MAX_CONNECTIONS", "TCP_USER_TIMEOUT_MS"]
    assert tiers_to_restart(names) == (("postgres", "worker"), ("api",))
    # A process that has something else than what was compiled.
    assert tiers_to_restart(["API_MEMORY_MB"], ["api", "postgres"]) == (("postgres",), ("api",))
    # Another number of replicas leaves those that are there as they are.
    names = ["PGBOUNCER_REPLICAS", key(PGBOUNCER_FILE, "track_extra_parameters")]
    assert tiers_to_restart(names) == (("pgbouncer",), ("pgbouncer",))


def test_the_largest_part_that_holds_is_taken() -> None:
    wanted = values(POSTGRES_MAX_CONNECTIONS=90, PGBOUNCER_BATCH_POOL_SIZE=9)
    assert plan.live_part(values(), wanted).held == ()


def test_a_parameter_that_needs_a_restart_is_left_until_then() -> None:
    delay, name = key(POSTGRES_FILE, "bgwriter_delay"), key(POSTGRES_FILE, "cluster_name")
    tracked = key(PGBOUNCER_FILE, "track_extra_parameters")
    wanted = values(**{delay: "50ms", name: "two", tracked: "search_path"})
    part = live_part(values(), wanted)
    assert part.waiting == (name, tracked)
    assert extra.given(part.values) == (delay,)
    assert tiers_to_restart(part.waiting) == (("postgres", "pgbouncer"), ())
    gone = live_part(wanted, values())
    assert gone.waiting == (name, tracked)
    assert extra.given(gone.values) == (name, tracked)


def test_a_client_that_joins_grows_in_one_step_and_one_that_leaves_shrinks_in_one() -> None:
    before = catalogue.defaults()
    joined = Values(before.as_dict() | CLIENT)
    (grow,) = steps(before, joined)
    assert (grow.values.as_dict(), grow.downwards) == (joined.as_dict(), False)
    (shrink,) = steps(joined, before)
    assert (shrink.values.as_dict(), shrink.downwards) == (before.as_dict(), True)


def test_a_client_that_comes_while_another_goes_waits_until_that_has_let_go() -> None:
    old = Values(catalogue.defaults().as_dict() | CLIENT)
    other = {name.replace("billing", "orders"): value for name, value in CLIENT.items()}
    new = Values(catalogue.defaults().as_dict() | other)
    first, second = steps(old, new)
    assert (clients.given(first.values), first.downwards) == ((), True)
    assert (clients.given(second.values), second.downwards) == (("orders",), False)


def test_what_is_live_of_a_client_that_needs_more_sessions_is_nothing_of_it() -> None:
    size = {clients.key("billing", "POOL_SIZE"): 100, "POSTGRES_MAX_CONNECTIONS": 400}
    wanted = Values(catalogue.defaults().as_dict() | CLIENT | size)
    part = live_part(catalogue.defaults(), wanted)
    assert clients.given(part.values) == ()
    assert part.waiting == ("POSTGRES_MAX_CONNECTIONS",)
    assert clients.shortened(part.held) == ("clients/billing.env",)
