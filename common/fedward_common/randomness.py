"""Where random bytes come from: an argument of the core, filled at the outermost function.

Keys, seeds, shares, masks, noise, sampling and rounding draw from a :class:`RandomBytes`. A
deployment passes :func:`os_random`, the operating system's generator, and has no option for any
other. Only simulations and tests pass a seeded stream; both live outside this package.
"""

from __future__ import annotations

import secrets
from typing import Protocol


class RandomBytes(Protocol):
    """A source of uniformly random bytes."""

    def __call__(self, count: int, /) -> bytes:
        """Return exactly ``count`` fresh bytes."""
        ...


def os_random(count: int, /) -> bytes:
    """Return ``count`` bytes from the operating system's CSPRNG."""
    return secrets.token_bytes(count)
