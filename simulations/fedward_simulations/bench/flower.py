"""Flower 1.41's SecAgg+: what its client mod does for one client, through the mod's own functions.

``flwr.client.mod.secure_aggregation.secaggplus_mod`` with the defaults of its workflow: every
pair of clients shares a mask, values of 22 bits, modulus 2^32. The threshold is ours.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.client.mod.secure_aggregation.secaggplus_mod import (
    SecAggPlusState,
    _collect_masked_vectors,
    _setup,
    _share_keys,
    _unmask,
)
from flwr.common import ConfigRecord, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.crypto.symmetric_encryption import (
    encrypt,
    generate_shared_key,
)
from flwr.common.secure_aggregation.ndarrays_arithmetic import factor_combine, parameters_multiply
from flwr.common.secure_aggregation.quantization import quantize
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import share_keys_plaintext_concat
from flwr.common.typing import Parameters
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

from fedward_common.secagg.parameters import threshold

CLIPPING_RANGE = 8.0
TARGET_RANGE = 1 << 22
MOD_RANGE = 1 << 32
MAX_WEIGHT = 1000.0
EXAMPLES = 500


@dataclass(frozen=True)
class FlowerCost:
    """One client's round, CPU seconds.

    ``client_seconds`` leaves out ``encoding_seconds``, the quantisation; ``upload_bytes`` counts
    the values of its messages, not Flower's framing.
    """

    client_seconds: float
    encoding_seconds: float
    upload_bytes: int


def measure_flower(sites: int, parameters: int) -> FlowerCost:
    """Measure the first of ``sites`` clients; the others only make keys and one share record."""
    update = ndarrays_to_parameters([_update(parameters)])
    clients = [SecAggPlusState() for _ in range(sites)]
    for index, client in enumerate(clients):
        client.nid = index
    first, spent, upload = clients[0], 0.0, 0

    def counted(step: Any, *arguments: Any) -> Any:
        nonlocal spent, upload
        started = time.process_time()
        reply = step(first, *arguments)
        spent += time.process_time() - started
        upload += _size(reply)
        return reply

    keys = {"0": counted(_setup, _settings(sites))}
    keys |= {str(c.nid): _setup(c, _settings(sites)) for c in clients[1:]}
    public: dict[str, Any] = {
        nid: [pair[Key.PUBLIC_KEY_1], pair[Key.PUBLIC_KEY_2]] for nid, pair in keys.items()
    }
    counted(_share_keys, ConfigRecord(public))
    records = [_record(first, client, public) for client in clients[1:]]
    senders = list(range(1, sites))
    forwarded = ConfigRecord({Key.CIPHERTEXT_LIST: records, Key.SOURCE_LIST: senders})
    counted(_collect_masked_vectors, forwarded, EXAMPLES, update)
    active = list(range(sites))
    counted(_unmask, ConfigRecord({Key.ACTIVE_NODE_ID_LIST: active, Key.DEAD_NODE_ID_LIST: []}))
    encoding = _encoding_seconds(update)
    return FlowerCost(spent - encoding, encoding, upload)


def _settings(sites: int) -> ConfigRecord:
    return ConfigRecord(
        {
            Key.SAMPLE_NUMBER: sites,
            Key.SHARE_NUMBER: sites,
            Key.THRESHOLD: threshold(sites),
            Key.CLIPPING_RANGE: CLIPPING_RANGE,
            Key.TARGET_RANGE: TARGET_RANGE,
            Key.MOD_RANGE: MOD_RANGE,
            Key.MAX_WEIGHT: MAX_WEIGHT,
        }
    )


def _update(parameters: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(0.0, 0.01, parameters).astype(np.float32)


def _record(first: SecAggPlusState, sender: SecAggPlusState, public: dict[str, Any]) -> bytes:
    """What ``sender`` seals for the first client, as ``_share_keys`` does; nothing of it is timed.

    In place of its own shares it sends that client's, which have the same lengths: making a
    hundred clients' shares would take minutes and change nothing that is measured.
    """
    private, peer = bytes_to_private_key(sender.sk2), bytes_to_public_key(public["0"][1])
    shares = first.rd_seed_share_dict[0], first.sk1_share_dict[0]
    plaintext = share_keys_plaintext_concat(sender.nid, 0, *shares)
    return encrypt(generate_shared_key(private, peer), plaintext)


def _encoding_seconds(update: Parameters) -> float:
    """What the mod does to the update before it masks it."""
    started = time.process_time()
    ratio = round(EXAMPLES / MAX_WEIGHT * TARGET_RANGE)
    weighted = parameters_multiply(parameters_to_ndarrays(update), ratio / TARGET_RANGE)
    factor_combine(ratio, quantize(weighted, CLIPPING_RANGE, TARGET_RANGE))
    return time.process_time() - started


def _size(reply: dict[str, Any]) -> int:
    """Bytes of a reply's values; an integer counts as the eight that Flower sends."""
    items = [i for v in reply.values() for i in (v if isinstance(v, list) else [v])]
    return sum(len(item) if isinstance(item, bytes) else 8 for item in items)
