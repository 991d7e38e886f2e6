"""What is in the repository, for people and programs."""

from datetime import UTC, datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from infra.backup.recovery_target import shown
from infra.backup.repository import Archive, Backup, Info, holes

_MB = 1 << 20


def as_dict(found: Info, archived: Archive, error: str) -> dict[str, Any]:
    """Return all of it as JSON holds it: times with their zone, sizes in bytes."""
    backups = found.current
    return {
        "cluster": str(found.system_id or ""),
        "backups": [
            {
                "label": one.label,
                "type": one.kind,
                "cluster": str(one.system_id),
                "started": one.started.isoformat(),
                "stopped": one.stopped.isoformat(),
                "age_seconds": round((datetime.now(UTC) - one.stopped).total_seconds()),
                "database_bytes": one.database_bytes,
                "repository_bytes": one.repository_bytes,
            }
            for one in found.backups
        ],
        "recoverable_from": backups[0].stopped.isoformat() if backups else None,
        "recoverable_until": archived.until.isoformat() if archived.until else None,
        "not_recoverable": [
            {"from": begin.isoformat(), "to": end.isoformat() if end else None}
            for begin, end in holes(backups, archived, datetime.now(UTC))
        ],
        "log_bytes": archived.bytes,
        "error": error,
    }


def show(found: Info, archived: Archive, error: str) -> None:
    """Print all of it, 80 columns wide at most."""
    console = Console(width=80, highlight=False, soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in ("Label", "Type", "Finished (UTC)", "Age", "Size", "Stored"):
        table.add_column(
            name, no_wrap=True, justify="right" if name in ("Size", "Stored") else "left"
        )
    now = datetime.now(UTC)
    for one in found.backups:
        table.add_row(*_row(one, now, other=one.system_id != found.system_id))
    console.print(table)
    if backups := found.current:
        console.print(
            f"A restore can go to any moment from {shown(backups[0].stopped)}\n"
            f"to {shown(archived.until)}; while the server runs, until now."
        )
        for begin, end in holes(backups, archived, now):
            console.print(
                f"But not to one after {shown(begin)}\nand before "
                f"{shown(end) if end else 'the next full backup'}: segments are missing.",
                style="yellow",
            )
        stored = archived.bytes + sum(one.repository_bytes for one in backups)
        console.print(
            f"In the repository: {stored / _MB:.0f} MB, {archived.bytes / _MB:.0f} of log."
        )
    else:
        console.print("There is no backup of the running cluster yet.")
    if error:
        console.print(f"Problem: {error}", style="bold red")


def _row(one: Backup, now: datetime, *, other: bool) -> tuple[str, ...]:
    hours = (now - one.stopped).total_seconds() / 3600
    return (
        one.label + (" (other cluster)" if other else ""),
        one.kind,
        f"{one.stopped:%Y-%m-%d %H:%M}",
        f"{hours / 24:.1f} d" if hours >= 48 else f"{hours:.1f} h",
        f"{one.database_bytes / _MB:.0f} MB",
        f"{one.repository_bytes / _MB:.0f} MB",
    )
