"""The CA's records in ``authority/``: lines that are added to, by commands and by the server."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedward_common.errors import IntegrityError, StorageError
from fedward_common.files import write_atomic

AUTHORITY, LOCK = "authority", "lock"


def read_lines(server: Path, name: str) -> list[dict[str, str]]:
    """Every record of a file, oldest first; none if it is not there.

    Raises:
        IntegrityError: it is damaged.
    """
    path = server / AUTHORITY / name
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except ValueError as error:
        raise IntegrityError(f"{path}: damaged; restore it from a backup") from error


def append_line(server: Path, name: str, record: dict[str, str]) -> None:
    """Add a record; two processes at once do not lose each other's.

    Raises:
        StorageError: it cannot be written; the file is as before.
    """
    with alone(server):
        path = server / AUTHORITY / name
        before = path.read_bytes() if path.exists() else b""
        write_atomic(path, before + json.dumps(record).encode("ascii") + b"\n")


@contextmanager
def alone(server: Path) -> Iterator[None]:
    """Nobody else writes in ``authority/`` meanwhile.

    Raises:
        StorageError: the lock cannot be opened.
    """
    place = server / AUTHORITY
    try:
        place.mkdir(exist_ok=True)
        lock = (place / LOCK).open("a", encoding="ascii")
    except OSError as error:
        raise StorageError(f"{place}: cannot be locked; check rights and space") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
