"""What the coordinator must not lose: the counter e, the published sums, the folded state.

Everything is written atomically and fsynced before it is acted on, so that `run` after a crash
continues at the next round and no e is ever used twice (A2, G6).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedward_common.errors import IntegrityError, OperatorError, PeerError
from fedward_common.files import write_atomic
from fedward_common.progress import Progress, decode_progress
from fedward_common.secagg.parameters import Group
from fedward_common.secagg.server_store import decode_reveals, encode_reveals
from fedward_server.pending import Pending
from fedward_server.study_files import ATTEMPTS, LEFT_OUT

PENDING = "pending.bin"


@dataclass(frozen=True)
class Checkpoint:
    """A restart point: the state after ``len(history)`` published sums."""

    progress: Progress
    history: tuple[Mapping[str, Any], ...]


class Checkpoints:
    """One study's folder at the server."""

    def __init__(self, folder: Path, study_digest: bytes) -> None:
        self._folder = folder
        self._study = study_digest
        self._claim()

    def attempts(self, checkpoint: Checkpoint) -> Iterator[int]:
        """The e to try for the sum after ``checkpoint``: one that a crash cut short, then new ones.

        Sites answer an identical request with their stored bytes and refuse any other (A3), so
        an interrupted attempt is driven again at no further cost.
        """
        done = _last_done(checkpoint)
        last = self._last_e()
        if last > done:
            yield last
        while True:
            yield self.next_e()

    def next_e(self) -> int:
        """Raise the persisted counter and return it; it never falls, whatever crashes."""
        e = self._last_e() + 1
        write_atomic(self._folder / ATTEMPTS, json.dumps({"e": e}).encode())
        return e

    def _last_e(self) -> int:
        path = self._folder / ATTEMPTS
        return int(json.loads(path.read_text())["e"]) if path.exists() else 0

    def save_pending(self, pending: Pending) -> None:
        """Keep what step 4 needs: it is asked for until the sum opens, after a crash too (A2)."""
        following = pending.following.to_bytes(8, "big")
        write_atomic(self._folder / PENDING, following + encode_reveals(pending.reveals))

    def pending(self, group: Group, checkpoint: Checkpoint) -> Pending | None:
        """The attempt after ``checkpoint`` whose step 4 may have been asked for, if there is one.

        Raises:
            IntegrityError: it is damaged.
        """
        path = self._folder / PENDING
        if not path.exists():
            return None
        data = path.read_bytes()
        reveals = decode_reveals(data[8:], group)
        if reveals.attempt.context.e <= _last_done(checkpoint):
            return None  # its sum is published
        return Pending(reveals, int.from_bytes(data[:8], "big"))

    def left_out(self) -> dict[str, str]:
        """Sites whose shares were wrong, with the reason: they take part in no more rounds."""
        path = self._folder / LEFT_OUT
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def leave_out(self, name: str, reason: str) -> None:
        """Take a site into no more rounds of this study."""
        record = self.left_out() | {name: reason}
        write_atomic(self._folder / LEFT_OUT, json.dumps(record).encode())

    def save_sum(self, position: int, total: NDArray[np.uint32], transcript: bytes) -> None:
        """Keep a published sum for sites that were away, and what proves it (A3.5)."""
        write_atomic(self._sum_path(position).with_suffix(".transcript"), transcript)
        write_atomic(self._sum_path(position), total.astype("<u4").tobytes())

    def transcript(self, position: int) -> bytes:
        """What proves the sum at ``position``."""
        return self._sum_path(position).with_suffix(".transcript").read_bytes()

    def sums(self, start: int, stop: int) -> tuple[bytes, ...]:
        """Published sums from position ``start`` up to ``stop``, raw little-endian uint32."""
        return tuple(self._sum_path(position).read_bytes() for position in range(start, stop))

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the restart point. The state goes last: it is what makes a round count."""
        position = checkpoint.progress.position
        write_atomic(
            self._folder / "history.json",
            json.dumps({"position": position, "rounds": list(checkpoint.history)}).encode(),
        )
        write_atomic(self._folder / "state.bin", checkpoint.progress.encode())

    def load(self) -> Checkpoint | None:
        """The restart point, or None before the first round ended."""
        return load_checkpoint(self._folder)

    def _sum_path(self, position: int) -> Path:
        return self._folder / "sums" / f"{position:06d}.u32"

    def _claim(self) -> None:
        marker = self._folder / "study"
        name = self._study.hex()
        if not marker.exists():
            write_atomic(marker, name.encode())
        elif marker.read_text() != name:
            raise OperatorError(
                f"{self._folder}: holds another study; choose an empty folder or remove this one"
            )


def _last_done(checkpoint: Checkpoint) -> int:
    """The e of the last published sum."""
    return int(checkpoint.history[-1]["e"]) if checkpoint.history else 0


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The restart point in a study's folder, or None before the first round ended.

    Raises:
        IntegrityError: it is damaged.
    """
    state = folder / "state.bin"
    if not state.exists():
        return None
    try:
        progress = decode_progress(state.read_bytes())
        rounds = json.loads((folder / "history.json").read_text())["rounds"]
    except (PeerError, OSError, ValueError, KeyError) as error:
        raise IntegrityError(
            f"{folder}: the checkpoint is damaged; restore it from a backup"
        ) from error
    # A crash between the two writes leaves a history one round ahead: that round is repeated.
    return Checkpoint(progress, tuple(rounds[: progress.position]))
