"""The command `preset`: the plan of a starting point, as stack.env would have it.

A preset is an overlay: the values that differ from the defaults, each with its reason. The
operator's KEPT settings stay: they say where the stack is found and what runs beside it, not how
large it is.
"""

import os
import tempfile
from pathlib import Path
from typing import Final

import typer

from infra.config import envdoc, envfile, extra
from infra.config.build import ENV_FILE_NAME
from infra.config.envfile import EnvFile, assign
from infra.config.host import Host
from infra.ops import plan, plan_view
from infra.ops.outcome import Exit, Outcome, report

KEPT: Final = ("API_BIND_ADDRESS", "API_PORT", "PGBOUNCER_PORT", "COMPOSE_PROFILES")


def run(
    name: str,
    env_file: Path,
    compiled: Path,
    settings: Path,
    *,
    host: Host | None = None,
    as_json: bool = False,
    print_text: bool = False,
) -> int:
    """Show the plan of a preset beside `env_file`, or print its text; return the exit code.

    A preset with faults, such as one that `host` cannot carry, has no text: 2 and the faults.
    """
    directory = env_file.parent / "presets"
    known = sorted(path.stem for path in directory.glob("*.env"))
    if name not in known:
        fault = f"preset {name!r} is not one of {', '.join(known)}"
        return report(Outcome(Exit.BAD_INPUT, [fault]), as_json=as_json)
    path = directory / f"{name}.env"
    shown = f"infra/env/presets/{path.name}"
    overlay = envfile.read(path, name=shown)
    if faults := assign(overlay, overlay=True).faults:
        return report(Outcome(Exit.BAD_INPUT, [str(fault) for fault in faults]), as_json=as_json)
    text = adopted(name, overlay, path.read_text(encoding="utf-8"), env_file)
    with tempfile.TemporaryDirectory() as scratch:
        proposed = Path(scratch) / ENV_FILE_NAME
        proposed.write_text(text, encoding="utf-8")
        for file in extra.FILES:
            # As a link, so that one that cannot be read is named as such.
            if os.path.lexists(present := env_file.parent / file):
                proposed.with_name(file).symlink_to(present.absolute())
        asked = None if print_text else settings
        made = plan.make(proposed, compiled, asked, host=host, shown=shown)
    if print_text and not made.faults:
        typer.echo(text, nl=False)
        return Exit.OK
    return plan_view.show(made, as_json=as_json)


def adopted(name: str, overlay: EnvFile, text: str, env_file: Path) -> str:
    """Return the whole env file of a preset, with the values that the present one keeps.

    The first comment of the preset's own `text` says which machine it is for.
    """
    present = envfile.read(env_file, name=env_file.name)
    kept = {entry.name: entry.text for entry in present.entries if entry.name in KEPT}
    values = {entry.name: entry.text for entry in overlay.entries}
    first, _, _ = text.partition("\n\n")
    machine = " ".join(line.lstrip("# ") for line in first.splitlines())
    return envdoc.document(machine, values | kept, title=f"from the preset {name}.")
