"""A group of sites and a server for tests: the real machines, every message as bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fedward_common.keys import encryption_public, new_key, signing_public
from fedward_common.randomness import RandomBytes
from fedward_common.secagg.messages import (
    Agreement,
    AgreeRequest,
    MaskedAddend,
    MaskRequest,
    ShareMessage,
    UnmaskReply,
    UnmaskRequest,
)
from fedward_common.secagg.parameters import Group, Member, SiteKeys, threshold
from fedward_common.secagg.server import (
    CollectingAddends,
    CollectingAgreements,
    CollectingReveals,
    CollectingShares,
    Summed,
)
from fedward_common.secagg.site import Agreed, Masked, Sharing, Unmasked, start

HEAD = (3, bytes(range(32)))
QUERY = "gradient"
PUBLIC_INPUT = hashlib.sha256(b"model").digest()


class SeededRandom:
    """A reproducible RandomBytes for tests: SHAKE-256 of a label and a counter."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.calls = 0

    def __call__(self, count: int, /) -> bytes:
        self.calls += 1
        return hashlib.shake_256(f"{self.label}/{self.calls}".encode()).digest(count)


@dataclass
class World:
    """A roster with its private keys."""

    group: Group
    keys: tuple[SiteKeys, ...]
    random: RandomBytes

    @classmethod
    def make(cls, n: int, random: RandomBytes, t_min: int | None = None, c: int = 0) -> World:
        keys = tuple(SiteKeys(i, new_key(random), new_key(random)) for i in range(n))
        members = tuple(
            Member(f"site-{k.index}", signing_public(k.identity), encryption_public(k.encryption))
            for k in keys
        )
        plan = hashlib.sha256(b"plan and approvals").digest()
        return cls(Group(members, t_min or max(3, threshold(n)), c, plan), keys, random)


@dataclass
class Round:
    """One attempt driven to any step; ``drop`` says at which step a site falls silent."""

    world: World
    addends: Sequence[npt.NDArray[np.uint32]]
    e: int = 1
    query: str = QUERY
    round_number: int = 0
    drop: dict[int, int] = field(default_factory=dict)
    sharing: dict[int, Sharing] = field(default_factory=dict)
    masked: dict[int, Masked] = field(default_factory=dict)
    agreed: dict[int, Agreed] = field(default_factory=dict)
    unmasked: dict[int, Unmasked] = field(default_factory=dict)
    mask_asked: dict[int, MaskRequest] = field(default_factory=dict)
    agree_asked: dict[int, AgreeRequest] = field(default_factory=dict)
    unmask_asked: dict[int, UnmaskRequest] = field(default_factory=dict)
    wire: dict[tuple[str, int], bytes] = field(default_factory=dict)
    ys: dict[int, bytes] = field(default_factory=dict)

    def speaking(self, among: Collection[int], step: int) -> list[int]:
        return [i for i in sorted(among) if self.drop.get(i, 9) > step]

    def share(self) -> CollectingShares:
        server = CollectingShares(self.world.group, self.e)
        for i in self.speaking(range(self.world.group.size), 1):
            self.sharing[i], message = start(
                self.world.group, self.world.keys[i], self.e, HEAD, self.world.random
            )
            self.wire["share", i] = message.encode()
            server = server.receive(i, ShareMessage.decode(self.wire["share", i]))
        return server

    def mask_requests(self) -> tuple[CollectingAddends, dict[int, MaskRequest]]:
        dimension = self.addends[0].size
        server, requests = self.share().close(
            self.query, self.round_number, PUBLIC_INPUT, dimension
        )
        self.mask_asked = {i: MaskRequest.decode(r.encode()) for i, r in requests.items()}
        return server, self.mask_asked

    def mask_one(self, i: int, request: MaskRequest) -> MaskedAddend:
        checked = self.sharing[i].check(request, self.query, self.round_number, PUBLIC_INPUT)
        self.masked[i], message = self.sharing[i].mask(checked, self.addends[i])
        self.wire["addend", i] = message.encode()
        return MaskedAddend.decode(self.wire["addend", i], self.addends[i].size)

    def agree_requests(self) -> tuple[CollectingAgreements, dict[int, AgreeRequest]]:
        server, requests = self.mask_requests()
        for i in self.speaking(requests, 2):
            message = self.mask_one(i, requests[i])
            server = server.receive(i, message)
            self.ys[i] = message.y
        following, asked = server.close()
        self.agree_asked = {i: AgreeRequest.decode(r.encode()) for i, r in asked.items()}
        return following, self.agree_asked

    def unmask_requests(self) -> tuple[CollectingReveals, dict[int, UnmaskRequest]]:
        server, requests = self.agree_requests()
        for i in self.speaking(requests, 3):
            self.agreed[i], message = self.masked[i].agree(requests[i])
            self.wire["agree", i] = message.encode()
            server = server.receive(i, Agreement.decode(self.wire["agree", i]))
        following, asked = server.close()
        self.unmask_asked = {i: UnmaskRequest.decode(r.encode()) for i, r in asked.items()}
        return following, self.unmask_asked

    def reveals(self) -> CollectingReveals:
        server, requests = self.unmask_requests()
        for i in self.speaking(requests, 4):
            self.unmasked[i], message = self.agreed[i].unmask(requests[i])
            self.wire["unmask", i] = message.encode()
            server = server.receive(i, UnmaskReply.decode(self.wire["unmask", i]))
        return server

    def run(self) -> Summed:
        state, requests = self.reveals().close()
        assert requests == {}
        return state
