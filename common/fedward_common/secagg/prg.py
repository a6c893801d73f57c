"""Masks: AES-256-CTR keystream as uint32, added in chunks that stay in the cache (A4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, pairwise

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
_WORTH_A_THREAD = 8 * _CHUNK  # elements; below this, starting a thread costs more than it saves


@dataclass(frozen=True)
class Mask:
    """The stream of ``key`` (32 bytes, used for this one stream), added or subtracted."""

    key: SecretBytes
    negative: bool = False


def apply_masks(vector: npt.NDArray[np.uint32], masks: Iterable[Mask], threads: int = 1) -> None:
    """Add every mask to the uint32 ``vector`` in place, modulo 2^32.

    With ``threads`` > 1 a long vector is cut into as many parts, each from its own place in the
    streams: the cipher and the addition release the interpreter's lock. The result is the same.
    """
    remaining = iter(masks)
    cuts = _cuts(vector.size, threads)
    with ThreadPoolExecutor(len(cuts) - 1) as pool:
        while batch := list(islice(remaining, _AT_ONCE)):
            if len(cuts) == 2:
                _apply(vector, batch, 0)
            else:
                parts = [(vector[a:b], batch, a) for a, b in pairwise(cuts)]
                list(pool.map(_apply, *zip(*parts, strict=True)))


def _cuts(size: int, threads: int) -> list[int]:
    """Where the parts begin and end, at multiples of a chunk and so of a cipher block."""
    parts = max(1, min(threads, size // _WORTH_A_THREAD))
    return [size * part // parts // _CHUNK * _CHUNK for part in range(parts)] + [size]


def _apply(vector: npt.NDArray[np.uint32], masks: Sequence[Mask], start: int) -> None:
    """Add the masks' elements from ``start`` on to ``vector``, which is that part of the whole."""
    streams = [(_open(m.key, start), np.subtract if m.negative else np.add) for m in masks]
    # Older releases of cryptography want room for one block more than they write.
    buffer = bytearray(_CHUNK_BYTES + _BLOCK - 1)
    stream = np.frombuffer(buffer, dtype=U32, count=_CHUNK)
    for place in range(0, vector.size, _CHUNK):
        chunk = vector[place : place + _CHUNK]
        zeros = memoryview(_ZEROS)[: chunk.nbytes]
        for context, combine in streams:
            context.update_into(zeros, buffer)
            combine(chunk, stream[: chunk.size], out=chunk)


def _open(key: SecretBytes, start: int = 0) -> CipherContext:
    """Open the stream at element ``start``, the first of a block: the counter is its block."""
    counter = start * U32.itemsize // _BLOCK
    return Cipher(AES(key.reveal()), CTR(counter.to_bytes(_BLOCK, "big"))).encryptor()
