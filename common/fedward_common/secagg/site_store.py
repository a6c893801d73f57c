"""A site's round state as bytes: what survives a crash (A6).

The bytes hold seeds and shares. The caller seals them under a key that is replaced at every e and
kept out of the database and of all backups, and fsyncs them before a message leaves. They are
bound to the plan, the attempt and the site, so that they open in no other.
"""

from __future__ import annotations

from fedward_common.codec import Value, encode
from fedward_common.errors import IntegrityError, PeerError
from fedward_common.secagg.kdf import SEED_BYTES
from fedward_common.secagg.parameters import DIGEST_BYTES, MAX_SITES, Group, Seat, SiteKeys
from fedward_common.secagg.records import pack_hash, pack_key, read_hashes, read_key
from fedward_common.secagg.shamir import SHARE_BYTES
from fedward_common.secagg.sharing import SharePair
from fedward_common.secagg.site import Agreed, Masked, Sharing, SiteState, Unmasked
from fedward_common.secagg.wire import as_bytes, as_count, as_index, as_tuple, unpack
from fedward_common.secret import SecretBytes

MAX_BYTES = 1 << 16
"""Length of an encoded state: 200 sites fit."""

_TAG = "site state"


def encode_state(state: SiteState) -> SecretBytes:
    """Return the state's canonical bytes; they do not hold the plan's or the site's keys."""
    match state:
        case Sharing():
            own = (state.own.a.reveal(), state.own.b.reveal())
            body: Value = (state.a.reveal(), state.b.reveal(), own, pack_key(state.key))
        case Masked():
            shares = tuple((pair.a.reveal(), pair.b.reveal()) for pair in state.shares)
            body = (state.ctx, state.u1, shares, pack_hash(state.signed))
        case Agreed():
            hashes = tuple(pack_hash(item) for item in state.hashes)
            releases = tuple(share.reveal() for share in state.releases)
            body = (state.ctx, hashes, releases)
        case Unmasked():
            body = ()
    pre = state.seat.pre
    return SecretBytes(
        encode((_TAG, type(state).__name__, state.seat.e, pre, state.seat.index, body))
    )


def decode_state(data: SecretBytes, group: Group, keys: SiteKeys) -> SiteState:
    """Return the state that :func:`encode_state` made for this plan and site.

    Raises:
        IntegrityError: the bytes are damaged, or belong to another plan, attempt or site.
    """
    try:
        kind, e, pre, index, body = unpack(data.reveal(), _TAG, 5, MAX_BYTES)
        seat = Seat(group, keys, as_count(e, "e"))
        state = _read(kind, seat, as_tuple(body, "the body", 4))
    except PeerError as error:
        raise IntegrityError(
            f"the stored round state is unusable ({error}); wait for the next attempt"
        ) from error
    if pre != seat.pre or index != keys.index:
        raise IntegrityError(
            "the stored round state belongs to another plan, attempt or site; wait for the next "
            "attempt"
        )
    return state


def _read(kind: Value, seat: Seat, body: tuple[Value, ...]) -> SiteState:
    match kind, body:
        case "Sharing", (a, b, own, key):
            seeds = [SecretBytes(as_bytes(seed, "a seed", SEED_BYTES)) for seed in (a, b)]
            return Sharing(seat, seeds[0], seeds[1], _read_pair(own), read_key(key))
        case "Masked", (ctx, u1, shares, signed):
            return Masked(
                seat=seat,
                ctx=_read_digest(ctx),
                u1=tuple(as_index(index) for index in as_tuple(u1, "U1", MAX_SITES)),
                shares=tuple(_read_pair(pair) for pair in as_tuple(shares, "shares", MAX_SITES)),
                signed=read_hashes((signed,))[0],
            )
        case "Agreed", (ctx, hashes, releases):
            return Agreed(
                seat=seat,
                ctx=_read_digest(ctx),
                hashes=read_hashes(hashes),
                releases=tuple(map(_read_share, as_tuple(releases, "releases", MAX_SITES))),
            )
        case "Unmasked", ():
            return Unmasked(seat)
    raise PeerError("it is of no known kind")


def _read_digest(value: Value) -> bytes:
    return as_bytes(value, "a digest", DIGEST_BYTES)


def _read_share(value: Value) -> SecretBytes:
    return SecretBytes(as_bytes(value, "a share", 0, SHARE_BYTES))


def _read_pair(value: Value) -> SharePair:
    a, b = as_tuple(value, "a share pair", 2, 2)
    return SharePair(_read_share(a), _read_share(b))
