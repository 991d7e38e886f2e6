"""The command `preset`: a starting point, as stack.env would have it, against what is in force.

The operator's API_PORT is kept: it says where callers find the service, not how large it is.
"""

import re
import tempfile
from pathlib import Path
from typing import Final

import typer

from infra.compiler import envfile, presets
from infra.compiler.build import ENV_FILE_NAME
from infra.compiler.host import Host
from infra.ops import exits, plan
from infra.ops.outcome import Outcome, report

KEPT: Final = ("API_PORT",)


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
    path = env_file.parent / "presets" / f"{name}.env"
    known = [one for one in presets.PRESETS if one != "stack"]
    if name not in known or not path.is_file():
        fault = f"preset {name!r} is not one of {', '.join(known)}"
        return report(Outcome(exits.BAD_INPUT, [fault]), as_json=as_json)
    text = adopted(path.read_text(encoding="utf-8"), env_file)
    with tempfile.TemporaryDirectory() as directory:
        proposed = Path(directory) / ENV_FILE_NAME
        proposed.write_text(text, encoding="utf-8")
        asked = None if print_text else settings
        made = plan.make(
            proposed, compiled, asked, host=host, shown=f"infra/env/presets/{path.name}"
        )
    if print_text and not made.faults:
        typer.echo(text, nl=False)
        return exits.OK
    return plan.show(made, as_json=as_json)


def adopted(text: str, env_file: Path) -> str:
    """Return a preset's text with the values that the present env file keeps."""
    present = envfile.read(env_file, name=env_file.name)
    kept = {entry.name: entry.text for entry in present.entries if entry.name in KEPT}
    for name, value in kept.items():
        text = re.sub(rf"(?m)^{name}=.*$", f"{name}={value}", text)
    first, _, rest = text.partition("\n")
    title = re.sub(r"preset (\w+)\. Copy it over stack\.env.*", r"from the preset \1.", first)
    return f"{title}\n{rest}"
