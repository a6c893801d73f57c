"""One process serves a site's folder at a time; commands that read it or add to it may come too."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import TextIO

from fedward_common.errors import OperatorError, StorageError

LOCK = "serving.lock"
TRIES, TRY_SECONDS = 10, 0.1
"""Whoever looks at the lock holds it for a moment."""


def claim(site: Path) -> TextIO:
    """Lock the folder for serving, for as long as the returned file is open.

    Raises:
        OperatorError: another process serves it.
        StorageError: the lock cannot be opened.
    """
    try:
        lock = (site / LOCK).open("a", encoding="ascii")
    except OSError as error:
        raise StorageError(f"{site}: cannot lock the site; check rights and space") from error
    for _ in range(TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(TRY_SECONDS)
        else:
            return lock
    lock.close()
    raise OperatorError(f"{site}: another process serves this site; stop it first")


def lock_id(site: Path) -> str:
    """Which file the folder's lock is, as no copy of the folder has it; empty without one."""
    try:
        found = (site / LOCK).stat()
    except OSError:
        return ""
    return f"{found.st_dev}:{found.st_ino}"


def is_served(site: Path) -> bool:
    """Whether a process serves this folder now."""
    try:
        with (site / LOCK).open(encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
