"""Judge a swarm, or make the stack for it: `python -m infra.swarm`.

Both read the host's document (infra/host/swarm.sh) from standard input. `check` prints in which
direction the tiers are updated, `bundle` a tar archive of stack files. Exit codes: 0 done, 2 the
env file, a certificate or the swarm is at fault (every fault on stderr).
"""

import argparse
import datetime
import io
import json
import sys
import tarfile
from pathlib import Path

from infra.config import build, recovery, sizing
from infra.config.build import ENV_FILE_NAME, ENV_FILE_SHOWN
from infra.config.settings import UnavailableError, Values
from infra.ops.running import read_record
from infra.swarm import rules, stack

EXIT_REFUSED = 2


def main(arguments: list[str] | None = None) -> int:
    """Do what is asked; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m infra.swarm", description=__doc__)
    parser.add_argument("what", choices=("check", "bundle"))
    parser.add_argument("--env-dir", type=Path, default=Path("/etc/sluice/env"))
    parser.add_argument("--out", type=Path, default=Path("/out"))
    parser.add_argument("--secrets", type=Path, default=Path("/secrets"))
    options = parser.parse_args(arguments)
    document = json.load(sys.stdin)
    env_file = options.env_dir / ENV_FILE_NAME
    if options.what == "bundle":
        values = build.check(env_file).values
        _print_bundle(
            stack.build(
                document["resolved"],
                stack.read_compiled(options.out),
                document["images"],
                encrypted=values.text("SWARM_ENCRYPTED") == "yes",
            )
        )
        return 0
    # Not whether there is a volume for them: Compose makes an empty one for any command of `ops`.
    has_secrets = not recovery.missing(options.secrets, [recovery.CA])
    facts = rules.Facts.parse(document, has_secrets=has_secrets)
    return _check(env_file, options.secrets, options.out, facts)


def _check(env_file: Path, secrets: Path, out: Path, facts: rules.Facts) -> int:
    now = datetime.datetime.now(datetime.UTC)
    checked = build.check_secrets(build.check(env_file), secrets, now=now, out=out)
    faults = (*checked.faults, *rules.faults(checked.values, facts, file=ENV_FILE_SHOWN))
    if facts.stack and facts.has_secrets and (others := recovery.replaced(secrets, out)):
        faults = (*faults, rules.replaced(others, secrets))
    lines = [str(fault) for fault in faults] or [
        f"warning: {one}" for one in (*checked.warnings, *rules.warnings(facts))
    ]
    sys.stderr.writelines(f"{line}\n" for line in lines)
    if faults:
        return EXIT_REFUSED
    # What an apply that was not finished had found, else what was compiled last.
    records = (read_record(out / "ops" / name) for name in ("unfinished.json", "compiled.json"))
    before = next((one for one in records if one is not None), None)
    shrinks = before and _shrinks(Values(before), checked.values)
    sys.stdout.write("downwards\n" if shrinks else "upwards\n")
    return 0


def _shrinks(before: Values, wanted: Values) -> bool:
    """Return True if what runs now would not fit into what is to carry it.

    Then the app is updated first and PostgreSQL last; otherwise the other way round.
    """
    clients = wanted.integer("PGBOUNCER_MAX_CLIENT_CONNECTIONS")
    sessions = wanted.integer("POSTGRES_MAX_CONNECTIONS")
    try:
        return (
            sizing.client_demand(before) > clients
            or sizing.total(sizing.session_parts(before)) > sessions
        )
    except UnavailableError:
        # Compiled by a version with other settings.
        return False


def _print_bundle(bundle: stack.Bundle) -> None:
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        for name, content in stack.documents(bundle).items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600
            archive.addfile(entry, io.BytesIO(content))


if __name__ == "__main__":
    sys.exit(main())
