"""Backups from the command line: `python -m infra.backup`; infra/host/backup.sh runs it."""

from __future__ import annotations

import signal
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Final

import psycopg
import typer

from infra.backup import drill, listing, repository, restore, serve, verify
from infra.backup.recovery_target import BadTimeError
from infra.backup.repository import Archive, Info, RepositoryError
from infra.backup.restore import Restored
from infra.ops.outcome import (
    Exit,
    FailedError,
    Outcome,
    RefusedError,
    plain_console,
    print_document,
    report,
)

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object; progress goes to standard error.")
]
# As a shell says that SIGTERM has ended a program.
_ENDED: Final = 128 + signal.SIGTERM
_ROWS_SHOWN = 40


def create_app() -> typer.Typer:
    """Return the command line with every command registered."""
    app = typer.Typer(
        help="Backups of PostgreSQL.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_show_locals=False,
    )
    for name, function in (
        ("serve", _serve),
        ("make", _make),
        ("list", _list),
        ("verify", _verify),
        ("restore", _restore),
        ("swappable", _swappable),
        ("drill-begin", _drill_begin),
        ("drill-end", _drill_end),
    ):
        app.command(name)(function)
    return app


def _serve() -> None:
    """Make the backups that are due, for ever."""
    serve.Service().run()


def _make(
    kind: Annotated[str, typer.Argument(help="full or diff.")] = "diff",
    new_cluster: Annotated[
        bool, typer.Option("--new-cluster", help="The repository goes on with this cluster.")
    ] = False,
    new_repository: Annotated[
        bool, typer.Option("--new-repository", help="Put one aside that cannot be read.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a backup now."""
    if kind not in ("full", "diff"):
        sys.exit(
            report(
                Outcome(Exit.BAD_INPUT, [f"TYPE={kind[:40]} is not full or diff"]), as_json=as_json
            )
        )
    try:
        serve.require_writable()
        if new_repository:
            serve.put_aside()
        if new_cluster and repository.info().system_id is not None:
            repository.ask("stanza-upgrade")
        serve.prepared()
        serve.make(kind)
        newest = repository.info().backups[-1]
    except (serve.UnderWayError, RefusedError) as error:
        sys.exit(report(Outcome(Exit.REFUSED, [f"refused: {error}"]), as_json=as_json))
    except RepositoryError as error:
        sys.exit(report(Outcome(Exit.FAILED, [f"no backup was made: {error}"]), as_json=as_json))
    line = f"backup {newest.label} ({newest.kind}) is made"
    sys.exit(report(Outcome(state=line), as_json=as_json))


def _list(as_json: AsJson = False) -> None:
    """List what is in the repository, and the moments that a restore can go to."""
    found, archived, error = Info(), Archive(), ""
    try:
        found = repository.info()
        if found.archive_id:
            archived = repository.archive(found.archive_id)
        error = serve.problem(found, archived, datetime.now(UTC))
        running = repository.running_id(serve.DATA)
        if found.system_id and running and running != found.system_id:
            error = serve.another_cluster(found.system_id, running)
    except RepositoryError as refusal:
        error = str(refusal)
    if as_json:
        print_document(listing.as_dict(found, archived, error))
    else:
        listing.show(found, archived, error)
    sys.exit(Exit.FAILED if error else Exit.OK)


def _verify(
    server: Annotated[
        bool, typer.Option(help="Have the running server archive a segment too.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Read every file of the repository; name what a restore would miss."""
    faults = verify.run(server=server)
    verify.record(faults)
    state = f"{len(faults)} fault(s)" if faults else "every backup and segment is as it was written"
    sys.exit(
        report(Outcome(Exit.FAILED if faults else Exit.OK, faults, state=state), as_json=as_json)
    )


def _restore(
    to: Annotated[str, typer.Option(help="Moment; the end of the log when not given.")] = "",
    cluster: Annotated[str, typer.Option(help="Of a repository with several.")] = "",
    timeline: Annotated[str, typer.Option(help="Another one than the newest.")] = "",
    marker: Annotated[str, typer.Option(help="What a drill looks for.")] = "",
    as_json: AsJson = False,
) -> None:
    """Restore into the volume, recover, check and stop."""
    serve.end_on_signal(_ENDED)
    code, faults, done = int(Exit.OK), list[str](), None
    try:
        done = restore.run(to, cluster, timeline, marker)
        code, faults = restore.exit_code(done), done.faults
    except BadTimeError as error:
        code, faults = Exit.BAD_INPUT, [str(error)]
    except RefusedError as refusal:
        code, faults = Exit.REFUSED, [f"refused: {refusal}"]
    except (FailedError, RepositoryError, psycopg.Error, OSError) as error:
        code, faults = Exit.FAILED, [str(error).splitlines()[0]]
    outcome = Outcome(code, faults)
    if as_json:
        print_document({**outcome.as_dict(), "restored": asdict(done) if done else None})
        sys.exit(code)
    if done:
        _show(done)
    sys.exit(report(outcome, as_json=False))


def _show(done: Restored) -> None:
    lines = [
        f"restored to: {done.target}",
        f"from backup: {done.backup}, cluster {done.system_id}, now timeline {done.timeline}",
        f"last transaction: {done.last_commit or 'that of the backup'}",
        f"took: {done.restore_seconds} s restore, {done.recovery_seconds} s recovery, "
        f"{done.check_seconds} s checks",
        "rows:",
    ]
    tables = [one for one in done.found if one["rows"]]
    for one in tables[:_ROWS_SHOWN]:
        about = "" if one["exact"] else " (estimated)"
        lines.append(f"  {one['rows']:>12,}  {one['database']}.{one['table']}{about}")
    if len(tables) > _ROWS_SHOWN:
        lines.append(f"  and {len(tables) - _ROWS_SHOWN} more tables; JSON=yes has all")
    lines += [f"warning: {line}" for line in done.warnings]
    whole = "checksums, indexes, tables and the rules of assessments: as they must be"
    lines.append("not whole:" if done.faults else whole)
    plain_console().print("\n".join(lines))


def _swappable() -> None:
    """Exit 0 if the volume holds a cluster that may become the server's."""
    try:
        restore.require_swappable()
    except RefusedError as refusal:
        sys.exit(report(Outcome(Exit.REFUSED, [f"refused: {refusal}"]), as_json=False))
    except RepositoryError as error:
        sys.exit(report(Outcome(Exit.FAILED, [str(error)]), as_json=False))


def _drill_begin() -> None:
    """Commit a row, and wait until the repository has it; print what is to be found again."""
    try:
        print_document(drill.begin())
    except psycopg.OperationalError:
        fault = "refused: no drill without a server that answers; make status"
        sys.exit(report(Outcome(Exit.REFUSED, [fault]), as_json=False))
    except (RepositoryError, FailedError, psycopg.Error) as error:
        sys.exit(report(Outcome(Exit.FAILED, [str(error).splitlines()[0]]), as_json=False))


def _drill_end(
    point_seconds: Annotated[float, typer.Argument()],
    recovery_seconds: Annotated[float, typer.Argument()],
) -> None:
    """Write down what a drill has measured."""
    try:
        drill.end(point_seconds, recovery_seconds)
    except psycopg.Error as error:
        sys.exit(report(Outcome(Exit.FAILED, [str(error).splitlines()[0]]), as_json=False))


if __name__ == "__main__":
    create_app()(prog_name="backup")
