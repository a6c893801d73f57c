"""Flower 1.41's SecAgg+ as installed, and a server that sends its clients what it likes.

The clients are Flower's own ``secaggplus_mod``, with one application each that returns its vector.
What the malicious server computes from their replies uses Flower's own functions as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitRes, Status, bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import (
    RECORD_KEY_CONFIGS,
    RECORD_KEY_STATE,
    Key,
    Stage,
)
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.compat.common.recorddict_compat import fitres_to_recorddict
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

# The defaults of Flower's SecAggPlusWorkflow.
CLIPPING_RANGE = 8.0
QUANTIZATION_RANGE = 1 << 22
MODULUS_RANGE = 1 << 32
RESOLUTION = 2 * CLIPPING_RANGE / QUANTIZATION_RANGE

PublicKeys = Mapping[int, tuple[bytes, bytes]]
Integers = NDArray[np.int64]


class FlowerClients:
    """Clients by node id, each with the vector that its application returns."""

    def __init__(self, vectors: Mapping[int, NDArray[np.float64]]) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.vectors = vectors
        self.contexts = {
            nid: Context(run_id=1, node_id=nid, node_config={}, state=RecordDict(), run_config={})
            for nid in vectors
        }

    def setup(self, threshold: int, among: Iterable[int] | None = None) -> PublicKeys:
        nodes = list(self.vectors if among is None else among)
        keys = {}
        for nid in nodes:
            reply = self._ask(
                nid,
                Stage.SETUP,
                {
                    Key.SAMPLE_NUMBER: len(nodes),
                    Key.SHARE_NUMBER: len(nodes),
                    Key.THRESHOLD: threshold,
                    Key.CLIPPING_RANGE: CLIPPING_RANGE,
                    Key.TARGET_RANGE: QUANTIZATION_RANGE,
                    Key.MOD_RANGE: MODULUS_RANGE,
                    Key.MAX_WEIGHT: 1.0,
                },
            )
            keys[nid] = reply[Key.PUBLIC_KEY_1], reply[Key.PUBLIC_KEY_2]
        return keys

    def share(self, nid: int, keys: PublicKeys) -> dict[int, bytes]:
        """Show a client everyone's public keys; its sealed shares by receiver."""
        shown = {str(peer): list(pair) for peer, pair in keys.items()}
        reply = self._ask(nid, Stage.SHARE_KEYS, shown)
        return dict(zip(reply[Key.DESTINATION_LIST], reply[Key.CIPHERTEXT_LIST], strict=True))

    def mask(self, nid: int, sealed: Mapping[int, bytes]) -> Integers:
        """Forward the shares to a client; its masked vector, with the weight before it."""
        given = {Key.CIPHERTEXT_LIST: list(sealed.values()), Key.SOURCE_LIST: list(sealed)}
        reply = self._ask(nid, Stage.COLLECT_MASKED_VECTORS, given)
        return np.concatenate([bytes_to_ndarray(part) for part in reply[Key.MASKED_PARAMETERS]])

    def unmask(
        self, nid: int, active: Sequence[int], dead: Sequence[int]
    ) -> tuple[dict[int, bytes], dict[int, bytes]]:
        """One client's shares: of the active ones' self-mask seeds, of the dead ones' keys."""
        lists = {Key.ACTIVE_NODE_ID_LIST: list(active), Key.DEAD_NODE_ID_LIST: list(dead)}
        shares = self._ask(nid, Stage.UNMASK, lists)[Key.SHARE_LIST]
        seeds = dict(zip(active, shares[: len(active)], strict=True))
        return seeds, dict(zip(dead, shares[len(active) :], strict=True))

    def until_masked(
        self, threshold: int, among: Collection[int] | None = None
    ) -> tuple[PublicKeys, dict[int, Integers]]:
        """The first three stages, in which the server is honest."""
        keys = self.setup(threshold, among)
        sealed = {nid: self.share(nid, keys) for nid in keys}
        masked = {
            nid: self.mask(nid, {src: sealed[src][nid] for src in keys if src != nid})
            for nid in keys
        }
        return keys, masked

    def secret(self, nid: int, name: str) -> bytes:
        """What a client keeps to itself, by its name in Flower's state: to shorten a search."""
        return cast("bytes", self.contexts[nid].state.config_records[RECORD_KEY_STATE][name])

    def _ask(self, nid: int, stage: str, configs: Mapping[str, Any]) -> Any:
        content = RecordDict({RECORD_KEY_CONFIGS: ConfigRecord({**configs, Key.STAGE: stage})})
        message = Message(content, nid, "train", group_id="1")
        reply = secaggplus_mod(message, self.contexts[nid], self._train)
        return reply.content.config_records[RECORD_KEY_CONFIGS]

    def _train(self, message: Message, context: Context) -> Message:
        parameters = ndarrays_to_parameters([self.vectors[context.node_id]])
        result = FitRes(Status(Code.OK, ""), parameters, num_examples=1, metrics={})
        return Message(fitres_to_recorddict(result, keep_input=False), reply_to=message)


def rebuild(shares: Iterable[bytes]) -> bytes:
    return combine_shares(list(shares))


def stream(seed: bytes, count: int) -> Integers:
    """Flower's mask of a seed for a weight and ``count - 1`` parameters."""
    return np.concatenate(pseudo_rand_gen(seed, MODULUS_RANGE, [(1,), (count - 1,)]))


def pair_key(private: bytes, public: bytes) -> bytes:
    """The seed of the mask that the owner of ``private`` shares with that of ``public``."""
    return generate_shared_key(bytes_to_private_key(private), bytes_to_public_key(public))


def pair_stream(private: bytes, public: bytes, count: int) -> Integers:
    """That mask."""
    return stream(pair_key(private, public), count)


def strip_pairs(y: Integers, nid: int, streams: Mapping[int, Integers]) -> Integers:
    """Take client ``nid``'s pair masks with the peers in ``streams`` off its masked vector."""
    for peer, mask in streams.items():
        y = y - mask if nid > peer else y + mask
    return y % MODULUS_RANGE


def decode(vector: Integers, contributors: int = 1) -> NDArray[np.float64]:
    """The sum of the contributors' parameters; the weight in front is dropped."""
    quantized = vector[1:] % MODULUS_RANGE
    [values] = dequantize([quantized], CLIPPING_RANGE, QUANTIZATION_RANGE)
    return values - (contributors - 1) * CLIPPING_RANGE


def folded(seed: bytes) -> int:
    """All that Flower's generator takes from a seed: the XOR of its 32-bit words."""
    return int(np.bitwise_xor.reduce(np.frombuffer(seed, "<u4")))


def search(
    vector: Integers, candidates: Iterable[int], *, negative: bool = False
) -> list[Integers]:
    """Try every folded seed as the one mask left on ``vector``; what looks like an update remains.

    An update is recognised by its weight in front, which the server knows, and by its parameters,
    which lie in 2^22 of the 2^32 values: a wrong seed passes with probability 2^-32 and less.
    """
    generator = np.random.RandomState()
    found = []
    for candidate in candidates:
        generator.seed(candidate)  # the same stream as RandomState(candidate), and faster
        head = generator.randint(0, MODULUS_RANGE - 1, (1,), dtype=np.int64)
        if (vector[0] + (head[0] if negative else -head[0])) % MODULUS_RANGE != QUANTIZATION_RANGE:
            continue
        rest = generator.randint(0, MODULUS_RANGE - 1, (vector.size - 1,), dtype=np.int64)
        mask = np.concatenate([head, rest])
        opened = (vector + mask if negative else vector - mask) % MODULUS_RANGE
        if (opened[1:] <= QUANTIZATION_RANGE).all():
            found.append(opened)
    return found
