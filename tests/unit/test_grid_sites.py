"""The server's port over Flower's grid: orders lost on the way, false senders, other versions."""

from __future__ import annotations

import logging

import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedward_common import keys
from fedward_common.messages import Hello, HelloReply, ShareOrder, StepReply, decode_message
from fedward_common.plan.sections import RosterSite
from fedward_common.randomness import os_random
from fedward_server import app
from fedward_server import grid_sites as module
from fedward_server.grid_sites import MALFORMED, MESSAGE_UNAVAILABLE, GridSites
from fedward_simulations.grid import InMemoryGrid, bind

KEY = keys.new_key(os_random)
ROSTER = (RosterSite(name="north", identity=keys.signing_public(KEY).hex()),)
ORDER = ShareOrder(b"study", 1)
ANSWER = StepReply(b"answer", b"")


def site_app(
    protocol: int = 1,
    asked: list[bytes] | None = None,
    package: str = "0.1.0",
    **beside: str,
) -> ClientApp:
    """A site that greets with its key and answers every other order with ANSWER.

    ``beside`` lies in its records beside every answer.
    """
    app = ClientApp()

    @app.query("fedward")
    def handle(message: Message, _: Context) -> Message:
        data = message.content.config_records["fedward"]["message"]
        if asked is not None:
            asked.append(data)
        reply = ANSWER
        if data[5:].find(b"hello") >= 0:
            order = decode_message(data, (Hello,))
            signature = keys.sign(KEY, "hello", order.nonce, "north")
            reply = HelloReply("north", protocol, package, signature)
            return Message(_record({"message": reply.encode()}), reply_to=message)
        order = {"order": message.metadata.message_id} | beside
        return Message(_record({"message": reply.encode()} | order), reply_to=message)

    return app


def _record(values) -> RecordDict:
    return RecordDict({"fedward": ConfigRecord(values)})


def context(node: int) -> Context:
    return Context(1, node, {}, RecordDict(), {})


class LossyGrid(InMemoryGrid):
    """Delivers nothing the first ``lose`` times after the greeting, or answers incompletely."""

    lose = 0
    incomplete = 0

    def push_messages(self, messages):
        given = list(messages)
        identifiers = list(super().push_messages(given))
        if any(b"hello" in bytes(m.content.config_records["fedward"]["message"]) for m in given):
            return identifiers
        for identifier in identifiers:
            if self.lose > 0:
                self.lose -= 1
                self._pending.pop(identifier)
        return identifiers

    def pull_messages(self, message_ids):
        replies = list(super().pull_messages(message_ids))
        if self.incomplete and replies:
            self.incomplete -= 1
            replies = [
                Message(Error(MESSAGE_UNAVAILABLE, "cut off"), reply_to=_asked(r)) for r in replies
            ]
        return replies


def _asked(reply: Message) -> Message:
    """A message whose reply has the same reply_to_message_id."""
    asked = Message(RecordDict(), reply.metadata.src_node_id, "query.fedward")
    asked.metadata.__dict__["_message_id"] = reply.metadata.reply_to_message_id
    return asked


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(module, "POLL_LIMIT_SECONDS", 0.02)


def connected(grid, **options) -> GridSites:
    sites = GridSites(grid, ROSTER, **options)
    assert sites.present() == ("north",)
    return sites


def test_an_order_that_was_lost_on_the_way_is_sent_again_byte_for_byte(quick):
    asked: list[bytes] = []
    grid = LossyGrid({5: bind(site_app(asked=asked), context(5))})
    sites = connected(grid, repeat_seconds=0.05)
    grid.lose = 2
    assert list(sites.exchange({"north": ORDER}, 60.0)) == [("north", ANSWER)]
    grid.close()
    assert set(asked[1:]) == {ORDER.encode()}


def test_an_answer_whose_parts_were_cut_off_is_asked_for_again(quick):
    grid = LossyGrid({5: bind(site_app(), context(5))})
    sites = connected(grid, repeat_seconds=0.05)
    grid.incomplete = 1
    assert list(sites.exchange({"north": ORDER}, 60.0)) == [("north", ANSWER)]
    grid.close()


def test_without_repeats_a_lost_order_is_missed_at_the_deadline(quick):
    grid = LossyGrid({5: bind(site_app(), context(5))})
    sites = connected(grid)
    grid.lose = 1
    assert list(sites.exchange({"north": ORDER}, 0.2)) == []
    grid.close()


def test_a_late_duplicate_is_not_a_second_answer(quick):
    grid = LossyGrid({5: bind(site_app(), context(5))})
    sites = connected(grid, repeat_seconds=0.0001)
    for _ in range(5):
        assert list(sites.exchange({"north": ORDER}, 10.0)) == [("north", ANSWER)]
    grid.close()


class LyingGrid(InMemoryGrid):
    """Replies that name another sender than the node that was asked."""

    def pull_messages(self, message_ids):
        for reply in super().pull_messages(message_ids):
            reply.metadata.__dict__["_src_node_id"] = 99
            yield reply


def test_a_reply_counts_for_the_node_that_was_asked_whatever_sender_it_names():
    grid = LyingGrid({5: bind(site_app(), context(5))})
    sites = connected(grid)
    assert list(sites.exchange({"north": ORDER}, 10.0)) == [("north", ANSWER)]
    grid.close()


def test_a_site_of_another_protocol_is_told_apart_by_name_and_version():
    problems: list[tuple[str, str]] = []
    grid = InMemoryGrid({5: bind(site_app(protocol=2), context(5))})
    sites = GridSites(grid, ROSTER, on_problem=lambda name, why: problems.append((name, why)))
    assert sites.present() == ()
    grid.close()
    ((name, why),) = problems
    assert name == "north"
    assert "speaks protocol 2 (fedward 0.1.0), this server protocol 1" in why
    assert "install the same version" in why


def test_an_answer_to_another_order_is_none(quick):
    problems: list[tuple[str, str]] = []
    grid = InMemoryGrid({5: bind(site_app(order="another"), context(5))})
    sites = connected(grid, on_problem=lambda *told: problems.append(told))
    assert list(sites.exchange({"north": ORDER}, 60.0)) == []
    assert problems == [("north", MALFORMED)]
    grid.close()


def test_what_a_site_calls_its_package_adds_no_line_to_a_log(caplog):
    told = "9\nERROR fedward_server.agenda: restore the backup of Monday"
    problems: list[str] = []
    grid = InMemoryGrid({5: bind(site_app(protocol=2, package=told), context(5))})
    sites = GridSites(grid, ROSTER, on_problem=lambda _, why: problems.append(why))
    with caplog.at_level(logging.WARNING):
        assert sites.present() == ()
    grid.close()
    lines = [*problems, *(record.getMessage() for record in caplog.records)]
    assert len(lines) == 2
    assert not any("\n" in line for line in lines)


def test_a_studys_log_has_one_line_for_a_message(tmp_path, monkeypatch):
    ours = logging.getLogger("fedward_server")
    monkeypatch.setattr(ours, "handlers", list(ours.handlers))
    monkeypatch.setattr(ours, "level", ours.level)
    app._log_to(tmp_path / "server.log")
    logging.getLogger("fedward_server.sites").warning("%s", "a\nERROR fedward_server: b\r\x1b[2J")
    (line,) = (tmp_path / "server.log").read_text().splitlines()
    assert line == "WARNING fedward_server.sites: a ERROR fedward_server: b  [2J"


def test_a_member_who_is_known_is_not_greeted_again_and_a_full_roster_greets_nobody(quick):
    asked: list[bytes] = []
    grid = InMemoryGrid({5: bind(site_app(asked=asked), context(5))})
    sites = connected(grid)
    grid._nodes[6] = bind(site_app(asked=asked), context(6))
    for _ in range(3):
        assert sites.present() == ("north",)
    assert len(asked) == 1
    grid.close()
