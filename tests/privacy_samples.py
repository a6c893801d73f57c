"""Shared by the privacy tests: a typical gradient query, and reproducible randomness.

Statistical tests draw from ``seeded`` so that they cannot fail by chance.
"""

from __future__ import annotations

import hashlib

from fedward_common.privacy.parameters import MechanismParameters
from fedward_common.randomness import RandomBytes

GRADIENT = MechanismParameters(
    query="gradient",
    dimension=5700,
    clip=0.1,
    noise_multiplier=5.8,
    sampling_rate=0.2,
    rounds=200,
    scale=2.0**23,
    ring_bound=260_000_000,
    slack=0.001,
    sites=8,
    t_min=6,
    colluding=1,
)


def seeded(seed: int) -> RandomBytes:
    """A stream of bytes that depends on ``seed`` alone; every call continues it."""
    calls = iter(range(2**62))

    def draw(count: int, /) -> bytes:
        return hashlib.shake_256(f"{seed}/{next(calls)}".encode()).digest(count)

    return draw
