"""Who a site is: its long-lived identity, the SITE.pub file, and its approval of a plan (A1)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fedward_common.codec import decode, digest, encode
from fedward_common.errors import OperatorError, PeerError
from fedward_common.keys import (
    KEY_BYTES,
    SIGNATURE_BYTES,
    check_encryption_public,
    check_transport_public,
    new_key,
    new_transport_key,
    sign,
    signing_public,
    transport_public,
    verify,
)
from fedward_common.randomness import RandomBytes
from fedward_common.secret import SecretBytes

FORMAT = 1
"""Version of the SITE.pub file."""

MAX_NAME = 63
"""Characters in a site's name."""

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""A site's name, as in plans and file names."""

MAX_TEXT = 4096
"""Characters in a SITE.pub file."""

_TITLE = f"fedward site {FORMAT}"
_WIDTH = 64
_CONSONANTS, _VOWELS = "bdfghjklmnprstvz", "aiou"


@dataclass(frozen=True)
class SitePublic:
    """A site as others know it: what SITE.pub holds.

    ``identity`` is its Ed25519 key (32 bytes), ``transport`` its P-384 key (DER
    SubjectPublicKeyInfo), ``signature`` that of the identity key over name and keys.
    """

    name: str
    identity: bytes
    transport: bytes
    signature: bytes

    @property
    def fingerprint(self) -> bytes:
        """What operators read to each other; see :func:`fingerprint`."""
        return fingerprint(self.name, self.identity, self.transport)

    def verify(self) -> None:
        """Check the name, the keys and the signature.

        Raises:
            PeerError: any of them is not valid.
        """
        if problem := name_problem(self.name):
            raise PeerError(problem)
        check_transport_public(self.transport)
        verify(self.identity, self.signature, *_statement(self.name, self.identity, self.transport))

    def to_text(self) -> str:
        """Return the SITE.pub file: short lines of text that survive a mail program."""
        fields = {
            "identity": self.identity,
            "transport": self.transport,
            "signature": self.signature,
        }
        lines = [_TITLE, f"name: {self.name}"]
        for key, value in fields.items():
            text = base64.b64encode(value).decode("ascii")
            pieces = [text[i : i + _WIDTH] for i in range(0, len(text), _WIDTH)]
            lines.append(f"{key}: " + "\n  ".join(pieces))
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class SiteIdentity:
    """A site's own long-lived keys.

    ``identity`` is Ed25519 (32 bytes), ``transport`` P-384 (DER PKCS#8).
    """

    name: str
    identity: SecretBytes
    transport: SecretBytes

    @classmethod
    def generate(cls, name: str, random: RandomBytes) -> SiteIdentity:
        """Return fresh keys for a site called ``name``.

        Raises:
            OperatorError: the name is empty, too long or not printable.
        """
        if problem := name_problem(name):
            raise OperatorError(problem)
        return cls(name, new_key(random), new_transport_key(random))

    def public(self) -> SitePublic:
        """Return the signed public half."""
        identity, transport = signing_public(self.identity), transport_public(self.transport)
        signature = sign(self.identity, *_statement(self.name, identity, transport))
        return SitePublic(self.name, identity, transport, signature)


@dataclass(frozen=True)
class Approval:
    """A site's consent to a plan and its X25519 key for it: signed ('approve', H(plan), key)."""

    identity: bytes
    plan_digest: bytes
    encryption: bytes
    signature: bytes

    def verify(self) -> None:
        """Check the signature and that the encryption key is usable.

        Raises:
            PeerError: either is not valid.
        """
        check_encryption_public(self.encryption)
        verify(self.identity, self.signature, "approve", self.plan_digest, self.encryption)

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        fields = (self.identity, self.plan_digest, self.encryption, self.signature)
        return encode(("approval", *fields))

    @classmethod
    def decode(cls, data: bytes) -> Approval:
        """Decode and verify an approval.

        Raises:
            PeerError: malformed, or its signature or key is not valid.
        """
        match decode(data, max_bytes=512):
            case ("approval", bytes(identity), bytes(plan), bytes(encryption), bytes(signature)):
                approval = cls(identity, plan, encryption, signature)
            case _:
                raise PeerError("an approval is malformed")
        if len(approval.plan_digest) != KEY_BYTES or len(approval.signature) != SIGNATURE_BYTES:
            raise PeerError("an approval has a field of the wrong length")
        approval.verify()
        return approval


def approve(identity: SecretBytes, plan_digest: bytes, encryption: bytes) -> Approval:
    """Return the approval of the plan with SHA-256 ``plan_digest`` and X25519 ``encryption`` key.

    Raises:
        PeerError: the encryption key is unusable.
    """
    check_encryption_public(encryption)
    signature = sign(identity, "approve", plan_digest, encryption)
    return Approval(signing_public(identity), plan_digest, encryption, signature)


def approved_digest(plan_digest: bytes, approvals: Sequence[Approval]) -> bytes:
    """Return H(plan) as the protocol uses it: over the plan and all approvals in roster order."""
    entries = tuple((a.identity, a.encryption, a.signature) for a in approvals)
    return digest("approved", plan_digest, entries)


def fingerprint(name: str, identity: bytes, transport: bytes) -> bytes:
    """Return the SHA-256, 32 bytes, over the contents of SITE.pub.

    It covers the name and both keys; the signature and the file's line ends do not move it, so a
    roster entry has the same fingerprint as the file it came from.
    """
    return digest(*_statement(name, identity, transport))


def spell(fingerprint_bytes: bytes) -> str:
    """Return a fingerprint for reading aloud: a word of five letters for every two bytes.

    Proquints (Wilkerson 2009, arXiv:0901.4016): every word can be spoken in most languages, and the
    words say all of the fingerprint, sixteen of them its 256 bits.
    """
    pairs = [fingerprint_bytes[i : i + 2] for i in range(0, len(fingerprint_bytes), 2)]
    return " ".join(_word(int.from_bytes(pair, "big")) for pair in pairs)


def parse_site_public(text: str, source: str = "SITE.pub") -> SitePublic:
    """Read a SITE.pub file's ``text`` and check it.

    Raises:
        OperatorError: one line that names ``source``, the field and the remedy.
    """
    fields = _parse_fields(text, source)
    site = SitePublic(
        fields["name"],
        _parse_base64(fields, "identity", source),
        _parse_base64(fields, "transport", source),
        _parse_base64(fields, "signature", source),
    )
    try:
        site.verify()
    except PeerError as error:
        raise OperatorError(f"{source}: {error}; ask the site for its file again") from error
    return site


def name_problem(name: str) -> str | None:
    """Return what is wrong with a site's name, or None. A name may become a file's name."""
    if NAME.fullmatch(name):
        return None
    return f"name: use 1 to {MAX_NAME} lower-case letters, digits and hyphens, no hyphen first"


def _word(number: int) -> str:
    """Consonants of four bits and vowels of two, the highest first."""
    letters = (
        _CONSONANTS[number >> 12 & 15],
        _VOWELS[number >> 10 & 3],
        _CONSONANTS[number >> 6 & 15],
        _VOWELS[number >> 4 & 3],
        _CONSONANTS[number & 15],
    )
    return "".join(letters)


def _statement(name: str, identity: bytes, transport: bytes) -> tuple[str, int, str, bytes, bytes]:
    return ("site", FORMAT, name, identity, transport)


def _parse_fields(text: str, source: str) -> dict[str, str]:
    lines = text.strip().splitlines()
    if len(text) > MAX_TEXT or not lines or lines[0].strip() != _TITLE:
        raise OperatorError(f"{source}: not a site's public file; its first line is {_TITLE!r}")
    fields: dict[str, str] = {}
    key = ""
    for line in lines[1:]:
        if line[:1].isspace() and key:
            fields[key] += line.strip()
            continue
        key, colon, value = line.partition(":")
        if not colon or key in fields:
            raise OperatorError(f"{source}: a line is repeated or has no 'field: value'")
        fields[key] = value.strip()
    expected = ["name", "identity", "transport", "signature"]
    if list(fields) != expected:
        raise OperatorError(f"{source}: must hold the fields {', '.join(expected)} in this order")
    return fields


def _parse_base64(fields: dict[str, str], key: str, source: str) -> bytes:
    try:
        return base64.b64decode(fields[key], validate=True)
    except (binascii.Error, ValueError) as error:
        raise OperatorError(
            f"{source}: {key}: not base64; ask the site to send it again"
        ) from error
