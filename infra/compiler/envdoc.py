"""The text of an env file: every knob with its documentation, from the knob table.

`python -m infra.compiler.envdoc small` prints a preset; infra/env is written with it.
"""

import sys
import textwrap

from infra.compiler import catalogue
from infra.compiler.knobs import Knob, Tier
from infra.compiler.presets import PRESETS, Preset

_WIDTH = 96
_TIERS = {
    Tier.POSTGRES: "PostgreSQL: the server.",
    Tier.PGBOUNCER: "PgBouncer: between the app and the server. Each value is for one replica.",
    Tier.NETWORK: "TCP on both hops, app to PgBouncer and PgBouncer to PostgreSQL.",
    Tier.APP: "App: what the api and the workers share.",
    Tier.API: "Api: one process with one pool.",
    Tier.WORKER: "Worker: WORKER_REPLICAS processes, each with one pool.",
    Tier.OPERATIONS: "Operations: planned pauses and certificates.",
}
_FORM = (
    "Form: NAME=value, the bare value without spaces, quotes, unit or comment behind it, so that "
    "Compose reads the same. A knob that is left out has its default, but for those marked "
    "'read by Compose'. After a change: make plan, then make apply. No secret belongs here."
)


def document(preset: Preset) -> str:
    """Return the whole text of an env file with the values of `preset`."""
    parts = [_comment(f"Sluice: {preset.title}"), _comment(preset.machine), _comment(_FORM)]
    for tier, title in _TIERS.items():
        parts.append(f"# ---- {title} ".ljust(_WIDTH, "-"))
        knobs = [knob for knob in catalogue.all_knobs() if knob.tier is tier]
        parts.extend(_knob(knob, preset) for knob in knobs)
    return "\n\n".join(parts) + "\n"


def knob_comment(knob: Knob) -> str:
    """Return the comment above a knob: meaning, range, default, rule, cost of a change."""
    facts = f"Unit: {knob.unit}. Range: {knob.range}. Default: {knob.default}."
    change = f"Change: {knob.change}." + (" Read by Compose." if knob.compose else "")
    rule = f"Rule: {knob.rule}." if knob.rule else ""
    lines = (knob.meaning, facts, rule, change)
    return "\n".join(_comment(line) for line in lines if line)


def _knob(knob: Knob, preset: Preset) -> str:
    value = preset.values.get(knob.name, knob.default)
    return f"{knob_comment(knob)}\n{knob.name}={value}"


def _comment(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")


if __name__ == "__main__":
    sys.stdout.write(document(PRESETS[sys.argv[1]]))
