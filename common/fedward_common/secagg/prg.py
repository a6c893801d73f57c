"""Masks: AES-256-CTR keystream as uint32, added in chunks that stay in the cache (A4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from fedward_common.secret import SecretBytes

U32 = np.dtype("<u4")
"""A ring element on the wire and in memory: little-endian uint32."""

_BLOCK = 16
_CHUNK_BYTES = 1 << 17
_CHUNK = _CHUNK_BYTES // U32.itemsize
_ZEROS = bytes(_CHUNK_BYTES)
_AT_ONCE = 64  # open streams: bounds the memory when many pairs are removed


@dataclass(frozen=True)
class Mask:
    """The stream of ``key`` (32 bytes, used for this one stream), added or subtracted."""

    key: SecretBytes
    negative: bool = False


def apply_masks(vector: npt.NDArray[np.uint32], masks: Iterable[Mask]) -> None:
    """Add every mask to the uint32 ``vector`` in place, modulo 2^32."""
    remaining = iter(masks)
    while batch := list(islice(remaining, _AT_ONCE)):
        _apply(vector, batch)


def keystream(key: SecretBytes, count: int) -> bytes:
    """Return the first ``count`` bytes of the stream of ``key`` (32 bytes)."""
    return _open(key).update(bytes(count))


def _apply(vector: npt.NDArray[np.uint32], masks: Sequence[Mask]) -> None:
    streams = [(_open(mask.key), np.subtract if mask.negative else np.add) for mask in masks]
    # Older releases of cryptography want room for one block more than they write.
    buffer = bytearray(_CHUNK_BYTES + _BLOCK - 1)
    stream = np.frombuffer(buffer, dtype=U32, count=_CHUNK)
    for start in range(0, vector.size, _CHUNK):
        chunk = vector[start : start + _CHUNK]
        zeros = memoryview(_ZEROS)[: chunk.nbytes]
        for context, combine in streams:
            context.update_into(zeros, buffer)
            combine(chunk, stream[: chunk.size], out=chunk)


def _open(key: SecretBytes) -> CipherContext:
    return Cipher(AES(key.reveal()), CTR(bytes(_BLOCK))).encryptor()
