"""What a change does to the budget."""

from infra.config import catalogue
from infra.config.settings import Value, Values
from infra.ops import budget_view


def values(**changed: Value) -> Values:
    return Values(catalogue.defaults().as_dict() | changed)


def test_the_effect_names_connections_memory_and_times() -> None:
    after = values(PGBOUNCER_BATCH_POOL_SIZE=7, API_LOCK_TIMEOUT_MS=900, POSTGRES_WORK_MEM_KB=2048)
    changed = {
        row.name: (row.before, row.after)
        for row in budget_view.effect(values(), after)
        if row.changed
    }
    assert changed["pool risk_batch, 2 replicas"] == (4, 14)
    assert changed["left of max_connections"] == (30, 20)
    assert changed["API_LOCK_TIMEOUT_MS"] == (1000, 900)
    assert "work_mem" in changed


def test_the_effect_of_a_first_compile_has_no_before() -> None:
    assert {row.before for row in budget_view.effect(None, values())} == {None}


def test_a_pool_of_more_replicas_keeps_its_row() -> None:
    rows = budget_view.effect(values(), values(PGBOUNCER_REPLICAS=1))
    (pooled,) = [row for row in rows if row.name == "pooled sessions"]
    assert (pooled.before, pooled.after) == (12, 6)
