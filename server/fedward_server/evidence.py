"""What proves the last sum: the masked addends of U2 on disk, and their way to who asks (A3.5).

The server holds no more than one addend in memory. It serves those of the last finished attempt
only, which are the ones that its transcript's t signatures name; they go with the next checkpoint.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedward_common.errors import StorageError
from fedward_common.messages import MAX_CHUNK_BYTES, EvidenceOrder, EvidenceReply
from fedward_common.secagg.transcript import Transcript
from fedward_server.sites import Sites

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Spool:
    """Masked addends below ``folder``, by attempt and roster index.

    They are not synced: after a power failure an audit may find them gone, and nothing else.
    """

    folder: Path

    def put(self, e: int, index: int, y: bytes) -> None:
        """Keep the accepted addend of site ``index``.

        Raises:
            StorageError: the disk is full or the folder not writable.
        """
        path = self._path(e, index)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(y)
        except OSError as error:
            raise StorageError(
                f"{path}: cannot be written ({error.strerror}); free disk space or mend the rights"
            ) from error

    def pieces(self, e: int, index: int) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, bytes) of the addend of site ``index``; nothing if it is not there."""
        try:
            with self._path(e, index).open("rb") as stream:
                while data := stream.read(MAX_CHUNK_BYTES):
                    yield stream.tell() - len(data), data
        except OSError:
            log.warning("attempt %d: the addend of site %d is not kept any more", e, index)

    def drop(self, e: int) -> None:
        """Remove the addends of attempt ``e``, which came to nothing."""
        shutil.rmtree(self.folder / str(e), ignore_errors=True)

    def keep_only(self, e: int) -> None:
        """Remove the addends of every attempt but ``e``."""
        for path in self.folder.glob("*"):
            if path != self.folder / str(e):
                shutil.rmtree(path, ignore_errors=True)

    def _path(self, e: int, index: int) -> Path:
        return self.folder / str(e) / f"{index}.u32"


@dataclass(frozen=True)
class Evidence:
    """What proves sum ``number`` of ``study``, counted from 1: its transcript and its addends."""

    study: bytes
    number: int
    transcript: bytes
    spool: Spool

    def serve(self, sites: Sites, names: Collection[str], deadline_seconds: float) -> None:
        """Send it, piece by piece, to the sites that wish for it; who refuses gets no more."""
        transcript, taking = Transcript.decode(self.transcript), set(names)
        first = self.transcript
        for index in transcript.survivors:
            for offset, data in self.spool.pieces(transcript.context.e, index):
                order = EvidenceOrder(self.study, self.number, first, index, offset, data)
                replies = sites.exchange(dict.fromkeys(taking, order), deadline_seconds)
                taking = {name for name, reply in replies if isinstance(reply, EvidenceReply)}
                first = b""
                if not taking:
                    return
        log.info("sum %d: evidence served to %s", self.number, ", ".join(sorted(taking)))
