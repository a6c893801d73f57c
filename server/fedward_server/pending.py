"""An attempt at its step 4, and what its runner needs from the study's folder (A2.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from fedward_common.secagg.server import CollectingReveals


@dataclass(frozen=True)
class Pending:
    """An attempt at step 4: what is asked, to the byte, until t sites have answered.

    ``following`` is the e whose step 1 rides along, 0 if none does.
    """

    reveals: CollectingReveals
    following: int


class Store(Protocol):
    """What a runner needs from the study's folder."""

    def sums(self, start: int, stop: int) -> tuple[bytes, ...]:
        """Published sums from ``start`` up to ``stop``."""
        ...

    def save_pending(self, pending: Pending) -> None:
        """Put the attempt on the disk before any site may release a share."""
        ...

    def left_out(self) -> Mapping[str, str]:
        """Sites that dealt wrong shares, with the reason."""
        ...

    def leave_out(self, name: str, reason: str) -> None:
        """Take a site into no more rounds."""
        ...
