"""Reproducible randomness, for simulations only: one ChaCha20 stream for each label.

A deployment has no such thing: it draws from the operating system. Here every stream is keyed by
HKDF(seed, label), so that a run can be repeated, and a resumed run draws what it would have drawn.
"""

from __future__ import annotations

import threading

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedward_common.codec import encode
from fedward_common.randomness import RandomBytes, os_random

KEY_BYTES = 32


class SeededStream:
    """A :class:`RandomBytes` that repeats itself for the same seed and label."""

    def __init__(self, seed: int, *label: str | int | bytes) -> None:
        info = encode(("simulation", *label))
        key = HKDF(SHA256(), KEY_BYTES, None, info).derive(seed.to_bytes(8, "big"))
        self._stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
        self._lock = threading.Lock()

    def __call__(self, count: int, /) -> bytes:
        """Return the next ``count`` bytes of the stream."""
        with self._lock:
            return self._stream.update(bytes(count))


class Randomness:
    """Hands out the source for each purpose: seeded, or the operating system's."""

    def __init__(self, seed: int | None) -> None:
        self._seed = seed

    def __call__(self, *label: str | int | bytes) -> RandomBytes:
        """The source for ``label``; the same label of the same seed gives the same bytes."""
        return os_random if self._seed is None else SeededStream(self._seed, *label)
