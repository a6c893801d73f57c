"""Finding masked addends in what passes a wire: the independent recorder of PROTOCOL B6.

A masked addend is the canonical tuple ``("addend", e, index, y, ...)`` (A3.2). Its beginning is
searched for in the plain bytes of a connection, whatever they are wrapped in, so that the recorder
shares no state with the site, its ledger or its log.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MARK = re.compile(rb"s\x00\x00\x00\x06addendi\x00\x00\x00(?P<width>[\x01-\x08])")
LONGEST = 64
"""Bytes that a mark and the number after it take at most: kept when a chunk ends."""


class AddendFinder:
    """Feed it one direction of one connection; it yields the attempt of every addend in it."""

    def __init__(self) -> None:
        self._kept = b""

    def feed(self, chunk: bytes) -> Iterator[int]:
        """The attempts e of the addends whose number has arrived with ``chunk``."""
        data = self._kept + chunk
        done = 0
        for found in MARK.finditer(data):
            end = found.end() + found["width"][0]
            if end > len(data):
                break
            yield int.from_bytes(data[found.end() : end], "big", signed=True)
            done = end
        self._kept = data[max(done, len(data) - LONGEST) :]
