"""Every knob of the stack, in the order of the env file."""

from infra.compiler.catalogue import api, app, network, operations, pgbouncer, postgres, worker
from infra.compiler.knobs import Knob, Values


def all_knobs() -> tuple[Knob, ...]:
    """Return every knob, grouped by tier."""
    return (
        *postgres.KNOBS,
        *pgbouncer.KNOBS,
        *network.KNOBS,
        *app.KNOBS,
        *api.KNOBS,
        *worker.KNOBS,
        *operations.KNOBS,
    )


def by_name() -> dict[str, Knob]:
    """Return every knob under its name."""
    return {knob.name: knob for knob in all_knobs()}


def defaults() -> Values:
    """Return the value of every knob as the table gives it."""
    return Values({knob.name: knob.default for knob in all_knobs()})
