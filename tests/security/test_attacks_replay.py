"""A7: replays of a finished round, attempt or plan, and a second request for one e."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
from tests.secagg_world import PUBLIC_INPUT, QUERY, Round, World
from tests.security.attack_world import HostileServer, without, words

from fedward_common.errors import PeerError
from fedward_common.messages import (
    REPLIES,
    MaskOrder,
    Refusal,
    ShareOrder,
    decode_message,
)
from fedward_common.randomness import os_random
from fedward_common.secagg.messages import (
    AgreeRequest,
    MaskedAddend,
    MaskRequest,
    UnmaskRequest,
)

N = 4
ADDENDS = [np.arange(8, dtype=np.uint32) + i for i in range(N)]


@pytest.fixture
def world():
    return World.make(N, os_random, c=1)


@pytest.fixture(params=["another attempt", "another plan"])
def rounds(request, world):
    """A round that is over, and one of the same sites and keys that is about to be masked."""
    over = Round(world, ADDENDS, e=1)
    over.run()
    if request.param == "another attempt":
        return over, Round(world, ADDENDS, e=2)
    group = dataclasses.replace(world.group, plan_digest=hashlib.sha256(b"second plan").digest())
    return over, Round(World(group, world.keys, os_random), ADDENDS, e=1)


def test_no_message_of_a_finished_round_serves_another(rounds):
    """'replay of a round, plan, signature, y, or of a share ciphertext under another e or plan'.

    Whatever the finished round put on the wire is put in the same place of the running one, under
    the running one's e, at every step and for every site.
    """
    over, now = rounds
    _, requests = now.mask_requests()
    for i, request in requests.items():
        for j in set(requests) - {i}:
            keys = list(request.keys)
            keys[j] = over.mask_asked[i].keys[j]
            with pytest.raises(PeerError, match="'key'"):
                _check(now, i, dataclasses.replace(request, keys=tuple(keys)))
            records = list(request.ciphertexts)
            records[j] = over.mask_asked[i].ciphertexts[j]
            checked = _check(now, i, dataclasses.replace(request, ciphertexts=tuple(records)))
            assert checked.missing == (j,)
    for i, request in requests.items():
        now.mask_one(i, request)
    hashes = [now.masked[i].signed for i in range(N)]
    agreed = {}
    for i in range(N):
        old = list(hashes)
        old[i - 1] = over.agree_asked[i].hashes[i - 1]
        with pytest.raises(PeerError, match="'addend'"):
            now.masked[i].agree(AgreeRequest(now.e, tuple(old)))
        agreed[i], _ = now.masked[i].agree(AgreeRequest(now.e, tuple(hashes)))
    for state in agreed.values():
        old = UnmaskRequest(now.e, over.unmask_asked[0].agreements)
        with pytest.raises(PeerError, match="'agree'"):
            state.unmask(old)


def test_no_message_of_a_finished_round_passes_the_server(rounds):
    """The same replays against the honest server, as a malicious network would send them."""
    over, now = rounds
    y = MaskedAddend.decode(over.wire["addend", 0], 8)
    server, _ = now.mask_requests()
    with pytest.raises(PeerError, match="'addend'"):
        server.receive(0, dataclasses.replace(y, e=now.e))


def _check(attempt: Round, i: int, request: MaskRequest):
    return attempt.sharing[i].check(request, QUERY, 0, PUBLIC_INPUT)


def test_orders_of_a_finished_attempt_bring_nothing_new(federation, tmp_path):
    """'replay of a round' at real sites: stored bytes until the next e, a refusal afterwards."""
    with federation.copy(tmp_path / "world").sites() as sites:
        left: list[tuple[str, bytes, bytes]] = []
        server = HostileServer(sites)
        ask = sites.ask

        def record(name: str, data: bytes) -> bytes:
            reply = ask(name, data)
            left.append((name, data, reply))
            return reply

        sites.ask = record
        server.adopt(server.run(1))
        server.adopt(server.run(2))
        sites.ask = ask
        for name, data, reply in left:
            again = sites.ask(name, data)
            assert again == reply or isinstance(decode_message(again, REPLIES), Refusal)
        server.share(3)
        for i in server.everyone:
            assert server.debits(i) == [1, 2]
            server.refused(i, ShareOrder(server.study, 1))


def test_a_second_request_for_one_e_gets_no_second_addend(federation, tmp_path):
    """'two requests for the same e that differ': stored bytes or refusal; a retry is a new e."""
    with federation.copy(tmp_path / "world").sites() as sites:
        server = HostileServer(sites)
        _, first = server.mask_orders(server.share(1))
        once = server.addend(0, server.mask_order(first[0]))
        others = {
            "another U1": without(first[0], 3),
            "a share withheld": dataclasses.replace(
                first[0], ciphertexts=(*first[0].ciphertexts[:3], b"")
            ),
        }
        for request in others.values():
            assert "different request" in server.refused(0, server.mask_order(request)).reason
        later = MaskOrder(server.study, 1, 1, (), first[0].encode())
        assert "different request" in server.refused(0, later).reason
        assert server.addend(0, server.mask_order(first[0])) == once
        assert server.debits(0) == [1]
        # A retry: the same model and members under the next e, and everything of it is new.
        _, second = server.mask_orders(server.share(2))
        twice = server.addend(0, server.mask_order(second[0]))
        assert server.debits(0) == [1, 2]
        assert second[0].keys[0].A != first[0].keys[0].A
        assert second[0].keys[0].B != first[0].keys[0].B
        assert (words(once.y) != words(twice.y)).all()
        # Of the attempt before, the stored bytes are all that is left.
        assert server.addend(0, server.mask_order(first[0])) == once
        server.refused(0, server.mask_order(without(first[0], 3)))
