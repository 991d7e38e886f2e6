"""Texts made from the setting table: stack.env, and the reference of every setting.

python -m infra.config.envdoc stack.env      # the default infra/env/stack.env
python -m infra.config.envdoc settings.md    # docs/settings.md
"""

import sys
import textwrap
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from infra.config import catalogue
from infra.config.settings import Setting, Tier

_WIDTH = 96
_TITLES: Final = {
    Tier.POSTGRES: "PostgreSQL: the server.",
    Tier.PGBOUNCER: "PgBouncer: between the app and the server. Each value is for one replica.",
    Tier.GATEWAY: "Gateway: PgBouncer for applications on this host.",
    Tier.NETWORK: "TCP: app to PgBouncer, and on to PostgreSQL with PGBOUNCER_SERVER_HOP=tls.",
    Tier.APP: "App: what the api and the workers share.",
    Tier.API: "Api: one container, API_PROCESSES processes in it, each with one pool.",
    Tier.WORKER: "Worker: WORKER_REPLICAS processes, each with one pool.",
    Tier.BACKUP: "Backups of PostgreSQL: base backups and the archived log.",
    Tier.OPERATIONS: "Operations: planned pauses and certificates.",
    Tier.OBSERVABILITY: "Observability: what watches the path; nothing of it runs by default.",
}
MACHINE: Final = (
    "Sized for a machine with 2 cores and 4 GB of memory to spare that runs every tier beside "
    "other work."
)
_FORM = (
    "NAME=value, the bare value without spaces, quotes, unit or comment behind it. After a change: "
    "make plan, then make apply. Every other setting, with its rule: docs/settings.md; add the "
    "ones to change here. No secret belongs here."
)


def document(
    header: str = MACHINE, values: Mapping[str, str] = MappingProxyType({}), *, title: str = ""
) -> str:
    """Return the text of a stack.env: the listed settings, and others that `values` gives.

    `header` says which machine it is for; a setting without a value has its default.
    """
    first = f"Sluice: {title or 'the settings of the stack.'}"
    parts = [_comment(first), *map(_comment, header.split("\n\n")), _comment(_FORM)]
    for tier in Tier:
        listed = [one for one in _of(tier) if one.listed or one.name in values]
        if listed:
            parts.append(f"# ---- {_TITLES[tier]} ".ljust(_WIDTH, "-"))
        parts += [
            f"{comment(one)}\n{one.name}={values.get(one.name, one.default)}" for one in listed
        ]
    return "\n\n".join(parts) + "\n"


def comment(setting: Setting) -> str:
    """Return the comment above a setting: its meaning, unit, range and the cost of a change."""
    facts = (
        f"{setting.unit.capitalize() if setting.unit.islower() else setting.unit}, {setting.range}"
    )
    return f"{_comment(setting.meaning)}\n{_comment(f'{facts}; {setting.change}.')}"


def reference() -> str:
    """Return docs/settings.md: every setting with its unit, range, default, rule and cost."""
    parts = [
        "# Settings",
        textwrap.fill(
            "Every setting of the stack. `infra/env/stack.env` lists some; any other may be added "
            "to it. What Compose reads must stand there, but for optional services. A default that "
            "follows from other settings counts unless the file gives a value; "
            "`make plan FULL=yes` shows what it comes to. A parameter of a server that has no "
            "setting: docs/tuning.md, *Parameters "
            "without a setting*. This file is generated: "
            "`python -m infra.config.envdoc settings.md`.",
            _WIDTH,
        ),
    ]
    for tier in Tier:
        parts.append(f"## {_TITLES[tier].rstrip('.')}")
        parts += [_section(setting) for setting in _of(tier)]
    return "\n\n".join(parts) + "\n"


def _section(setting: Setting) -> str:
    place = "listed in stack.env" + ("; read by Compose" if setting.compose else "")
    derived = setting.derivation
    default = (
        f"{derived.formula}; {setting.default} with the other defaults"
        if derived
        else setting.default
    )
    facts = {
        "Unit": f"{setting.unit}. Range: {setting.range}",
        "Default": default,
        "Rule": setting.rule,
        "Change": setting.change,
        "Place": place if setting.listed else "",
    }
    lines = [f"- {name}: {text}." for name, text in facts.items() if text or text == 0]
    return "\n".join([f"### {setting.name}", "", setting.meaning, "", *lines])


def _of(tier: Tier) -> list[Setting]:
    return [setting for setting in catalogue.all_settings() if setting.tier is tier]


def _comment(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")


if __name__ == "__main__":
    sys.stdout.write({"stack.env": document, "settings.md": reference}[sys.argv[1]]())
