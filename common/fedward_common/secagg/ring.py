"""The ring Z_2^32: one uint32 per coordinate, and how real vectors enter and leave it (A5).

A site's path is ``encode`` (scale, round, clamp), the addition of integer noise by the caller,
``wrap``; the receiver's is ``unwrap`` of the sum, ``decode``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedward_common.errors import MisuseError, PlanError
from fedward_common.privacy.keystream import Keystream
from fedward_common.privacy.parameters import MODULUS
from fedward_common.randomness import RandomBytes
from fedward_common.secagg.prg import U32

MAX_DIMENSION = 2**26
"""Coordinates of one addend: 256 MiB on the wire."""

_HALF = MODULUS // 2
_CHUNK = 1 << 14  # coordinates encoded at once: their floats stay in the cache


@dataclass(frozen=True)
class RingParameters:
    """The encoding of one query's vectors, fixed in the plan.

    ``scale`` s is in grid units per unit of the vector, ``ring_bound`` R clamps every rounded
    coordinate to [-R, R], ``dimension`` is the number of coordinates.

    Raises:
        PlanError: a value is out of range; every problem is named.
    """

    scale: float
    ring_bound: int
    dimension: int

    def __post_init__(self) -> None:
        problems: list[str] = []
        if not (math.isfinite(self.scale) and self.scale > 0):
            problems.append(f"scale: is {self.scale}; use a finite number above 0")
        if not 0 < self.ring_bound < _HALF:
            problems.append(f"ring_bound: is {self.ring_bound}; use 1 to {_HALF - 1}")
        if not 0 < self.dimension <= MAX_DIMENSION:
            problems.append(f"dimension: is {self.dimension}; use 1 to {MAX_DIMENSION}")
        if problems:
            raise PlanError("ring", problems)

    def encode(self, vector: npt.NDArray[np.float64], random: RandomBytes) -> npt.NDArray[np.int64]:
        """Return clamp(floor(s*x + u)) with u uniform in [0, 1), as int64 (d,).

        u does not depend on the data. A non-finite coordinate counts as zero: nothing that
        depends on data may raise here (B2).

        Raises:
            MisuseError: ``vector`` is not float64 of shape (d,).
        """
        if vector.shape != (self.dimension,) or vector.dtype != np.float64:
            raise MisuseError(f"a vector to encode must be float64 of shape ({self.dimension},)")
        stream = Keystream(random)
        encoded = np.empty(self.dimension, dtype=np.int64)
        for start in range(0, self.dimension, _CHUNK):
            part = vector[start : start + _CHUNK]
            scaled = np.where(np.isfinite(part), part, 0.0)
            with np.errstate(over="ignore"):  # an overflow is clamped below
                scaled *= self.scale
            scaled += stream.unit_floats(part.size)
            np.floor(scaled, out=scaled)
            np.clip(scaled, -self.ring_bound, self.ring_bound, out=scaled)
            encoded[start : start + _CHUNK] = scaled
        return encoded

    def decode(self, total: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
        """Return the real vector (d,) that a sum of encoded addends stands for.

        Raises:
            MisuseError: ``total`` is not uint32 of shape (d,).
        """
        if total.shape != (self.dimension,):
            raise MisuseError(f"a sum to decode must have shape ({self.dimension},)")
        return unwrap(total).astype(np.float64) / self.scale


def wrap(values: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """Return int64 ``values`` modulo 2^32 as uint32."""
    if values.dtype != np.int64:
        raise MisuseError("only int64 values enter the ring")
    return values.astype(U32)  # C's conversion to an unsigned type is the modulus


def unwrap(total: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """Return uint32 ``total`` as the int64 representatives in [-2^31, 2^31)."""
    if total.dtype != U32:
        raise MisuseError("only uint32 values leave the ring")
    return total.view("<i4").astype(np.int64)
