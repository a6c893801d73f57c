"""The server's half of a private sum: a relay and an adder (A3, A6).

CollectingShares -> CollectingAddends -> CollectingAgreements -> CollectingReveals -> Summed.
``receive`` takes one site's decoded message and returns the next state; a repeated identical
message changes nothing; any other raises and changes nothing. ``close``, when the caller decides,
ends the step with the sites that answered and returns the next state and each site's request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fedward_common.errors import PeerError
from fedward_common.keys import check_encryption_public
from fedward_common.secagg.blame import (
    Complaints,
    joined,
    missing_shares,
    to_blame,
    to_blame_for,
)
from fedward_common.secagg.closing import (
    RoundAbortedError,
    check_enough,
    check_same,
    check_sender,
)
from fedward_common.secagg.context import (
    Attempt,
    RoundContext,
    SignedAgreement,
    SignedHash,
    addend_hash,
    survivors_digest,
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
from fedward_common.secagg.parameters import Group
from fedward_common.secagg.prg import U32, apply_masks
from fedward_common.secagg.transcript import Transcript
from fedward_common.secagg.unmasking import LostSeedError, masks_to_remove, rebuild


@dataclass(frozen=True)
class CollectingShares:
    """A3.1: waiting for the sites' round keys and share records.

    ``left_out`` are sites that dealt wrong shares before: they are not taken into U1.
    """

    group: Group
    e: int
    left_out: frozenset[int] = frozenset()
    messages: Mapping[int, ShareMessage] = field(default_factory=dict)

    @property
    def waiting(self) -> frozenset[int]:
        """The sites that have not answered."""
        return frozenset(range(self.group.size)) - self.left_out - self.messages.keys()

    def receive(self, index: int, message: ShareMessage) -> CollectingShares:
        """Take the message of the site that the transport authenticated as ``index``.

        Raises:
            PeerError: it is malformed, not of this attempt, badly signed or a second one.
        """
        check_sender(index, message.key.index, self.e, message.e)
        if index in self.left_out:
            raise PeerError(f"site {index} is left out of this study's rounds")
        if index in self.messages:
            check_same(self.messages[index], message)
            return self
        message.key.verify(self.group, self.e)
        # A site that announced a point of low order would make every peer refuse the round.
        check_encryption_public(message.key.A)
        present = [bool(record) for record in message.ciphertexts]
        if present != [j != index for j in range(self.group.size)]:
            raise PeerError(f"site {index} did not send one share record for each peer")
        return replace(self, messages={**self.messages, index: message})

    def close(
        self, query: str, round_number: int, public_input_digest: bytes, dimension: int
    ) -> tuple[CollectingAddends, dict[int, MaskRequest]]:
        """Fix U1 and ask it for masked addends of ``dimension`` coordinates.

        Raises:
            RoundAbortedError: fewer than t_min sites answered.
        """
        check_enough(len(self.messages), self.group.t_min, "share records")
        u1 = sorted(self.messages)
        keys = tuple(self.messages[i].key for i in u1)
        requests = {
            i: MaskRequest(self.e, keys, tuple(self.messages[j].ciphertexts[i] for j in u1))
            for i in u1
        }
        context = RoundContext(self.e, query, round_number, public_input_digest)
        attempt = Attempt(self.group, context, keys)
        return CollectingAddends(attempt, np.zeros(dimension, dtype=U32)), requests


@dataclass(frozen=True)
class CollectingAddends:
    """A3.2: waiting for the masked addends; ``total`` is the sum of those that arrived."""

    attempt: Attempt
    total: npt.NDArray[np.uint32]
    hashes: Mapping[int, SignedHash] = field(default_factory=dict)
    missing: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def waiting(self) -> frozenset[int]:
        """The sites that have not answered."""
        return self.attempt.u1 - self.hashes.keys()

    def receive(self, index: int, message: MaskedAddend) -> CollectingAddends:
        """Add the addend of the site that the transport authenticated as ``index``.

        Raises:
            PeerError: it is not of U1 or this attempt, badly signed, too long, or a second one.
        """
        check_sender(index, message.index, self.attempt.context.e, message.e)
        signed = SignedHash(index, addend_hash(message.y), message.signature)
        if index in self.hashes:
            check_same(self.hashes[index], signed)
            return self
        if index not in self.waiting:
            raise PeerError(f"site {index} is not in U1")
        if len(message.y) != self.total.nbytes:
            raise PeerError(f"the addend of site {index} does not have {self.total.size} elements")
        signed.verify(self.attempt.group, self.attempt.ctx)
        return replace(
            self,
            total=self.total + np.frombuffer(message.y, dtype=U32),
            hashes={**self.hashes, index: signed},
            missing={**self.missing, index: message.missing},
        )

    def close(self) -> tuple[CollectingAgreements, dict[int, AgreeRequest]]:
        """Fix U2 and ask it to agree.

        Raises:
            RoundAbortedError: fewer than t_min sites answered, or too few of them hold shares of
                some site of U1.
        """
        group = self.attempt.group
        complaints = missing_shares(sorted(self.attempt.u1), self.missing)
        dealers = to_blame(group, complaints)
        check_enough(len(self.hashes), group.t_min, "masked addends", dealers)
        for key in self.attempt.keys:
            holders = len(self.hashes) - len(complaints.get(key.index, ()))
            check_enough(
                holders, group.threshold, f"holders of shares of site {key.index}", dealers
            )
        hashes = tuple(self.hashes[i] for i in sorted(self.hashes))
        request = AgreeRequest(self.attempt.context.e, hashes)
        state = CollectingAgreements(self.attempt, self.total, hashes, complaints)
        return state, dict.fromkeys((item.index for item in hashes), request)


@dataclass(frozen=True)
class CollectingAgreements:
    """A3.3: waiting for the signatures on U2, the sites in ``hashes``."""

    attempt: Attempt
    total: npt.NDArray[np.uint32]
    hashes: tuple[SignedHash, ...]
    complaints: Complaints
    agreements: Mapping[int, SignedAgreement] = field(default_factory=dict)

    @cached_property
    def survivors(self) -> bytes:
        """The digest of U2 that the sites sign."""
        return survivors_digest(self.hashes)

    @property
    def waiting(self) -> frozenset[int]:
        """The sites that have not answered."""
        return frozenset(item.index for item in self.hashes) - self.agreements.keys()

    def receive(self, index: int, message: Agreement) -> CollectingAgreements:
        """Take the signature of the site that the transport authenticated as ``index``.

        Raises:
            PeerError: it is not of U2 or this attempt, not valid, or a second one.
        """
        check_sender(index, message.index, self.attempt.context.e, message.e)
        agreement = SignedAgreement(index, message.signature)
        if index in self.agreements:
            check_same(self.agreements[index], agreement)
            return self
        if index not in self.waiting:
            raise PeerError(f"site {index} is not in U2")
        agreement.verify(self.attempt.group, self.attempt.ctx, self.survivors)
        return replace(self, agreements={**self.agreements, index: agreement})

    def close(self) -> tuple[CollectingReveals, dict[int, UnmaskRequest]]:
        """Show the signatures to the sites that agreed and ask them for their shares.

        Raises:
            RoundAbortedError: fewer than t sites agreed.
        """
        check_enough(len(self.agreements), self.attempt.group.threshold, "agreements")
        agreements = tuple(self.agreements[i] for i in sorted(self.agreements))
        state = CollectingReveals(
            self.attempt, self.total, self.hashes, self.complaints, agreements
        )
        return state, dict.fromkeys((item.index for item in agreements), state.request)


@dataclass(frozen=True)
class CollectingReveals:
    """A3.4: waiting for the shares of the sites that agreed.

    From here on the attempt must be finished: a site that released never serves this public input
    again (A2). ``server_store`` keeps the state through a crash of the server.
    """

    attempt: Attempt
    total: npt.NDArray[np.uint32]
    hashes: tuple[SignedHash, ...]
    complaints: Complaints
    agreements: tuple[SignedAgreement, ...]
    replies: Mapping[int, tuple[bytes, ...]] = field(default_factory=dict)

    @property
    def request(self) -> UnmaskRequest:
        """What every site that agreed is asked: the same bytes as often as it takes."""
        return UnmaskRequest(self.attempt.context.e, self.agreements)

    @property
    def waiting(self) -> frozenset[int]:
        """The sites that have not answered."""
        return frozenset(item.index for item in self.agreements) - self.replies.keys()

    def receive(self, index: int, message: UnmaskReply) -> CollectingReveals:
        """Take the shares of the site that the transport authenticated as ``index``.

        Raises:
            PeerError: it did not agree, is not of this attempt, malformed, or a second one.
        """
        check_sender(index, message.index, self.attempt.context.e, message.e)
        if index in self.replies:
            check_same(self.replies[index], message.shares)
            return self
        if index not in self.waiting:
            raise PeerError(f"site {index} was not asked for shares")
        if len(message.shares) != len(self.attempt.keys):
            raise PeerError(f"site {index} did not send one share for each site of U1")
        return replace(self, replies={**self.replies, index: message.shares})

    def close(self) -> tuple[Summed, dict[int, UnmaskRequest]]:
        """Rebuild the seeds, remove the masks, and return the sum; nothing more is asked (A3.5).

        Raises:
            RoundAbortedError: fewer than t sites answered, or no set of their shares gives the
                seeds that were committed to.
        """
        check_enough(len(self.replies), self.attempt.group.threshold, "replies with shares")
        survivors = tuple(item.index for item in self.hashes)
        try:
            rebuilt = rebuild(self.attempt, survivors, self.replies)
        except LostSeedError as error:
            dealers = to_blame_for(self.attempt.group, self.complaints, error)
            raise RoundAbortedError(str(error), dealers) from error
        total = self.total.copy()
        apply_masks(total, masks_to_remove(self.attempt, survivors, rebuilt.seeds))
        seeds = tuple(seed.reveal() for seed in rebuilt.seeds)
        attempt = self.attempt
        transcript = Transcript(attempt.context, attempt.keys, self.hashes, self.agreements, seeds)
        dealers = to_blame(self.attempt.group, joined(self.complaints, rebuilt.wrong))
        return Summed(total, transcript, dealers), {}


@dataclass(frozen=True)
class Summed:
    """A3.5: the sum of the addends of U2, uint32 of shape (d,), and what proves it.

    ``dealers`` dealt wrong shares to more than c members, though not to too many.
    """

    total: npt.NDArray[np.uint32]
    transcript: Transcript
    dealers: tuple[int, ...]


ServerState = (
    CollectingShares | CollectingAddends | CollectingAgreements | CollectingReveals | Summed
)
