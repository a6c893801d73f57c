"""The site's one SQLite database: how it is opened and how a transaction is made.

WAL with ``synchronous=FULL``: a transaction that returned is on the disk (G6). Modules own their
tables and create them with ``CREATE TABLE IF NOT EXISTS``; nothing here knows what they hold.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedward_common.errors import StorageError

BUSY_TIMEOUT_SECONDS = 30.0


def open_database(path: Path) -> sqlite3.Connection:
    """Open (or create, mode 0600) the database at ``path``.

    Raises:
        StorageError: the file cannot be opened, or is not a database.
    """
    try:
        path.touch(mode=0o600, exist_ok=True)
        connection = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
    except (OSError, sqlite3.Error) as error:
        raise StorageError(
            f"{path}: cannot open the site database; check disk space and rights"
        ) from error
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Run one exclusive transaction: all of it is on the disk afterwards, or none.

    Raises:
        StorageError: SQLite could not write (disk full, locked, corrupt).
    """
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        raise _storage_error(connection, error) from error
    try:
        yield connection
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        _rollback(connection)
        raise _storage_error(connection, error) from error
    except BaseException:
        _rollback(connection)
        raise


def _rollback(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _storage_error(connection: sqlite3.Connection, error: sqlite3.Error) -> StorageError:
    place = "site database"
    with suppress(sqlite3.Error):  # the error is told even if the database cannot say its name
        place = str(connection.execute("PRAGMA database_list").fetchone()[2])
    reason = getattr(error, "sqlite_errorname", None) or type(error).__name__
    return StorageError(
        f"{place}: {reason}; nothing was written: free disk space, then run it again"
    )
