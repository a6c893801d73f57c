"""Everything that travels between the server and a site, with its sizes.

A message is a tagged tuple in the canonical codec. The steps of a private sum are carried as the
bytes of :mod:`fedward_common.secagg.messages`; this module adds the study around them: who is
there, what is proposed, where a site stands, and which sums have been published. Sizes are bounded
before anything is parsed; unknown tags and fields are refused.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar, get_type_hints

from fedward_common.codec import Value, decode, encode
from fedward_common.errors import PeerError

PROTOCOL_VERSION = 1

MAX_MESSAGE_BYTES = 1 << 29
"""Largest message of all: catching up on sums of 10^7 parameters."""

MAX_SUMS = 16
"""Published sums in one message: a site further behind asks again."""

MAX_CHUNK_BYTES = 1 << 22
"""Bytes of a masked addend in one message of an audit's evidence."""

MAX_SHARE_BYTES = 1 << 16
"""Step 1 of the next e, riding on an unmasking: as long as any such message may be."""

MAX_ANSWER_BYTES = 4096 + 256
"""A witness's signed answer about one member."""

MAX_TEXT = 500
"""Longest text field."""

MAX_NUMBER = 2**31 - 1
"""Largest number: what a database column holds, and far more attempts than any plan allows."""

_MOST_BYTES = {
    ("evidence", "data"): MAX_CHUNK_BYTES,
    ("step-reply", "share"): MAX_SHARE_BYTES,
    ("witness-reply", "answers"): MAX_ANSWER_BYTES,
}
"""By tag and field, for those that are kept or passed on before anybody looks into them."""

M = TypeVar("M", bound="Message")


@dataclass(frozen=True)
class Message:
    """Base: a frozen dataclass of codec values with a tag of its own."""

    TAG: ClassVar[str] = ""

    def encode(self) -> bytes:
        """The canonical bytes."""
        values: tuple[Value, ...] = tuple(getattr(self, field.name) for field in fields(self))
        return encode((self.TAG, *values))


@dataclass(frozen=True)
class Hello(Message):
    """Server: who are you? The nonce is 32 fresh bytes."""

    TAG: ClassVar[str] = "hello"
    nonce: bytes


@dataclass(frozen=True)
class HelloReply(Message):
    """Site: my name, versions, and my identity's signature over ('hello', nonce, name)."""

    TAG: ClassVar[str] = "hello-reply"
    name: str
    protocol: int
    package: str
    signature: bytes


@dataclass(frozen=True)
class Propose(Message):
    """Server: the plan's canonical bytes and the coordinator's signature over H(plan)."""

    TAG: ClassVar[str] = "propose"
    plan: bytes
    signature: bytes


@dataclass(frozen=True)
class ProposeReply(Message):
    """Site: its signed approval, or empty bytes while its operator has not approved."""

    TAG: ClassVar[str] = "propose-reply"
    approval: bytes


@dataclass(frozen=True)
class Begin(Message):
    """Server: the approvals of all roster members, in roster order."""

    TAG: ClassVar[str] = "begin"
    plan_digest: bytes
    approvals: tuple[bytes, ...]


@dataclass(frozen=True)
class Publish(Message):
    """Server: published sums from ``position`` on, each raw little-endian uint32.

    With the last sum of a study comes the ``transcript`` of its attempt (A2); else it is empty.
    """

    TAG: ClassVar[str] = "publish"
    study: bytes
    position: int
    sums: tuple[bytes, ...]
    transcript: bytes = b""


@dataclass(frozen=True)
class Standing(Message):
    """Site: how many published sums of the study it has folded in.

    ``wish`` > 0 asks for the evidence of that sum, counted from 1 (A3.5).
    """

    TAG: ClassVar[str] = "standing"
    study: bytes
    position: int
    wish: int = 0


@dataclass(frozen=True)
class ShareOrder(Message):
    """Server: A3.1 for this e."""

    TAG: ClassVar[str] = "share"
    study: bytes
    e: int


@dataclass(frozen=True)
class MaskOrder(Message):
    """Server: A3.2, a ``MaskRequest``, with the sum that the site has not seen yet, if any."""

    TAG: ClassVar[str] = "mask"
    study: bytes
    e: int
    position: int
    sums: tuple[bytes, ...]
    request: bytes


@dataclass(frozen=True)
class AgreeOrder(Message):
    """Server: A3.3, an ``AgreeRequest``."""

    TAG: ClassVar[str] = "agree"
    study: bytes
    e: int
    request: bytes


@dataclass(frozen=True)
class UnmaskOrder(Message):
    """Server: A3.4, an ``UnmaskRequest``; ``next_e`` > 0 asks for step 1 of that e as well."""

    TAG: ClassVar[str] = "unmask"
    study: bytes
    e: int
    request: bytes
    next_e: int


@dataclass(frozen=True)
class StepReply(Message):
    """Site: the encoded reply to a step, and step 1 of the next e if it was asked for.

    ``wish`` > 0, with a masked addend, asks for the evidence of that sum, counted from 1 (A3.5).
    """

    TAG: ClassVar[str] = "step-reply"
    reply: bytes
    share: bytes
    wish: int = 0


@dataclass(frozen=True)
class EvidenceOrder(Message):
    """Server: what proves sum ``number``, counted from 1, to a site that wished for it (A3.5).

    The first one holds the ``transcript``; each brings the bytes of the masked addend of site
    ``index`` from ``offset`` on, at most MAX_CHUNK_BYTES, in roster order.
    """

    TAG: ClassVar[str] = "evidence"
    study: bytes
    number: int
    transcript: bytes
    index: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class EvidenceReply(Message):
    """Site: it has taken this piece of evidence."""

    TAG: ClassVar[str] = "evidence-reply"
    study: bytes
    number: int


@dataclass(frozen=True)
class WitnessesNeeded(Message):
    """Site: a new process of mine serves no step before members have said what they saw (B6).

    ``nonce`` is fresh for the process: an answer over it cannot be an old one.
    """

    TAG: ClassVar[str] = "witnesses-needed"
    study: bytes
    nonce: bytes


@dataclass(frozen=True)
class WitnessOrder(Message):
    """Server: which ledger head have you last seen of those who ask?

    ``nonces`` stand in roster order, empty for a member that does not ask.
    """

    TAG: ClassVar[str] = "witness"
    study: bytes
    nonces: tuple[bytes, ...]


@dataclass(frozen=True)
class WitnessReply(Message):
    """Site: its signed answers in the order of the nonces, empty where there was none."""

    TAG: ClassVar[str] = "witness-reply"
    study: bytes
    answers: tuple[bytes, ...]


@dataclass(frozen=True)
class Witnessed(Message):
    """Server: the answers to one site's nonce, in roster order, empty for who gave none.

    The site answers with its :class:`Standing`, or again with what it needs.
    """

    TAG: ClassVar[str] = "witnessed"
    study: bytes
    answers: tuple[bytes, ...]


@dataclass(frozen=True)
class Refusal(Message):
    """Either side: no, by kind and one line that never depends on patients' data."""

    TAG: ClassVar[str] = "refusal"
    kind: str
    reason: str


ORDERS: tuple[type[Message], ...] = (
    Hello,
    Propose,
    Begin,
    Publish,
    ShareOrder,
    MaskOrder,
    AgreeOrder,
    UnmaskOrder,
    EvidenceOrder,
    WitnessOrder,
    Witnessed,
)
"""What a site accepts."""

REPLIES: tuple[type[Message], ...] = (
    HelloReply,
    ProposeReply,
    Standing,
    StepReply,
    EvidenceReply,
    WitnessesNeeded,
    WitnessReply,
    Refusal,
)
"""What the server accepts."""


def decode_message(data: bytes, allowed: tuple[type[Message], ...]) -> Message:
    """Decode one message whose type is among ``allowed``.

    Raises:
        PeerError: too long, not canonical, an unknown tag, a wrong number or type of fields.
    """
    match decode(data, max_bytes=MAX_MESSAGE_BYTES):
        case (str(tag), *values):
            for kind in allowed:
                if tag == kind.TAG:
                    return _build(kind, values)
            raise PeerError("a message of this type is not accepted here")
        case _:
            raise PeerError("a message is a tagged tuple")


def _build(kind: type[M], values: list[Any]) -> M:
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    if len(values) != len(names):
        raise PeerError(f"{kind.TAG}: {len(values)} fields instead of {len(names)}")
    for name, value in zip(names, values, strict=True):
        _check(kind.TAG, name, hints[name], value)
    return kind(*values)


def _check(tag: str, name: str, hint: Any, value: Value) -> None:
    if hint == tuple[bytes, ...]:
        good = isinstance(value, tuple) and all(isinstance(item, bytes) for item in value)
    else:
        good = type(value) is hint
    if not good:
        raise PeerError(f"{tag}: field {name} has a wrong type")
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise PeerError(f"{tag}: field {name} is longer than {MAX_TEXT} characters")
    if isinstance(value, int) and not 0 <= value <= MAX_NUMBER:
        raise PeerError(f"{tag}: field {name} is not within 0 and {MAX_NUMBER}")
    most, items = _MOST_BYTES.get((tag, name)), value if isinstance(value, tuple) else (value,)
    if most and any(isinstance(item, bytes) and len(item) > most for item in items):
        raise PeerError(f"{tag}: field {name} holds more than {most} bytes at once")
    if name == "sums" and isinstance(value, tuple) and len(value) > MAX_SUMS:
        raise PeerError(f"{tag}: more than {MAX_SUMS} sums")
