"""No message crashes a decoder or a machine, changes a state it may not, or passes for another's.

FEDWARD_FUZZ=1000000 feeds a million messages; without it as many as fit into a few seconds. The
stateful tests drive one machine through long random histories beside a model of A3 and A6.
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from tests.fuzzing import FuzzError, Target, all_targets, fuzz, snapshot
from tests.secagg_world import PUBLIC_INPUT, QUERY, Round, World

from fedward_common.errors import PeerError
from fedward_common.randomness import os_random
from fedward_common.secagg.closing import RoundAbortedError
from fedward_common.secagg.context import (
    RoundContext,
    SignedAgreement,
    SignedHash,
    addend_hash,
    sign_addend,
    sign_agreement,
    survivors_digest,
)
from fedward_common.secagg.messages import (
    AgreeRequest,
    MaskRequest,
    ShareMessage,
    UnmaskReply,
    UnmaskRequest,
)
from fedward_common.secagg.server import (
    CollectingAddends,
    CollectingShares,
    Summed,
)
from fedward_common.secagg.site import Agreed, Masked, Sharing, Unmasked
from fedward_common.secagg.site_store import decode_state, encode_state

WANTED = int(os.environ.get("FEDWARD_FUZZ", "0"))
SECONDS = None if WANTED else 8.0
N = 5
T_MIN = 4  # also t, as floor(2 * 5 / 3) + 1
ADDENDS = [np.arange(3, dtype=np.uint32) * 11 + i for i in range(N)]
WORLD = World.make(N, os_random, c=1)
sites = st.integers(0, N - 1)
EVERYONE = list(range(N))
enough = st.just(EVERYONE) | sites.map(lambda absent: [i for i in EVERYONE if i != absent])
subsets = enough | st.sets(sites).map(sorted)
machine_settings = settings(
    max_examples=40, stateful_step_count=20, deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip


def test_every_message_is_refused_with_its_type_or_genuine():
    targets = all_targets()
    tally = fuzz(targets, WANTED or 200_000, seed=WANTED, seconds=SECONDS)
    assert tally.total >= WANTED
    for target in targets:
        assert tally.taken[target.name], f"{target.name} took nothing: its corpus is not valid"
        assert tally.refused[target.name] > tally.taken[target.name]


def _crashes(data):
    return {b"T": 1}[data[:1]] > 0


def _wrong_type(data):
    raise ValueError(data)


@pytest.mark.parametrize("feed", [_crashes, _wrong_type])
def test_a_crash_would_be_found(feed):
    corpus = [ShareMessage.decode(_shares(0)).encode()]
    with pytest.raises(FuzzError):
        fuzz([Target("broken", corpus, feed)], 100, seed=0)


@pytest.mark.parametrize("name", ["total", "hashes"])
def test_a_change_in_place_would_be_found(name):
    attempt = Round(WORLD, ADDENDS)
    server, requests = attempt.mask_requests()
    server = server.receive(0, attempt.mask_one(0, requests[0]))
    before = snapshot(server)
    if name == "total":
        server.total[0] += 1
    else:
        server.hashes.clear()
    assert snapshot(server) != before


def _shares(i):
    attempt = Round(WORLD, ADDENDS)
    attempt.share()
    return attempt.wire["share", i]


IN_TURN = {Sharing: MaskRequest, Masked: AgreeRequest, Agreed: UnmaskRequest}


class SiteUnderAttack(RuleBasedStateMachine):
    """Site 0 against a server that holds every other member's keys and asks what it likes.

    The model says which requests A3.2 to A3.4 allow; the site must take exactly those.
    """

    def __init__(self):
        super().__init__()
        self.attempt = Round(WORLD, ADDENDS)
        self.attempt.share()
        self.state = self.attempt.sharing[0]
        self.u1 = self.u2 = ()
        self.hashes = ()
        self.ctx = b""
        self.own = None
        self.served = {}
        self.replies = {}

    def deliver(self, request, kind, *, allowed):
        """Offer a request: taken if ``allowed``, else refused, or there is nothing to offer it."""
        before = encode_state(self.state)
        received = kind.decode(request.encode())
        if kind is not IN_TURN.get(type(self.state)):
            assert not allowed
            return
        try:
            following, reply = self.step(received)
        except PeerError:
            assert not allowed
            assert encode_state(self.state) == before
            return
        assert allowed
        assert kind not in self.replies, "a step was answered twice"
        self.state, self.served[kind], self.replies[kind] = following, request.encode(), reply

    def step(self, request):
        match self.state:
            case Sharing():
                checked = self.state.check(request, QUERY, 0, PUBLIC_INPUT)
                return self.state.mask(checked, ADDENDS[0])
            case Masked():
                return self.state.agree(request)
            case Agreed():
                return self.state.unmask(request)
        raise AssertionError("a finished site went on")

    @rule(u1=subsets, e=st.sampled_from([1, 1, 1, 2]), forged=st.integers(0, N * 3))
    def ask_addend(self, u1, e, forged):
        records = {i: ShareMessage.decode(self.attempt.wire["share", i]) for i in u1}
        keys = [records[i].key for i in u1]
        if forged in u1:
            at = u1.index(forged)
            keys[at] = replace(keys[at], A=bytes(31) + b"\x09")
        sealed = tuple(records[i].ciphertexts[0] for i in u1)
        request = MaskRequest(e, tuple(keys), sealed)
        genuine = e == 1 and 0 in u1 and len(u1) >= T_MIN and forged not in u1
        self.deliver(
            request,
            MaskRequest,
            allowed=genuine and isinstance(self.state, Sharing),
        )
        if self.served.get(MaskRequest) == request.encode() and not self.ctx:
            self.u1 = tuple(u1)
            context = RoundContext(1, QUERY, 0, PUBLIC_INPUT)
            self.ctx = context.digest(WORLD.group, request.keys)
            self.own = SignedHash(
                0,
                addend_hash(self.replies[MaskRequest].y),
                self.replies[MaskRequest].signature,
            )

    @rule(u2=subsets, e=st.sampled_from([1, 1, 1, 2]), lie=st.booleans(), other=st.binary())
    def ask_agreement(self, u2, e, lie, other):
        hashes = [
            sign_addend(WORLD.keys[i].identity, self.ctx, i, addend_hash(other + bytes([i])))
            for i in u2
        ]
        if 0 in u2 and self.own and not lie:
            hashes[0] = self.own
        request = AgreeRequest(e, tuple(hashes))
        honest = 0 in u2 and self.own and not lie
        within = set(u2) <= set(self.u1) and len(u2) >= T_MIN
        self.deliver(
            request,
            AgreeRequest,
            allowed=e == 1 and honest and within and isinstance(self.state, Masked),
        )
        if self.served.get(AgreeRequest) == request.encode():
            self.u2, self.hashes = tuple(u2), request.hashes

    @rule(signers=subsets, e=st.sampled_from([1, 1, 1, 2]), about=st.booleans())
    def ask_shares(self, signers, e, about):
        survivors = survivors_digest(self.hashes) if about else bytes(32)
        signed = [sign_agreement(WORLD.keys[i].identity, self.ctx, i, survivors) for i in signers]
        request = UnmaskRequest(e, tuple(SignedAgreement(s.index, s.signature) for s in signed))
        agreed = set(signers) <= set(self.u2) and len(signers) >= T_MIN
        self.deliver(
            request,
            UnmaskRequest,
            allowed=e == 1 and about and agreed and isinstance(self.state, Agreed),
        )
        reply = self.replies.get(UnmaskRequest)
        if reply:  # of the pair that it holds of itself, and so of every peer, exactly one
            own = self.attempt.sharing[0].own
            shares = dict(zip(self.u1, reply.shares, strict=True))
            assert shares[0] == own.b.reveal()
            assert own.a.reveal() not in reply.shares

    @rule()
    def ask_well(self):
        """The request that is in turn, so that a history gets further than its first step."""
        match self.state:
            case Sharing():
                self.ask_addend(EVERYONE, 1, N)
            case Masked():
                self.ask_agreement(list(self.u1), 1, lie=False, other=b"")
            case Agreed():
                self.ask_shares(list(self.u2), 1, about=True)

    @rule()
    def crash(self):
        self.state = decode_state(encode_state(self.state), WORLD.group, WORLD.keys[0])


class ServerUnderAttack(RuleBasedStateMachine):
    """The server against sites that repeat, lie, speak for others or fall silent.

    Whatever happens, the round ends in the exact sum of the survivors' addends or in an abort.
    """

    def __init__(self):
        super().__init__()
        self.attempt = Round(WORLD, ADDENDS)
        self.attempt.share()
        self.state = CollectingShares(WORLD.group, 1)
        wire = self.attempt.wire
        self.answers = {i: ShareMessage.decode(wire["share", i]) for i in range(N)}
        self.heard, self.lied, self.u2 = set(), set(), set()

    def receive(self, index, message):
        """The next state, or None for a refusal, which must change nothing."""
        before = snapshot(self.state)
        try:
            return self.state.receive(index, message)
        except PeerError:
            return None
        finally:
            assert snapshot(self.state) == before

    @rule(among=subsets)
    def deliver(self, among):
        for i in self.answers.keys() & set(among):
            self.deliver_one(i)

    def deliver_one(self, i):
        """A site's own message, for the first time or again."""
        following = self.receive(i, self.answers[i])
        if i in self.lied:
            assert following is None, "a second, different message was taken"
            return
        assert (following is self.state) == (i in self.heard)
        self.state = following
        self.heard.add(i)

    @rule(i=sites, j=sites)
    def speak_for_another(self, i, j):
        if i in self.answers and i != j:
            assert self.receive(j, self.answers[i]) is None

    @rule(i=sites)
    def come_from_another_attempt(self, i):
        if i in self.answers:
            assert self.receive(i, replace(self.answers[i], e=2)) is None

    @rule(i=sites, position=st.integers(0, 63))
    def break_the_signature(self, i, position):
        message = self.answers.get(i)
        if message is None or isinstance(message, UnmaskReply):
            return
        signed = message.key if isinstance(message, ShareMessage) else message
        broken = bytearray(signed.signature)
        broken[position] ^= 1
        changed = replace(signed, signature=bytes(broken))
        if isinstance(message, ShareMessage):
            changed = replace(message, key=changed)
        assert self.receive(i, changed) is None

    @rule(i=sites)
    def lie_about_shares(self, i):
        message = self.answers.get(i)
        if not isinstance(message, UnmaskReply) or i in self.heard:
            return
        wrong = tuple(share[:-1] + bytes([share[-1] ^ 1]) for share in message.shares)
        following = self.receive(i, replace(message, shares=wrong))
        assert following is not None, "shares cannot be checked before the step is closed"
        self.state = following
        self.heard.add(i)
        self.lied.add(i)

    @precondition(lambda self: self.answers)
    @rule()
    def close(self):
        about = (QUERY, 0, PUBLIC_INPUT, ADDENDS[0].size)
        first = isinstance(self.state, CollectingShares)
        collecting_addends = isinstance(self.state, CollectingAddends)
        try:
            following, requests = self.state.close(*about) if first else self.state.close()
        except RoundAbortedError:
            assert len(self.heard - self.lied) < T_MIN
            self.answers = {}
            return
        assert len(self.heard - self.lied) >= T_MIN
        if collecting_addends:
            self.u2 = self.heard
        if isinstance(following, Summed):
            assert following.transcript.survivors == tuple(sorted(self.u2))
            expected = sum(ADDENDS[i].astype(np.int64) for i in self.u2)
            assert np.array_equal(following.total, expected)
        assert set(requests) == (set() if isinstance(following, Summed) else self.heard)
        self.state = following
        self.answers = {i: self.answer(i, request) for i, request in requests.items()}
        self.heard, self.lied = set(), set()

    @precondition(lambda self: self.answers)
    @rule()
    def go_well(self):
        """A step without incident, so that a history gets further than its first step."""
        self.deliver(EVERYONE)
        self.close()

    def answer(self, i, request):
        attempt = self.attempt
        match request:
            case MaskRequest():
                return attempt.mask_one(i, request)
            case AgreeRequest():
                attempt.agreed[i], message = attempt.masked[i].agree(request)
            case UnmaskRequest():
                attempt.unmasked[i], message = attempt.agreed[i].unmask(request)
        return message


def test_the_model_of_the_site_knows_the_whole_round():
    site = SiteUnderAttack()
    for kind in (Masked, Agreed, Unmasked):
        site.ask_well()
        assert isinstance(site.state, kind)
        site.crash()


@pytest.mark.parametrize("liars", [[], [2], [1, 2]])
def test_the_model_of_the_server_knows_the_whole_round(liars):
    server = ServerUnderAttack()
    for _ in range(3):
        server.deliver(EVERYONE)
        server.close()
    for i in liars:
        server.lie_about_shares(i)
    server.deliver(EVERYONE)
    server.close()
    assert isinstance(server.state, Summed) == (N - len(liars) >= T_MIN)


TestSite = SiteUnderAttack.TestCase
TestSite.settings = machine_settings
TestServer = ServerUnderAttack.TestCase
TestServer.settings = machine_settings
