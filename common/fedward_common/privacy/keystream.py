"""A fast stream of uniformly random words from one fresh key.

AES-256 in counter mode (NIST SP 800-38A, 6.5) under a key drawn once from a
:class:`~fedward_common.randomness.RandomBytes`; a key serves one stream, counter from zero (A4).
A stream lives for one call in the process that made it and is never carried over a fork (B3).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedward_common.randomness import RandomBytes

_KEY_BYTES = 32
_COUNTER_FROM_ZERO = bytes(16)


class Keystream:
    """Uniform 64-bit words, as many as are asked for, from one key of ``random``."""

    def __init__(self, random: RandomBytes) -> None:
        key = random(_KEY_BYTES)
        self._encryptor = Cipher(algorithms.AES256(key), modes.CTR(_COUNTER_FROM_ZERO)).encryptor()

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Return the next ``count`` words, uint64 of shape (count,)."""
        return np.frombuffer(self._encryptor.update(bytes(8 * count)), dtype="<u8")

    def unit_floats(self, count: int) -> npt.NDArray[np.float64]:
        """Return ``count`` multiples of 2^-53, uniform in [0, 1), float64 of shape (count,)."""
        return (self.words(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53
