"""TenSEAL's CKKS: what one client does to add its vector under homomorphic encryption.

All clients hold one secret key, and any of them who meets the server reads every other's vector:
this is the cost of a weaker protection. 8,192 slots' degree with primes of 60, 40 and 60 bits is
the least that adds at full precision under 128-bit security.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass

import numpy as np

from fedward_common.errors import MisuseError, OperatorError

DEGREE = 8192
PRIMES = (60, 40, 60)
SCALE = 2.0**40
TOLERANCE = 1e-6


@dataclass(frozen=True)
class CkksCost:
    """One client's round, CPU seconds. ``encrypt_seconds`` holds encoding and serialisation.

    ``decrypt_seconds`` is reading and opening the sum, which only a client can.
    """

    encrypt_seconds: float
    decrypt_seconds: float
    upload_bytes: int


def measure_ckks(parameters: int) -> CkksCost:
    """Measure a client that sends ``parameters`` numbers and opens the sum of two clients.

    Raises:
        OperatorError: TenSEAL is not installed.
        MisuseError: the sum is wrong, so that a figure would mean nothing.
    """
    try:
        tenseal = importlib.import_module("tenseal")
    except ImportError as error:
        raise OperatorError("tenseal: is not installed; pip install 'fedward[bench]'") from error
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=list(PRIMES), n_threads=1
    )
    context.global_scale = SCALE
    vector = np.random.default_rng(0).normal(0.0, 0.01, parameters)
    slots = DEGREE // 2
    parts = [vector[i : i + slots].tolist() for i in range(0, parameters, slots)]
    started = time.process_time()
    sent = [tenseal.ckks_vector(context, part).serialize() for part in parts]
    encrypted = time.process_time()
    summed = [_doubled(tenseal, context, part) for part in sent]
    relayed = time.process_time()
    opened = [tenseal.ckks_vector_from(context, part).decrypt() for part in summed]
    decrypted = time.process_time()
    if not np.allclose(np.concatenate(opened), 2 * vector, atol=TOLERANCE):
        raise MisuseError("the homomorphic sum is not the sum of the vectors")
    return CkksCost(encrypted - started, decrypted - relayed, sum(map(len, sent)))


def _doubled(tenseal: object, context: object, part: bytes) -> bytes:
    """What the server does: the sum of two ciphertexts, serialised."""
    read = tenseal.ckks_vector_from  # type: ignore[attr-defined]
    total: bytes = (read(context, part) + read(context, part)).serialize()
    return total
