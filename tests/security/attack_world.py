"""A malicious server at the door of real sites: real folders, real bytes, and any order it likes.

Honest steps go through the production server machines; an attack replaces what it wants on the way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
from tests.world import MemorySites

from fedward_common.identity import Approval, approved_digest
from fedward_common.membership import group_of
from fedward_common.messages import (
    REPLIES,
    AgreeOrder,
    Begin,
    MaskOrder,
    Message,
    Propose,
    ProposeReply,
    Refusal,
    ShareOrder,
    Standing,
    StepReply,
    UnmaskOrder,
    decode_message,
)
from fedward_common.progress import advance, begin
from fedward_common.secagg.messages import (
    Agreement,
    AgreeRequest,
    MaskedAddend,
    MaskRequest,
    ShareMessage,
    UnmaskReply,
    UnmaskRequest,
)
from fedward_common.secagg.ring import RingParameters
from fedward_common.secagg.server import (
    CollectingAddends,
    CollectingAgreements,
    CollectingReveals,
    CollectingShares,
    Summed,
)


class HostileServer:
    """Begins the study of ``sites`` as an honest server would; what follows is up to the test.

    Sites go by roster index. ``seen`` holds every masked addend that left a site, by (e, index).
    """

    def __init__(self, sites: MemorySites) -> None:
        self.sites = sites
        self.names = sites.world.names
        self.definition = sites.world.study
        signed = sites.world.signed
        plan = signed.open()
        proposal = Propose(signed.canonical, signed.signature)
        approvals = []
        for i in range(len(self.names)):
            reply = self.ask(i, proposal)
            assert isinstance(reply, ProposeReply)
            approvals.append(reply.approval)
        order = Begin(plan.digest, tuple(approvals))
        for i in range(len(self.names)):
            self.ask(i, order)
        for i in range(len(self.names)):  # all have begun, and can bear witness to each other
            assert isinstance(self.ask(i, order), Standing)
        opened = tuple(Approval.decode(data) for data in approvals)
        self.study = approved_digest(plan.digest, opened)
        self.group = group_of(plan, opened, self.study)
        self.progress = begin(self.definition)
        self.sums: tuple[bytes, ...] = ()
        self.seen: dict[tuple[int, int], bytes] = {}

    def ask(self, i: int, order: Message) -> Message:
        return decode_message(self.sites.ask(self.names[i], order.encode()), REPLIES)

    def answered(self, i: int, order: Message) -> StepReply:
        reply = self.ask(i, order)
        assert isinstance(reply, StepReply), reply
        return reply

    def refused(self, i: int, order: Message) -> Refusal:
        """The order is refused in one line, and nothing is spent."""
        before = self.sites.site(self.names[i]).ledger.head()
        reply = self.ask(i, order)
        assert isinstance(reply, Refusal), f"{type(order).__name__} was answered"
        assert "\n" not in reply.reason
        assert self.sites.site(self.names[i]).ledger.head() == before
        return reply

    @property
    def everyone(self) -> range:
        return range(len(self.names))

    def share(self, e: int, among: Collection[int] | None = None) -> CollectingShares:
        state = CollectingShares(self.group, e)
        for i in self.everyone if among is None else among:
            data = self.answered(i, ShareOrder(self.study, e)).reply
            state = state.receive(i, ShareMessage.decode(data))
        return state

    def mask_orders(
        self, shares: CollectingShares
    ) -> tuple[CollectingAddends, dict[int, MaskRequest]]:
        task, round_number = self.definition.at(self.progress.position)
        digest = self.progress.public_digest(task)
        return shares.close(task.name, round_number, digest, task.dimension)

    def mask_order(self, request: MaskRequest, sums: tuple[bytes, ...] | None = None) -> MaskOrder:
        known = self.sums if sums is None else sums
        return MaskOrder(self.study, request.e, 0, known, request.encode())

    def mask(
        self, state: CollectingAddends, orders: Mapping[int, MaskRequest]
    ) -> CollectingAddends:
        for i, request in orders.items():
            state = state.receive(i, self.addend(i, self.mask_order(request)))
        return state

    def addend(self, i: int, order: MaskOrder) -> MaskedAddend:
        task, _ = self.definition.at(self.progress.position)
        message = MaskedAddend.decode(self.answered(i, order).reply, task.dimension)
        self.seen[order.e, i] = message.y
        return message

    def agree_order(self, request: AgreeRequest) -> AgreeOrder:
        return AgreeOrder(self.study, request.e, request.encode())

    def agree(
        self, state: CollectingAgreements, requests: Mapping[int, AgreeRequest]
    ) -> CollectingAgreements:
        for i, request in requests.items():
            data = self.answered(i, self.agree_order(request)).reply
            state = state.receive(i, Agreement.decode(data))
        return state

    def unmask_order(self, request: UnmaskRequest, next_e: int = 0) -> UnmaskOrder:
        return UnmaskOrder(self.study, request.e, request.encode(), next_e)

    def unmask(
        self, state: CollectingReveals, requests: Mapping[int, UnmaskRequest]
    ) -> CollectingReveals:
        for i, request in requests.items():
            data = self.answered(i, self.unmask_order(request)).reply
            state = state.receive(i, UnmaskReply.decode(data))
        return state

    def run(self, e: int, among: Collection[int] | None = None) -> Summed:
        """One honest attempt with the sites of ``among``; the sum is not adopted yet."""
        masked = self.mask(*self.mask_orders(self.share(e, among)))
        agreed = self.agree(*masked.close())
        summed, _ = self.unmask(*agreed.close()).close()
        return summed

    def adopt(self, summed: Summed) -> None:
        """Go on to the next sum of the plan."""
        task, _ = self.definition.at(self.progress.position)
        ring = RingParameters(task.query.scale, task.query.ring_bound, task.dimension)
        self.progress = advance(self.definition, self.progress, ring.decode(summed.total))
        self.sums = (*self.sums, summed.total.tobytes())

    def debits(self, i: int) -> list[int]:
        return [entry.e for entry in self.sites.site(self.names[i]).ledger.entries()]


def without(request: MaskRequest, index: int) -> MaskRequest:
    """The same request as if site ``index`` had never sent its round key."""
    kept = [n for n, key in enumerate(request.keys) if key.index != index]
    return replace(
        request,
        keys=tuple(request.keys[n] for n in kept),
        ciphertexts=tuple(request.ciphertexts[n] for n in kept),
    )


def words(data: bytes) -> np.ndarray:
    """The ring elements of a masked addend."""
    return np.frombuffer(data, dtype="<u4")
