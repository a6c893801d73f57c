"""Who takes part in a step, and which of their images (B1).

All draws come from a cryptographic stream keyed for the call, independent of the data.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fedward_common.errors import MisuseError
from fedward_common.privacy.keystream import Keystream
from fedward_common.randomness import RandomBytes


def poisson_sample(count: int, rate: float, random: RandomBytes) -> npt.NDArray[np.int64]:
    """Include each of ``count`` patients independently with probability ``rate`` (B1).

    The probability is ``rate`` rounded down to a multiple of 2^-64: never above what is claimed.

    Args:
        count: number of patients, >= 0.
        rate: sampling rate q in (0, 1].
        random: where the key of this draw comes from.

    Returns:
        The chosen indices in increasing order, int64 of shape (chosen,); possibly empty.

    Raises:
        MisuseError: an argument is out of range.
    """
    if count < 0 or not 0.0 < rate <= 1.0:
        raise MisuseError(f"cannot sample {count} patients at rate {rate}")
    if rate == 1.0:
        return np.arange(count, dtype=np.int64)
    threshold = np.uint64(math.floor(math.ldexp(rate, 64)))
    return np.flatnonzero(Keystream(random).words(count) < threshold).astype(np.int64)


def choose(random: RandomBytes, n: int, k: int) -> npt.NDArray[np.int64]:
    """Choose ``k`` of ``n`` images, every subset with the same probability.

    The order of 64-bit keys decides; ties bias the choice by at most n^2 / 2^65.

    Returns:
        The chosen indices in increasing order, int64 of shape (min(k, n),).

    Raises:
        MisuseError: ``n`` or ``k`` is negative.
    """
    if n < 0 or k < 0:
        raise MisuseError(f"cannot choose {k} of {n}")
    if k >= n:
        return np.arange(n, dtype=np.int64)
    keys = Keystream(random).words(n)
    return np.sort(np.argsort(keys, kind="stable")[:k]).astype(np.int64)
