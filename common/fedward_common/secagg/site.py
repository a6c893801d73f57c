"""A site's half of a private sum: Sharing -> Masked -> Agreed -> Unmasked (A3, A6).

Pure: each transition takes a decoded request and returns the next state and the message to send,
or raises and changes nothing. The caller stores the next state (``site_store``) and the exact
bytes of the message before it sends them, destroys the state before, and answers a repeated
request with the stored bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedward_common.errors import MisuseError, PeerError
from fedward_common.keys import encryption_public
from fedward_common.randomness import RandomBytes
from fedward_common.secagg.checks import check_agreements, check_hashes, check_keys
from fedward_common.secagg.context import (
    Head,
    RoundContext,
    RoundKey,
    SignedHash,
    addend_hash,
    sign_addend,
    sign_agreement,
    sign_round_key,
    survivors_digest,
)
from fedward_common.secagg.kdf import (
    SEED_BYTES,
    commitment,
    pair_mask_key,
    round_private,
    self_mask_key,
)
from fedward_common.secagg.messages import (
    Agreement,
    AgreeRequest,
    MaskedAddend,
    MaskRequest,
    ShareMessage,
    UnmaskReply,
    UnmaskRequest,
)
from fedward_common.secagg.parameters import Group, Seat, SiteKeys
from fedward_common.secagg.prg import U32, Mask, apply_masks
from fedward_common.secagg.shamir import split
from fedward_common.secagg.sharing import SharePair, deal, receive
from fedward_common.secret import SecretBytes

SiteRequest = MaskRequest | AgreeRequest | UnmaskRequest


@dataclass(frozen=True)
class Sharing:
    """A3.1 is done: the round key and the share records are made.

    ``a`` and ``b`` are the seeds of the pair masks and of the self mask, ``own`` the site's shares
    of them, ``key`` what it announced.
    """

    seat: Seat
    a: SecretBytes
    b: SecretBytes
    own: SharePair
    key: RoundKey

    def check(
        self, request: MaskRequest, query: str, round_number: int, public_input_digest: bytes
    ) -> Checked:
        """Check a request for the masked addend; nothing is decided or changed yet.

        ``query``, ``round_number`` and ``public_input_digest`` are the site's own, from its plan
        and its own recomputation, never the server's.

        Raises:
            PeerError: the request must not be answered.
        """
        _check_attempt(self.seat, request)
        if self.key not in request.keys:  # A3.2: itself included, as it announced itself
            raise PeerError("U1 does not hold this site's own round key as it was sent")
        check_keys(self.seat.group, self.seat.e, request.keys)
        context = RoundContext(self.seat.e, query, round_number, public_input_digest)
        ctx = context.digest(self.seat.group, request.keys)
        return Checked(
            sharing=self,
            ctx=ctx,
            u1=request.keys,
            masks=self._masks(ctx, request.keys),
            shares=tuple(map(self._receive, request.keys, request.ciphertexts)),
        )

    def mask(
        self, checked: Checked, addend: npt.NDArray[np.uint32], threads: int = 1
    ) -> tuple[Masked, MaskedAddend]:
        """Mask ``addend``, uint32 of shape (d,) with its noise in it, and sign its hash (A3.2).

        The seeds do not enter the next state: nothing needs them any more. ``threads`` share the
        masking of a long vector and change nothing else.

        Raises:
            MisuseError: ``checked`` is not this state's, or the addend's type or shape is wrong.
        """
        if checked.sharing is not self:
            raise MisuseError("a request must be checked by the state that answers it")
        if addend.dtype != U32 or addend.ndim != 1 or not addend.size:
            raise MisuseError("an addend must be uint32 of shape (d,)")
        y = addend.copy()
        apply_masks(y, checked.masks, threads)
        sent = y.tobytes()
        index, identity = self.seat.index, self.seat.keys.identity
        signed = sign_addend(identity, checked.ctx, index, addend_hash(sent))
        masked = Masked(
            seat=self.seat,
            ctx=checked.ctx,
            u1=tuple(key.index for key in checked.u1),
            shares=checked.shares,
            signed=signed,
        )
        return masked, MaskedAddend(self.seat.e, index, sent, signed.signature, checked.missing)

    def _receive(self, key: RoundKey, ciphertext: bytes) -> SharePair:
        if key.index == self.seat.index:
            return self.own
        return receive(self.seat, key, ciphertext)

    def _masks(self, ctx: bytes, keys: tuple[RoundKey, ...]) -> tuple[Mask, ...]:
        i = self.seat.index
        private = round_private(self.a, self.seat.pre, i)
        masks = [Mask(self_mask_key(self.b, ctx, i))]
        for key in keys:
            if key.index != i:
                pair = pair_mask_key(private, key.A, ctx, i, key.index)
                masks.append(Mask(pair, negative=i > key.index))
        return tuple(masks)


@dataclass(frozen=True)
class Checked:
    """A request for the masked addend that has passed every check of A3.2.

    The caller debits its ledger, computes, adds noise, and passes this to ``Sharing.mask``. It is
    not stored: a site that restarts before its addend exists checks the request again.
    """

    sharing: Sharing
    ctx: bytes
    u1: tuple[RoundKey, ...]
    masks: tuple[Mask, ...]
    shares: tuple[SharePair, ...]

    @property
    def missing(self) -> tuple[int, ...]:
        """The members of U1 whose share did not arrive or did not open."""
        pairs = zip(self.u1, self.shares, strict=True)
        return tuple(key.index for key, pair in pairs if pair.missing)

    @property
    def heads(self) -> dict[int, Head]:
        """The ledger heads that the members of U1 signed, by index (B6)."""
        return {key.index: key.head for key in self.u1}


@dataclass(frozen=True)
class Masked:
    """A3.2 is done: the masked addend exists and its hash is signed.

    ``u1`` are the sites of U1, ``shares`` what the site holds of each, in the same order.
    """

    seat: Seat
    ctx: bytes
    u1: tuple[int, ...]
    shares: tuple[SharePair, ...]
    signed: SignedHash

    def agree(self, request: AgreeRequest) -> tuple[Agreed, Agreement]:
        """Sign the survivor set U2, once (A3.3).

        Of each peer's two shares the next state keeps the one that this U2 allows to release: the
        other is destroyed here, so no later request can obtain both.

        Raises:
            PeerError: the request must not be answered.
        """
        _check_attempt(self.seat, request)
        if self.signed not in request.hashes:  # A3.3: its own addend included, as sent
            raise PeerError("U2 does not hold this site's own addend as it was sent")
        check_hashes(self.seat.group, self.ctx, self.u1, request.hashes)
        index, identity = self.seat.index, self.seat.keys.identity
        agreement = sign_agreement(identity, self.ctx, index, survivors_digest(request.hashes))
        u2 = {item.index for item in request.hashes}
        pairs = zip(self.u1, self.shares, strict=True)
        agreed = Agreed(
            seat=self.seat,
            ctx=self.ctx,
            hashes=request.hashes,
            releases=tuple(pair.b if j in u2 else pair.a for j, pair in pairs),
        )
        return agreed, Agreement(self.seat.e, index, agreement.signature)


@dataclass(frozen=True)
class Agreed:
    """A3.3 is done: one survivor set is signed.

    ``hashes`` are those of U2, ``releases`` the one share that may leave for each member of U1 in
    roster order: of the self mask for a survivor, of the pair masks for the others.
    """

    seat: Seat
    ctx: bytes
    hashes: tuple[SignedHash, ...]
    releases: tuple[SecretBytes, ...]

    def unmask(self, request: UnmaskRequest) -> tuple[Unmasked, UnmaskReply]:
        """Release the shares, once, to t members' signatures on what this site signed (A3.4).

        Raises:
            PeerError: the request must not be answered.
        """
        _check_attempt(self.seat, request)
        check_agreements(self.seat.group, self.ctx, self.hashes, request.agreements)
        shares = tuple(share.reveal() for share in self.releases)
        return Unmasked(self.seat), UnmaskReply(self.seat.e, self.seat.index, shares)


@dataclass(frozen=True)
class Unmasked:
    """A3.4 is done: no seed and no share of this attempt is left at the site."""

    seat: Seat


SiteState = Sharing | Masked | Agreed | Unmasked


def start(
    group: Group, keys: SiteKeys, e: int, head: Head, random: RandomBytes
) -> tuple[Sharing, ShareMessage]:
    """Begin attempt ``e``: fresh seeds, the signed round key, one share record per peer (A3.1).

    ``head`` is the site's ledger head. ``e`` must be higher than any before: the caller persists
    the counter and destroys what an earlier attempt left.

    Raises:
        OperatorError: the private keys are not those of the roster.
        PeerError: a member's encryption key is unusable.
    """
    seat = Seat(group, keys, e)
    seat.check()
    a, b = SecretBytes(random(SEED_BYTES)), SecretBytes(random(SEED_BYTES))
    A, B = encryption_public(round_private(a, seat.pre, seat.index)), commitment(b)
    key = sign_round_key(keys.identity, seat.pre, seat.index, A, B, head)
    n, t = group.size, group.threshold
    pairs = map(SharePair, split(a, t, n, random), split(b, t, n, random))
    own, records = deal(seat, key, tuple(pairs), random)
    return Sharing(seat, a, b, own, key), ShareMessage(e, key, records)


def _check_attempt(seat: Seat, request: SiteRequest) -> None:
    if seat.e != request.e:
        raise PeerError(f"the request is for attempt {request.e}, this site is at {seat.e}")
