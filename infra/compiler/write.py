"""Put files in place whole: complete, with owner and mode, or not at all."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from infra.compiler.render import Rendered

Chown = Callable[[Path, int, int], None]


def write_files(files: Iterable[Rendered], out: Path, *, chown: Chown | None = None) -> list[str]:
    """Write every file below `out` that is not there with the same bytes; return their paths."""
    give = chown or os.chown
    return [file.path for file in files if _write_if_changed(file, out, give)]


def write_secrets(pending: dict[str, bytes], directory: Path) -> None:
    """Write new secrets, readable by their owner only."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if pending and directory.stat().st_uid == os.geteuid():
        # A fresh volume is open to all; whoever else mounts it has no business here.
        directory.chmod(0o700)
    made = [_written(directory / name, pending[name], 0o400) for name in sorted(pending)]
    # All together at the end: a certificate and its key change within the same instant.
    for path, temporary in made:
        temporary.replace(path)


def _write_if_changed(file: Rendered, out: Path, chown: Chown) -> bool:
    path = out / file.path
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if _is_current(path, file):
        return False
    _replace(path, file.content, file.mode, owner=(file.uid, chown))
    return True


def _is_current(path: Path, file: Rendered) -> bool:
    """Tell whether nothing has to be done.

    Without the capability to read a file that belongs to its tier, the answer is no, and
    it is replaced by the same bytes.
    """
    try:
        status = path.stat()
        same = (status.st_uid, status.st_mode & 0o7777) == (file.uid, file.mode)
        return same and path.read_bytes() == file.content
    except OSError:
        return False


def _replace(path: Path, content: bytes, mode: int, owner: tuple[int, Chown]) -> None:
    """Write beside the path and rename: a reader sees the old file or the new one."""
    _, temporary = _written(path, content, mode)
    uid, chown = owner
    chown(temporary, uid, uid)
    temporary.replace(path)


def _written(path: Path, content: bytes, mode: int) -> tuple[Path, Path]:
    """Return the path and, written whole beside it, the file that is to take its place."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        # Mode before owner: afterwards the file is no longer ours to change.
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    return path, temporary
