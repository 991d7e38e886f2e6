"""`python -m app.schema COMMAND`: what the owner of the schemas does, straight to PostgreSQL."""

import argparse
import sys
from pathlib import Path

from app.schema import load_reference
from app.settings import MigrateSettings, SettingsError, load_settings, settings_path


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return its exit code."""
    options = _parser().parse_args(arguments)
    if options.command == "migrate":
        # A load has no use for Alembic and SQLAlchemy, and a limit of memory.
        from app.schema import migrate

        return migrate.run()
    try:
        settings = load_settings(settings_path("migrate"), MigrateSettings)
    except SettingsError as error:
        faults = str(error).splitlines()
        outcome = load_reference.LoadOutcome(load_reference.FAILED, faults)
        return load_reference.report(outcome, as_json=options.json)
    return load_reference.run(
        options.table,
        options.csv,
        settings.database,
        replace=options.replace,
        as_json=options.json,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app.schema")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("migrate", help="bring the schema up to date, see to reference data")
    load = commands.add_parser(
        "load-reference",
        help="load the rows of a CSV file into one table of reference data: all or none",
        allow_abbrev=False,
    )
    load.add_argument("table", help="table of the schema reference")
    load.add_argument("csv", type=Path, help="CSV file with a header line")
    load.add_argument(
        "--replace", action="store_true", help="also remove rows whose key is not in the file"
    )
    load.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


if __name__ == "__main__":
    sys.exit(main())
