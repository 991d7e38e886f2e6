"""Put files in place as a set: all of them, or, where one cannot be written, none.

Everything is written beside its place first and renamed only when all of it is on the disk:
a full disk leaves what was there before. Secrets belong together (a certificate and its key),
so being killed between two renames is provided for as well: what is in STAGED counts, and
whoever writes next moves the rest into place.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from infra.config.render import Rendered
from infra.config.secrets import STAGED

Chown = Callable[[Path, int, int], None]
_Moves = list[tuple[Path, Path]]


def write_files(files: Iterable[Rendered], out: Path, *, chown: Chown | None = None) -> list[str]:
    """Write every file below `out` that is not there with the same bytes; return their paths."""
    with _files_beside(files, out, chown or os.chown) as moves:
        return _moved(moves, out)


def write_secrets(pending: Mapping[str, bytes], directory: Path) -> None:
    """Write new secrets, readable by their owner only; remove those that are empty."""
    with _secrets_beside(pending, directory):
        _commit_secrets(directory)


def write_all(
    pending: Mapping[str, bytes],
    directory: Path,
    files: Iterable[Rendered],
    out: Path,
    *,
    chown: Chown | None = None,
) -> list[str]:
    """Write secrets and the files that are made of them; return the paths of files written."""
    with (
        _secrets_beside(pending, directory),
        _files_beside(files, out, chown or os.chown) as moves,
    ):
        # Secrets first: a configuration that nobody remembers the secrets of is useless.
        _commit_secrets(directory)
        return _moved(moves, out)


def finish_secrets(directory: Path) -> None:
    """Move into place what a killed run has left of a set of secrets that was whole."""
    staged = directory / STAGED
    if not staged.is_dir():
        return
    for path in sorted(staged.iterdir()):
        if path.stat().st_size:
            path.replace(directory / path.name)
        else:
            (directory / path.name).unlink(missing_ok=True)
            path.unlink()
    _sync(directory)
    staged.rmdir()


@contextmanager
def _secrets_beside(pending: Mapping[str, bytes], directory: Path) -> Iterator[None]:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if pending and directory.stat().st_uid == os.geteuid():
        # A fresh volume is open to all; whoever else mounts it has no business here.
        directory.chmod(0o700)
    finish_secrets(directory)
    beside = _beside(directory)
    shutil.rmtree(beside, ignore_errors=True)
    changed = {name: new for name, new in pending.items() if new != _present(directory / name)}
    try:
        if changed:
            beside.mkdir(mode=0o700)
            for name in sorted(changed):
                _write(beside / name, changed[name], 0o400)
            _sync(beside)
        yield
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _commit_secrets(directory: Path) -> None:
    beside = _beside(directory)
    if beside.is_dir():
        # From this rename on the new secrets count, all of them.
        beside.rename(directory / STAGED)
        _sync(directory)
        finish_secrets(directory)


def _beside(directory: Path) -> Path:
    return directory / f"{STAGED}.new"


def _present(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


@contextmanager
def _files_beside(files: Iterable[Rendered], out: Path, chown: Chown) -> Iterator[_Moves]:
    moves: _Moves = []
    directories = set()
    try:
        for file in files:
            path = out / file.path
            if path.parent not in directories:
                path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                directories.add(path.parent)
                _remove_leftovers(path.parent)
            if not _is_current(path, file):
                temporary = path.with_name(f".{path.name}.new")
                _write(temporary, file.content, file.mode)
                chown(temporary, file.uid, file.gid)
                moves.append((temporary, path))
        yield moves
    finally:
        for directory in directories:
            _remove_leftovers(directory)


def _moved(moves: _Moves, out: Path) -> list[str]:
    for temporary, path in moves:
        temporary.replace(path)
    for directory in {path.parent for _, path in moves}:
        _sync(directory)
    return [str(path.relative_to(out)) for _, path in moves]


def _remove_leftovers(directory: Path) -> None:
    for path in directory.glob(".*.new"):
        path.unlink()


def _is_current(path: Path, file: Rendered) -> bool:
    """Return True if the file is there with these bytes, owner and mode.

    Without the capability to read a file that belongs to its tier it returns False, and the file
    is replaced by the same bytes.
    """
    try:
        status = path.stat()
        owner = (status.st_uid, status.st_gid, status.st_mode & 0o7777)
        same = owner == (file.uid, file.gid, file.mode)
        return same and path.read_bytes() == file.content
    except OSError:
        return False


def _write(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        # Mode before owner: afterwards the file is no longer ours to change.
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
