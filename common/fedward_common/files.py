"""Writing a file so that it is there completely, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from fedward_common.errors import StorageError


def write_atomic(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write ``content`` to ``path``: beside it first, then renamed over it, both fsynced.

    One process writes a path at a time; what a killed one left beside it is overwritten.

    Raises:
        StorageError: the disk is full or the folder not writable; ``path`` is as before.
    """
    beside = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        _discard(beside)
        raise StorageError(
            f"{path}: cannot be written ({error.strerror}); free disk space or mend the rights"
        ) from error


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on the disk.

    Raises:
        OSError: the folder cannot be opened or synced.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Put a file's content on the disk; one that was removed since need not last.

    Raises:
        OSError: the file cannot be opened or synced.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the folder itself is in the way: nothing was written
