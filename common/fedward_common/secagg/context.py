"""What a round is about, and what each signature of it says (A2, A3).

Every signature covers a tag for the message's type and the signer's index, and after step 1 the
whole context: a signature made for one round, model or survivor set is worth nothing in another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from fedward_common.codec import digest
from fedward_common.keys import sign, verify
from fedward_common.secagg.parameters import Group
from fedward_common.secret import SecretBytes

Head = tuple[int, bytes]
"""A ledger's head: the number of its entries and its SHA-256 (32 bytes)."""


@dataclass(frozen=True)
class RoundKey:
    """What site ``index`` announces in A3.1.

    ``A`` is its round X25519 key (32 bytes), ``B`` the commitment to its self-mask seed (32),
    ``head`` its ledger's head, ``signature`` Ed25519 over all of them (64).
    """

    index: int
    A: bytes
    B: bytes
    head: Head
    signature: bytes

    def verify(self, group: Group, e: int) -> None:
        """Check the signature against the pinned roster.

        Raises:
            PeerError: it is not valid.
        """
        identity = group.identity(self.index)
        statement = _key_statement(group.pre(e), self.index, self.A, self.B, self.head)
        verify(identity, self.signature, *statement)


@dataclass(frozen=True)
class SignedHash:
    """Site ``index``'s signed SHA-256 of its masked addend (A3.2)."""

    index: int
    addend_hash: bytes
    signature: bytes

    def verify(self, group: Group, ctx: bytes) -> None:
        """Check the signature against the pinned roster.

        Raises:
            PeerError: it is not valid.
        """
        identity = group.identity(self.index)
        verify(identity, self.signature, "addend", ctx, self.index, self.addend_hash)


@dataclass(frozen=True)
class SignedAgreement:
    """Site ``index``'s signature over the survivor set and all hashes of it (A3.3)."""

    index: int
    signature: bytes

    def verify(self, group: Group, ctx: bytes, survivors: bytes) -> None:
        """Check that this site signed the survivors with digest ``survivors``.

        Raises:
            PeerError: it did not.
        """
        identity = group.identity(self.index)
        verify(identity, self.signature, "agree", ctx, self.index, survivors)


@dataclass(frozen=True)
class RoundContext:
    """One attempt at one private sum, as the site itself knows it from its plan.

    ``e`` is the study's strictly increasing counter, ``query`` and ``round_number`` say what is
    asked, ``public_input_digest`` is H(public input) (32 bytes).
    """

    e: int
    query: str
    round_number: int
    public_input_digest: bytes

    def digest(self, group: Group, keys: Sequence[RoundKey]) -> bytes:
        """Return ctx for the first survivor set U1, whose round keys are ``keys`` in order (A2)."""
        u1 = tuple(key.index for key in keys)
        announced = tuple((key.index, key.A, key.B, key.head) for key in keys)
        about = (self.e, self.query, self.round_number)
        return digest("ctx", group.plan_digest, *about, u1, self.public_input_digest, announced)


@dataclass(frozen=True)
class Attempt:
    """A round whose first survivor set U1 is fixed: the sites of ``keys``, in roster order."""

    group: Group
    context: RoundContext
    keys: tuple[RoundKey, ...]

    @cached_property
    def ctx(self) -> bytes:
        """The context that every signature and mask of the later steps covers (A2)."""
        return self.context.digest(self.group, self.keys)

    @cached_property
    def u1(self) -> frozenset[int]:
        """U1, by roster index."""
        return frozenset(key.index for key in self.keys)

    @property
    def pre(self) -> bytes:
        """The context of step 1 (A2)."""
        return self.group.pre(self.context.e)


def addend_hash(y: bytes) -> bytes:
    """Return H(y) for a masked addend's bytes (A3.2)."""
    return digest("y", y)


def survivors_digest(hashes: Sequence[SignedHash]) -> bytes:
    """Return H over U2 and all its H(y_j), which is what A3.3 signs.

    A digest, so that n signatures over n hashes cost n hashings and not n * n.
    """
    u2 = tuple(item.index for item in hashes)
    return digest("survivors", u2, tuple(item.addend_hash for item in hashes))


def sign_round_key(
    identity: SecretBytes, pre: bytes, index: int, A: bytes, B: bytes, head: Head
) -> RoundKey:
    """Return the signed announcement of A3.1."""
    return RoundKey(index, A, B, head, sign(identity, *_key_statement(pre, index, A, B, head)))


def sign_addend(identity: SecretBytes, ctx: bytes, index: int, hashed: bytes) -> SignedHash:
    """Return the signed hash of A3.2."""
    return SignedHash(index, hashed, sign(identity, "addend", ctx, index, hashed))


def sign_agreement(
    identity: SecretBytes, ctx: bytes, index: int, survivors: bytes
) -> SignedAgreement:
    """Return the signature of A3.3 over the survivors with digest ``survivors``."""
    return SignedAgreement(index, sign(identity, "agree", ctx, index, survivors))


def _key_statement(
    pre: bytes, index: int, A: bytes, B: bytes, head: Head
) -> tuple[str, bytes, int, bytes, bytes, Head]:
    return ("key", pre, index, A, B, head)
