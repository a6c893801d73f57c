"""Small files of a study's folder that others than its coordinator read: how it stands and ended.

Who works on a folder holds its lock. This module knows neither models nor Flower, so that the
gateway may use it.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedward_common.errors import MisuseError, StorageError
from fedward_common.files import write_atomic

ATTEMPTS, LEFT_OUT = "attempts.json", "left-out.json"
RECEIPTS, NOW = "receipts.jsonl", "now.json"
FINISHED, FAILED, LOG = "finished.json", "failed.json", "server.log"
LOCK, STOPPING, PROCESSES, NODES = "running.lock", "stopping", "processes.json", "nodes.json"
TAKEOVER_SECONDS = 30.0
"""How long a new run waits for the process of the one before to be gone."""


def note_finished(study: Path) -> None:
    """The plan is carried out and its results are written."""
    _note(study / FINISHED, "")


def note_failed(study: Path, reason: str) -> None:
    """It cannot, or is not to, go on until a person says so."""
    _note(study / FAILED, reason)


def is_finished(study: Path) -> bool:
    """Whether the plan is carried out."""
    return (study / FINISHED).exists()


def failure(study: Path) -> str | None:
    """Why the study cannot go on, or None."""
    path = study / FAILED
    return str(read_json(path).get("reason", f"{path} is damaged")) if path.exists() else None


def forget_failure(study: Path) -> None:
    """A person asks for another try."""
    (study / FAILED).unlink(missing_ok=True)


def ask_to_stop(server: Path) -> None:
    """Runs end after the round in hand."""
    write_atomic(server / STOPPING, b"")


def forget_stop(server: Path) -> None:
    """A new server begins."""
    (server / STOPPING).unlink(missing_ok=True)


def is_stopping(server: Path) -> bool:
    """Whether runs are to end after the round in hand."""
    return (server / STOPPING).exists()


def write_nodes(server: Path, names: Mapping[int, str]) -> None:
    """Note Flower's numbers of the enrolled sites, for the studies' processes."""
    record = {str(node): name for node, name in sorted(names.items())}
    if record != read_json(server / NODES):
        write_atomic(server / NODES, json.dumps(record).encode("ascii"))


def read_nodes(server: Path) -> dict[int, str] | None:
    """Flower's numbers of the enrolled sites; None if nobody has noted them here."""
    path = server / NODES
    return {int(k): str(v) for k, v in read_json(path).items()} if path.exists() else None


def read_receipts(study: Path) -> list[dict[str, Any]]:
    """Every receipt of a study, oldest first. A line that a crash cut short is no receipt."""
    path = study / RECEIPTS
    if not path.exists():
        return []
    found = []
    for line in path.read_text("utf-8").split("\n"):
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def append_receipt(study: Path, record: Mapping[str, Any]) -> None:
    """Add one line, on the disk. It begins with a line feed: one cut short does not spoil it.

    Raises:
        StorageError: it cannot be written.
    """
    path = study / RECEIPTS
    try:
        with path.open("a", encoding="ascii") as stream:
            stream.write("\n" + json.dumps({"when": timestamp(), **record}))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise StorageError(f"{path}: cannot be written; free disk space") from error


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON object; empty if the file is not there or not whole."""
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def timestamp() -> str:
    """Now, in UTC, to the second (ISO 8601)."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def exclusive(folder: Path, seconds: float = TAKEOVER_SECONDS) -> Iterator[None]:
    """Hold the lock of a study's or a server's folder; two counters of attempts would collide.

    Raises:
        MisuseError: another process still holds it after ``seconds``.
        StorageError: the lock's file cannot be made.
    """
    try:
        lock = (folder / LOCK).open("a", encoding="ascii")
    except OSError as error:
        raise StorageError(f"{folder}: cannot be locked; check rights and space") from error
    with lock:
        end = time.monotonic() + seconds
        while not _try(lock.fileno()):
            if time.monotonic() > end:
                raise MisuseError(f"{folder}: another process works on it; stop it first")
            time.sleep(0.1)
        yield


def is_held(folder: Path) -> bool:
    """Whether a process holds the folder's lock now."""
    path = folder / LOCK
    if not path.exists():
        return False
    with path.open(encoding="ascii") as lock:
        return not _try(lock.fileno(), fcntl.LOCK_SH)  # two who look are not in each other's way


def _try(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _note(path: Path, reason: str) -> None:
    record = {"when": timestamp(), "reason": reason}
    write_atomic(path, json.dumps(record).encode("ascii") + b"\n")
