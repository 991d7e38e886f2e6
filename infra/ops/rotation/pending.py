"""What a rotation starts from, and its secrets: old and new, kept until the new are proven.

They are in `rotation/` on the secrets volume. A rotation that was interrupted finds them
there and goes on with the same new secrets.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from infra.config import recovery
from infra.config.build import check
from infra.config.faults import Fault, FaultyInputError
from infra.config.settings import Values
from infra.ops.operation import Paths
from infra.ops.outcome import RefusedError
from infra.ops.running import Running, read_record

_NAME = "rotation"
_WHAT = "what"
# All files of all steps, old and new, in blocks of 4 KiB are below 2 MiB.
_SPACE_MIN_MB = 8


@dataclass(frozen=True, slots=True)
class Pending:
    """Secrets by file name, before and after; `resumed`: an earlier run has begun this."""

    what: str
    directory: Path
    old: dict[str, bytes] = field(repr=False)
    new: dict[str, bytes] = field(repr=False)
    resumed: bool

    def old_file(self, name: str) -> Path:
        """Return the file of an old secret."""
        return self.directory / "old" / name

    def new_file(self, name: str) -> Path:
        """Return the file of a new secret."""
        return self.directory / "new" / name

    def forget(self) -> None:
        """Remove the record: one of the two sets is in use everywhere, and in its place."""
        # First out of the way as a whole: half of a record must never be found.
        gone = self.directory.with_name(f".{_NAME}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        self.directory.rename(gone)
        shutil.rmtree(gone)


def require_given(source: Path | None, files: Iterable[str]) -> None:
    """Judge the names in a directory of what an operator gives, before anything is made instead.

    Raises:
        FaultyInputError: it has none of the files, or one of their kind that is none of them.

    """
    if source is None:
        return
    known = tuple(files)
    kinds = {Path(name).suffix for name in known}
    here = sorted(one.name for one in source.iterdir())
    strangers = [one for one in here if Path(one).suffix in kinds and one not in known]
    if strangers or not set(known) & set(here):
        listed = ", ".join(known)
        faults = [Fault(str(source / one), f"is none of: {listed}") for one in strangers]
        raise FaultyInputError(faults or [Fault(str(source), f"has none of: {listed}")])


def compiled_values(paths: Paths, env_file: Path | None = None) -> Values:
    """Return the settings as they were compiled last; refuse when they never were.

    With `env_file` those of it where only the record of the last compile is lost. Refuses also
    while secrets are lost: a rotation would make new ones without a switch.
    """
    if lost := recovery.fault(paths.secrets, paths.out):
        raise RefusedError(str(lost))
    if (values := _recorded(paths)) is not None:
        return values
    if env_file is None or recovery.is_blank(paths.secrets, paths.out):
        raise RefusedError("nothing was compiled yet; `make up` compiles and starts")
    return last_values(paths, env_file)


def last_values(paths: Paths, env_file: Path) -> Values:
    """Return the settings as they were compiled last; those of the env file where that is lost.

    Raises:
        FaultyInputError: the env file is needed and has faults.

    """
    if (values := _recorded(paths)) is not None:
        return values
    checked = check(env_file)
    if checked.faults:
        raise FaultyInputError(checked.faults)
    return checked.values


def _recorded(paths: Paths) -> Values | None:
    recorded = read_record(paths.out / "ops" / "compiled.json")
    return None if recorded is None else Running((), recorded=recorded).compiled


def unfinished(secrets: Path) -> str | None:
    """Return what a rotation that was not finished rotates; None when there is none."""
    try:
        return (secrets / _NAME / _WHAT).read_text(encoding="ascii")
    except FileNotFoundError:
        return None


def require_space(*directories: Path) -> None:
    """Refuse when there is no room for all that a rotation writes."""
    for directory in directories:
        free_mb = shutil.disk_usage(directory).free >> 20
        if free_mb < _SPACE_MIN_MB:
            raise RefusedError(
                f"{directory}: {free_mb} MB are free, {_SPACE_MIN_MB} MB are needed; "
                "free space and run it again; nothing was changed"
            )


def load(secrets: Path, what: str) -> Pending | None:
    """Return the rotation that was not finished, if any.

    Raises:
        RefusedError: it rotates something else.

    """
    found = unfinished(secrets)
    if found is None:
        return None
    if found != what:
        raise RefusedError(f"a rotation of {found} is not finished; run it again first")
    directory = secrets / _NAME
    return Pending(what, directory, _read(directory / "old"), _read(directory / "new"), True)


def begin(
    secrets: Path, what: str, *, old: Mapping[str, bytes], new: Mapping[str, bytes]
) -> Pending:
    """Write both sets down, whole or not at all."""
    directory, made = secrets / _NAME, secrets / f".{_NAME}.new"
    shutil.rmtree(made, ignore_errors=True)
    try:
        made.mkdir(mode=0o700)
        for name, files in (("old", old), ("new", new)):
            (made / name).mkdir(mode=0o700)
            for file, content in files.items():
                _write(made / name / file, content)
        _write(made / _WHAT, what.encode("ascii"))
        made.rename(directory)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return Pending(what, directory, dict(old), dict(new), False)


def _read(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def _write(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
