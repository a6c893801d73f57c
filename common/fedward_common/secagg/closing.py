"""What the server's machine checks of every message, and whenever a step is closed (A3)."""

from __future__ import annotations

from collections.abc import Collection

from fedward_common.errors import PeerError


class RoundAbortedError(PeerError):
    """Too few sites answered, or their shares do not open the sum.

    Before A3.4 the next e is tried. ``dealers`` are those to blame for it, beyond doubt.
    """

    def __init__(self, message: str, dealers: Collection[int] = ()) -> None:
        super().__init__(message)
        self.dealers = tuple(dealers)


def check_sender(index: int, claimed: int, own: int, e: int) -> None:
    """Refuse a message of site ``index`` that names another site, or an attempt but ``own``."""
    if claimed != index:
        raise PeerError(f"site {index} sent a message in the name of site {claimed}")
    if e != own:
        raise PeerError(f"site {index} sent a message of attempt {e} during attempt {own}")


def check_same(stored: object, repeated: object) -> None:
    """Refuse a second message that is not the first one again."""
    if stored != repeated:
        raise PeerError("a site sent a second message that differs from its first")


def check_enough(count: int, needed: int, what: str, dealers: Collection[int] = ()) -> None:
    """Abort the attempt where fewer than ``needed`` of ``what`` have come."""
    if count < needed:
        raise RoundAbortedError(f"{count} {what}, and {needed} are needed", dealers)
