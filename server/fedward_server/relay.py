"""Passes the lines that a study's process logs on to this process's standard error."""

from __future__ import annotations

import sys
from pathlib import Path

from fedward_common.text import printable

PIECE_BYTES = 1 << 16


class Relay:
    """Follows one file at a time; a file that was begun anew is read from its start."""

    def __init__(self) -> None:
        self._file = (0, 0)
        self._read = 0
        self._rest = b""

    def tick(self, path: Path | None) -> None:
        """Pass on the whole lines that are new."""
        if path is None or not path.exists():
            return
        with path.open("rb") as stream:
            state = path.stat()
            if (state.st_dev, state.st_ino) != self._file or state.st_size < self._read:
                self._file, self._read, self._rest = (state.st_dev, state.st_ino), 0, b""
            stream.seek(self._read)
            piece = stream.read(PIECE_BYTES)
        self._read += len(piece)
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            sys.stderr.write(printable(line.decode("utf-8", "replace")) + "\n")
