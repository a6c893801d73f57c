"""What others spend on the same sum in the same process, and the bare additions."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

from fedward_common.privacy.noise import discrete_gaussian
from fedward_common.randomness import os_random
from fedward_common.secagg.ring import RingParameters
from fedward_simulations.bench.homomorphic import measure_ckks

BARE_REPEATS = 15
BARE_COORDINATES = 1 << 25
"""Coordinates of the vectors that are added: larger than any cache, 128 MiB at most."""

SITE_SIGMA = 1e5
"""Noise in grid units, as a plan for 8 sites and epsilon 2 has it; it hardly changes the time."""

LARGEST_CKKS = 10**6
"""Above this, a client's ciphertexts take gigabytes; the cost grows with the parameters."""


@dataclass(frozen=True)
class Peer:
    """One client's CPU seconds and upload. ``encoding_seconds``: turning numbers into integers.

    ``client_seconds`` does not hold it where it can be told apart.
    """

    name: str
    client_seconds: float
    upload_bytes: int
    encoding_seconds: float | None = None


@dataclass(frozen=True)
class Bare:
    """CPU seconds to add one vector to another in memory, nothing else."""

    float32_seconds: float
    uint32_seconds: float


def bare_additions(parameters: int) -> Bare:
    """Measure an addition to a running sum; every vector is read from memory."""
    return Bare(
        _addition(np.zeros(parameters, np.float32), parameters),
        _addition(np.zeros(parameters, np.uint32), parameters),
    )


def encoding_and_noise(parameters: int) -> tuple[float, float]:
    """CPU seconds in which our site encodes a vector (A5), and in which it draws its noise (B3)."""
    ring = RingParameters(scale=1e6, ring_bound=1 << 24, dimension=parameters)
    vector = np.random.default_rng(0).normal(0.0, 0.01, parameters)
    started = time.process_time()
    ring.encode(vector, os_random)
    encoded = time.process_time()
    discrete_gaussian(SITE_SIGMA, parameters, os_random)
    return encoded - started, time.process_time() - encoded


def flower(sites: int, parameters: int, repeats: int) -> Peer:
    """Flower's SecAgg+, by the mod's own functions."""
    from fedward_simulations.bench.flower import measure_flower  # noqa: PLC0415  (slow to import)

    costs = [measure_flower(sites, parameters) for _ in range(repeats)]
    return Peer(
        "flower-secagg+",
        statistics.median(cost.client_seconds for cost in costs),
        costs[0].upload_bytes,
        statistics.median(cost.encoding_seconds for cost in costs),
    )


def ckks(parameters: int, repeats: int) -> Peer | None:
    """TenSEAL's CKKS, encoding included; None where it is not installed or would not fit."""
    if find_spec("tenseal") is None or parameters > LARGEST_CKKS:
        return None
    costs = [measure_ckks(parameters) for _ in range(repeats)]
    seconds = statistics.median(cost.encrypt_seconds + cost.decrypt_seconds for cost in costs)
    return Peer("tenseal-ckks", seconds, costs[0].upload_bytes)


def _addition(total: npt.NDArray[np.float32 | np.uint32], parameters: int) -> float:
    count = max(2, min(10, BARE_COORDINATES // parameters))
    vectors = np.ones((count, parameters), total.dtype)
    seconds = []
    for _ in range(BARE_REPEATS):
        started = time.process_time()
        for vector in vectors:
            np.add(total, vector, out=total)
        seconds.append((time.process_time() - started) / count)
    return statistics.median(seconds)
