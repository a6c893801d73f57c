"""A7: two processes of one site. What one of them let leave, the other knows (A2).

Two real services stand on the same site folders; the hostile server plays one against the other.
"""

from __future__ import annotations

import threading

import pytest
from tests.cli_world import client
from tests.security.attack_world import HostileServer
from tests.world import MemorySites, make_world

from fedward_client import steps
from fedward_client.agent import Services
from fedward_client.round import SiteService
from fedward_client.running import Running
from fedward_client.site import Site
from fedward_common.errors import OperatorError
from fedward_common.messages import MaskOrder, Publish, Refusal, ShareOrder, Standing, StepReply
from fedward_common.secagg.messages import AgreeRequest

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")


def test_no_second_process_computes_on_a_public_input_whose_sum_was_opened(federation, tmp_path):
    """'two processes answering at once': the other has known the study since before the sum."""
    with (
        federation.copy(tmp_path / "world").sites() as sites,
        MemorySites(sites.world) as others,
    ):
        server, second = HostileServer(sites), HostileServer(others)
        server.run(1)
        _, requests = second.mask_orders(second.share(2))
        for i in second.everyone:
            second.refused(i, second.mask_order(requests[i]))
        assert all(second.debits(i) == [1] for i in second.everyone)


def test_what_one_process_masked_the_other_releases_once(federation, tmp_path):
    """The state is the folder's, not the process's: the steps may go to either."""
    with (
        federation.copy(tmp_path / "world").sites() as sites,
        MemorySites(sites.world) as others,
    ):
        server, second = HostileServer(sites), HostileServer(others)
        agreeing, asked = server.mask(*server.mask_orders(server.share(1))).close()
        revealing, last = second.agree(agreeing, asked).close()
        summed, _ = server.unmask(revealing, last).close()
        for i in second.everyone:  # the stored bytes, and no second release
            answer = second.answered(i, second.unmask_order(last[i]))
            assert answer == server.answered(i, server.unmask_order(last[i]))
            assert second.refused(i, second.unmask_order(last[i], next_e=2))
        server.adopt(summed)
        assert server.run(2).transcript.survivors == (0, 1, 2, 3)


def test_published_sums_do_not_replace_what_an_attempt_computed_on(federation, tmp_path):
    """A false sum between the mask and the shares changes neither what is adopted nor opened."""
    with federation.copy(tmp_path / "world").sites() as sites:
        server = HostileServer(sites)
        server.adopt(server.run(1))
        agreeing, asked = server.mask(*server.mask_orders(server.share(2))).close()
        task, _ = server.definition.at(1)
        lie = Publish(server.study, 0, (*server.sums, bytes(4 * task.dimension)))
        for i in server.everyone:
            assert server.ask(i, lie) == Standing(server.study, 2)
            sites.restart(server.names[i])
        revealing, last = server.agree(agreeing, asked).close()
        server.adopt(server.unmask(revealing, last).close()[0])
        assert server.run(3).transcript.survivors == (0, 1, 2, 3)


def test_a_process_that_stalls_sends_no_second_addend_of_an_attempt(
    federation, tmp_path, monkeypatch
):
    """Two addends under one mask would differ by what the site computed (A2)."""
    with (
        federation.copy(tmp_path / "world").sites() as sites,
        MemorySites(sites.world) as others,
    ):
        server, stalled = HostileServer(sites), HostileServer(others)
        _, requests = server.mask_orders(server.share(1))
        order = server.mask_order(requests[0])
        computes = steps.addend

        def meanwhile(*given):
            monkeypatch.setattr(steps, "addend", computes)
            server.answered(0, order)
            _go_on(server, 1)
            return computes(*given)

        monkeypatch.setattr(steps, "addend", meanwhile)
        reply = stalled.ask(0, order)
        assert isinstance(reply, Refusal)
        assert "not in flight" in reply.reason
        assert server.debits(0) == [1]


def test_a_process_that_stalls_signs_no_second_survivor_set(federation, tmp_path, monkeypatch):
    with (
        federation.copy(tmp_path / "world").sites() as sites,
        MemorySites(sites.world) as others,
    ):
        server, stalled = HostileServer(sites), HostileServer(others)
        _, asked = server.mask(*server.mask_orders(server.share(1))).close()
        other = AgreeRequest(1, asked[0].hashes[:3])
        book = others.site(server.names[0]).heads
        notes = book.debited

        def meanwhile(*given):
            server.answered(0, server.agree_order(asked[0]))
            _go_on(server, 1)
            notes(*given)

        monkeypatch.setattr(book, "debited", meanwhile)
        reply = stalled.ask(0, stalled.agree_order(other))
        assert isinstance(reply, Refusal)
        assert "not in flight" in reply.reason


def test_a_process_that_stalls_does_not_end_the_attempt_after(federation, tmp_path, monkeypatch):
    with (
        federation.copy(tmp_path / "world").sites() as sites,
        MemorySites(sites.world) as others,
    ):
        server, stalled = HostileServer(sites), HostileServer(others)
        agreeing, asked = server.mask(*server.mask_orders(server.share(1))).close()
        _, last = server.agree(agreeing, asked).close()
        order = server.unmask_order(last[0])
        running = Running.release

        def meanwhile(self, e, store):
            monkeypatch.setattr(Running, "release", running)
            server.answered(0, order)
            _go_on(server, 1)
            running(self, e, store)

        monkeypatch.setattr(Running, "release", meanwhile)
        assert isinstance(stalled.ask(0, order), Refusal)
        assert sites.site(server.names[0]).rounds.load(server.study, 3)


def _go_on(server: HostileServer, e: int) -> None:
    """The site takes part in the two attempts after ``e``: what it kept of ``e`` is swept away."""
    for later in (e + 1, e + 2):
        server.answered(0, ShareOrder(server.study, later))


def test_an_order_for_another_attempt_that_overruns_the_delay_ends_nothing(tmp_path):
    """An invalid message changes no state, however long it takes (B2)."""
    queries = [{"kind": "count", "noise_multiplier": 5.0}]
    schedule = {"maximum_attempts": 20, "reply_delay_seconds": 1.0}
    world = make_world(tmp_path / "world", 4, queries=queries, schedule=schedule)
    slowness, now = [0.0], [0.0]

    def clock() -> float:
        now[0] += slowness[0]
        return now[0]

    def timed(site: Site) -> SiteService:
        return SiteService(site, clock=clock, sleep=lambda _: None)

    with world.sites(service_of=timed) as sites:
        server = HostileServer(sites)
        _, asked = server.mask(*server.mask_orders(server.share(1))).close()
        slowness[0] = 2.0
        assert isinstance(server.ask(0, MaskOrder(server.study, 17, 0, (), b"nonsense")), Refusal)
        slowness[0] = 0.0
        server.answered(0, server.agree_order(asked[0]))


def test_one_process_serves_a_folder_and_commands_go_on(federation, tmp_path):
    world = federation.copy(tmp_path / "world")
    folder = world.root / "site-1"
    serving = Services()
    service = serving.of(folder)
    assert serving.of(folder / ".." / "site-1") is service
    with pytest.raises(OperatorError, match="another process serves this site; stop it first"):
        Services().of(folder)
    assert client("status", "--site", folder).status == 0
    assert Services().of(world.root / "site-2") is not service


def test_two_first_messages_at_once_find_one_service(federation, tmp_path):
    folder = federation.copy(tmp_path / "world").root / "site-1"
    services, start, found = Services(), threading.Barrier(8), []

    def first_message() -> None:
        start.wait()
        found.append(services.of(folder))

    threads = [threading.Thread(target=first_message) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


def test_a_refusal_of_the_next_attempt_does_not_hold_back_the_shares(federation, tmp_path):
    """A3.4: whatever is wrong with the attempt whose step 1 was to ride along, this one ends."""
    with federation.copy(tmp_path / "world").sites() as sites:
        server = HostileServer(sites)
        agreeing, asked = server.mask(*server.mask_orders(server.share(1))).close()
        _, last = server.agree(agreeing, asked).close()
        limit = server.definition.plan.schedule.maximum_attempts
        answer = server.answered(0, server.unmask_order(last[0], next_e=limit + 1))
        assert isinstance(answer, StepReply)
        assert answer.reply
        assert answer.share == b""
