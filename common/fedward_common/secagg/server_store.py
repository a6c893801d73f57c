"""The server's state before A3.4 as bytes: what it must not lose once a site may have released.

A site that released shares never serves the same public input again (A2), so the server, restarted,
asks the same of the same sites until t of them have answered. Replies are not stored: the sites
keep them. There is nothing secret in it: a masked total and signatures.
"""

from __future__ import annotations

import numpy as np

from fedward_common.codec import Value, encode
from fedward_common.errors import IntegrityError, PeerError
from fedward_common.secagg.context import Attempt, RoundContext
from fedward_common.secagg.parameters import DIGEST_BYTES, MAX_SITES, Group
from fedward_common.secagg.prg import U32
from fedward_common.secagg.records import (
    pack_agreement,
    pack_hash,
    pack_key,
    read_agreements,
    read_hashes,
    read_keys,
)
from fedward_common.secagg.ring import MAX_DIMENSION
from fedward_common.secagg.server import CollectingReveals
from fedward_common.secagg.transcript import MAX_BYTES, MAX_QUERY
from fedward_common.secagg.wire import as_bytes, as_count, as_index, as_text, as_tuple, unpack

_TAG = "reveals"


def encode_reveals(state: CollectingReveals) -> bytes:
    """Return the canonical bytes of ``state`` as it was before the first reply."""
    about = state.attempt.context
    return encode(
        (
            _TAG,
            about.e,
            about.query,
            about.round_number,
            about.public_input_digest,
            tuple(pack_key(key) for key in state.attempt.keys),
            tuple(pack_hash(item) for item in state.hashes),
            tuple(pack_agreement(item) for item in state.agreements),
            tuple(state.complaints.items()),
            state.total.astype(U32).tobytes(),
        )
    )


def decode_reveals(data: bytes, group: Group) -> CollectingReveals:
    """Return the state that :func:`encode_reveals` made.

    Raises:
        IntegrityError: the bytes are damaged, or of another study.
    """
    try:
        fields = unpack(data, _TAG, 9, MAX_BYTES + 4 * MAX_DIMENSION)
        e, query, round_number, public_input, keys, hashes, agreements, complaints, total = fields
        context = RoundContext(
            as_count(e, "e"),
            as_text(query, "the query", MAX_QUERY),
            as_count(round_number, "the round"),
            as_bytes(public_input, "the public input's digest", DIGEST_BYTES),
        )
        attempt = Attempt(group, context, read_keys(keys))
        for key in attempt.keys:
            key.verify(group, context.e)
        return CollectingReveals(
            attempt,
            np.frombuffer(_words(total), dtype=U32),
            read_hashes(hashes),
            dict(_complaint(item) for item in as_tuple(complaints, "complaints", MAX_SITES)),
            read_agreements(agreements),
        )
    except PeerError as error:
        raise IntegrityError(
            f"the stored state before step 4 is unusable ({error}); restore it from a backup"
        ) from error


def _words(value: Value) -> bytes:
    if not isinstance(value, bytes) or not value or len(value) % U32.itemsize:
        raise PeerError("the masked total is not whole ring elements")
    return value


def _complaint(value: Value) -> tuple[int, tuple[int, ...]]:
    dealer, holders = as_tuple(value, "a complaint", 2, 2)
    found = as_tuple(holders, "complaining sites", MAX_SITES)
    return as_index(dealer), tuple(as_index(holder) for holder in found)
