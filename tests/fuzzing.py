"""The fuzz target: decoders, a site's and the server's machine, stored states, transcripts.

``fuzz`` feeds messages and fails on anything but the two outcomes that are allowed: a typed
refusal that changed nothing, or an acceptance in which every signed part is genuine.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tests.mutations import HOSTILE, Mutator
from tests.secagg_world import PUBLIC_INPUT, QUERY, Round, World

from fedward_common.errors import IntegrityError, PeerError
from fedward_common.identity import Approval, approve
from fedward_common.messages import (
    ORDERS,
    REPLIES,
    EvidenceOrder,
    EvidenceReply,
    MaskOrder,
    Publish,
    Refusal,
    Standing,
    StepReply,
    UnmaskOrder,
    decode_message,
)
from fedward_common.randomness import os_random
from fedward_common.secagg.context import RoundContext
from fedward_common.secagg.messages import (
    Agreement,
    AgreeRequest,
    MaskedAddend,
    MaskRequest,
    ShareMessage,
    UnmaskReply,
    UnmaskRequest,
)
from fedward_common.secagg.server import CollectingShares, ServerState, Summed
from fedward_common.secagg.site import Agreed, Masked, Sharing, SiteState
from fedward_common.secagg.site_store import decode_state, encode_state
from fedward_common.secagg.transcript import Transcript, verify_transcript
from fedward_common.secret import SecretBytes

DIMENSION = 4
SITES = 4
SILENT = 3
CONTEXT = RoundContext(1, QUERY, 0, PUBLIC_INPUT)
ADDENDS = [np.arange(DIMENSION, dtype=np.uint32) * 7 + i for i in range(SITES)]

Feed = Callable[[bytes], bool]


class FuzzError(AssertionError):
    """A message had an effect that no message may have."""


@dataclass(frozen=True)
class Target:
    """What messages are fed to. ``feed`` returns whether it took one; PeerError refuses it."""

    name: str
    corpus: Sequence[bytes]
    feed: Feed
    refusal: type[Exception] = PeerError


@dataclass
class Tally:
    """What a campaign saw: by target, how many messages were taken and how many refused."""

    taken: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.taken.total() + self.refused.total()


def fuzz(targets: Sequence[Target], count: int, seed: int, seconds: float | None = None) -> Tally:
    """Feed up to ``count`` messages, or as many as ``seconds`` allow, to all targets in turn."""
    corpus = [data for target in targets for data in target.corpus]
    starts = np.cumsum([0, *(len(target.corpus) for target in targets)]).tolist()
    mutator = Mutator(corpus, seed)
    tally = Tally()
    deadline = None if seconds is None else time.monotonic() + seconds
    for target in targets:
        for data in (*HOSTILE, *corpus):
            _feed(target, data, tally)
    while tally.total < count and (deadline is None or time.monotonic() < deadline):
        for target, start in zip(targets, starts, strict=False):
            own = range(start, start + len(target.corpus))
            _feed(target, mutator.message(own), tally)
    return tally


def _feed(target: Target, data: bytes, tally: Tally) -> None:
    try:
        counter = tally.taken if target.feed(data) else tally.refused
    except target.refusal:
        counter = tally.refused
    except Exception as error:
        raise FuzzError(f"{target.name}: {error!r} on {data[:4000].hex()}") from error
    counter[target.name] += 1


def all_targets() -> list[Target]:
    """One round of four sites, the last silent after A3.1, taken apart into targets."""
    world = World.make(SITES, os_random)
    attempt = Round(world, ADDENDS, drop={SILENT: 2})
    summed = attempt.run()
    genuine = Genuine(attempt)
    return [
        *_decoders(attempt, summed),
        *_site_targets(attempt, genuine),
        *_server_targets(attempt, genuine),
        *_store_targets(attempt),
        _transcript_target(attempt, summed),
    ]


class Genuine:
    """What the members of the round really signed: nothing else may be accepted as theirs."""

    def __init__(self, attempt: Round) -> None:
        self.parts: set[Any] = set()
        for request in attempt.mask_asked.values():
            self.parts |= set(request.keys)
        for request in attempt.agree_asked.values():
            self.parts |= set(request.hashes)
        for request in attempt.unmask_asked.values():
            self.parts |= set(request.agreements)

    def check(self, items: Sequence[Any]) -> None:
        """Fail on a signed item that no member signed."""
        if not set(items) <= self.parts:
            raise FuzzError("a forged part was accepted")


def _decoders(attempt: Round, summed: Summed) -> list[Target]:
    wire = {step: data for (step, _), data in attempt.wire.items()}
    asked = [attempt.mask_asked[0], attempt.agree_asked[0], attempt.unmask_asked[0]]
    identity = attempt.world.keys[0].identity
    approval = approve(identity, bytes(32), bytes(range(32)))
    orders = (
        MaskOrder(bytes(16), 1, 0, (bytes(16),), b"request"),
        UnmaskOrder(bytes(16), 1, b"request", 2),
        Publish(bytes(16), 0, (bytes(16), bytes(16)), b"transcript"),
        EvidenceOrder(bytes(16), 1, b"transcript", 0, 0, b"data"),
    )
    replies = (
        StepReply(b"reply", b"share", 1),
        Standing(bytes(16), 2, 1),
        EvidenceReply(bytes(16), 1),
        Refusal("policy", "no"),
    )
    kinds: dict[Any, tuple[bytes, ...]] = {
        ShareMessage.decode: (wire["share"],),
        MaskRequest.decode: (asked[0].encode(),),
        _decode_addend: (wire["addend"],),
        AgreeRequest.decode: (asked[1].encode(),),
        Agreement.decode: (wire["agree"],),
        UnmaskRequest.decode: (asked[2].encode(),),
        UnmaskReply.decode: (wire["unmask"],),
        Transcript.decode: (summed.transcript.encode(),),
        Approval.decode: (approval.encode(),),
        _decode_order: tuple(order.encode() for order in orders),
        _decode_reply: tuple(reply.encode() for reply in replies),
    }
    return [
        Target(f"decoder {kind.__qualname__}", corpus, _canonical(kind))
        for kind, corpus in kinds.items()
    ]


def _decode_addend(data: bytes) -> MaskedAddend:
    return MaskedAddend.decode(data, DIMENSION)


def _decode_order(data: bytes) -> Any:
    return decode_message(data, ORDERS)


def _decode_reply(data: bytes) -> Any:
    return decode_message(data, REPLIES)


def _canonical(decode: Callable[[bytes], Any]) -> Feed:
    def feed(data: bytes) -> bool:
        if decode(data).encode() != data:
            raise FuzzError("two encodings of one message")
        return True

    return feed


def _site_targets(attempt: Round, genuine: Genuine) -> list[Target]:
    """Every state of site 0, each offered every kind of request."""
    states = (attempt.sharing[0], attempt.masked[0], attempt.agreed[0])
    requests = (attempt.mask_asked[0], attempt.agree_asked[0], attempt.unmask_asked[0])
    corpus = [request.encode() for request in requests]
    return [
        Target(f"site {type(state).__name__}", corpus, _site_feed(state, genuine))
        for state in states
    ]


def _site_feed(state: SiteState, genuine: Genuine) -> Feed:
    before = encode_state(state)
    decoders = (MaskRequest.decode, AgreeRequest.decode, UnmaskRequest.decode)

    def feed(data: bytes) -> bool:
        try:
            return _advance(state, _first(decoders, data), genuine)
        finally:
            if encode_state(state) != before:
                raise FuzzError("a message changed a site's state")

    return feed


def _advance(state: SiteState, request: Any, genuine: Genuine) -> bool:
    match state, request:
        case Sharing(), MaskRequest():
            checked = state.check(request, QUERY, 0, PUBLIC_INPUT)
            genuine.check(request.keys)
            state.mask(checked, ADDENDS[0])
        case Masked(), AgreeRequest():
            state.agree(request)
            genuine.check(request.hashes)
        case Agreed(), UnmaskRequest():
            state.unmask(request)
            genuine.check(request.agreements)
        case _:
            return False
    return True


def _server_targets(attempt: Round, genuine: Genuine) -> list[Target]:
    """Every collecting state, one site still awaited, fed in the name of each site."""
    steps = ("share", "addend", "agree", "unmask")
    decoders = (ShareMessage.decode, _decode_addend, Agreement.decode, UnmaskReply.decode)
    state: Any = CollectingShares(attempt.world.group, 1)
    targets = []
    for step, decode in zip(steps, decoders, strict=True):
        heard = {i: data for (kind, i), data in sorted(attempt.wire.items()) if kind == step}
        for i, data in heard.items():
            if i:
                state = state.receive(i, decode(data))
        feed = _server_feed(state, decode, genuine)
        targets.append(Target(f"server {type(state).__name__}", list(heard.values()), feed))
        state = state.receive(0, decode(heard[0]))
        about = (QUERY, 0, PUBLIC_INPUT, DIMENSION) if step == "share" else ()
        state, _ = state.close(*about)
    return targets


def _server_feed(state: Any, decode: Callable[[bytes], Any], genuine: Genuine) -> Feed:
    before = snapshot(state)

    def feed(data: bytes) -> bool:
        taken = False
        try:
            message = decode(data)
            for index in range(SITES + 1):
                taken |= _receive(state, index, message, genuine)
        finally:
            if snapshot(state) != before:
                raise FuzzError("a message changed the server's state")
        return taken

    return feed


def _receive(state: Any, index: int, message: Any, genuine: Genuine) -> bool:
    try:
        following = state.receive(index, message)
    except PeerError:
        return False
    if state.waiting - following.waiting - {0}:
        raise FuzzError("a message was taken for another site's")
    if isinstance(message, ShareMessage):
        genuine.check([message.key])
    for name in ("hashes", "agreements"):
        held = getattr(following, name, {})
        genuine.check(list(held.values() if isinstance(held, Mapping) else held))
    return True


def snapshot(state: ServerState) -> tuple[Any, ...]:
    """A copy of a server's state that equals another only if nothing in it changed."""
    return tuple(_frozen(getattr(state, item.name)) for item in dataclasses.fields(state))


def _frozen(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, Mapping):
        return tuple(sorted(value.items(), key=lambda item: item[0]))
    return value


def _store_targets(attempt: Round) -> list[Target]:
    world = attempt.world
    states = (attempt.sharing[0], attempt.masked[0], attempt.agreed[0], attempt.unmasked[0])

    def feed(data: bytes) -> bool:
        restored = decode_state(SecretBytes(data), world.group, world.keys[0])
        if encode_state(restored).reveal() != data:
            raise FuzzError("two encodings of one state")
        return True

    corpus = [encode_state(state).reveal() for state in states]
    return [Target("stored state", corpus, feed, IntegrityError)]


def _transcript_target(attempt: Round, summed: Summed) -> Target:
    group = attempt.world.group

    def feed(data: bytes) -> bool:
        total = verify_transcript(group, CONTEXT, Transcript.decode(data), attempt.ys)
        if not np.array_equal(total, summed.total):
            raise FuzzError("a false sum was verified")
        return True

    return Target("transcript", [summed.transcript.encode()], feed)


def _first(decoders: Sequence[Callable[[bytes], Any]], data: bytes) -> Any:
    """Read the message as the one kind that it is."""
    for decode in decoders[:-1]:
        try:
            return decode(data)
        except PeerError:
            continue
    return decoders[-1](data)
