"""The simulation's grid: Flower's own messages, as bytes, with nothing shared between the sides."""

from __future__ import annotations

import threading

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedward_client import agent
from fedward_common.messages import HelloReply
from fedward_common.plan.sections import RosterSite
from fedward_server.grid_sites import MESSAGE_TYPE, GridSites
from fedward_simulations.grid import InMemoryGrid, bind


def context(node: int) -> Context:
    return Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})


def order(node: int, data: bytes = b"order") -> Message:
    return Message(
        RecordDict({agent.RECORD: ConfigRecord({agent.FIELD: data})}), node, MESSAGE_TYPE
    )


def content(message: Message) -> bytes:
    value = message.content.config_records[agent.RECORD][agent.FIELD]
    assert isinstance(value, bytes)
    return value


class Keeper:
    """A site's service that keeps what it was given and changes it afterwards."""

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.threads: set[str] = set()

    def app(self) -> ClientApp:
        app = ClientApp()

        @app.query(agent.ACTION)
        def handle(message: Message, _: Context) -> Message:
            self.received.append(message)
            self.threads.add(threading.current_thread().name)
            reply = RecordDict({agent.RECORD: ConfigRecord({agent.FIELD: b"reply"})})
            answer = Message(reply, reply_to=message)
            message.content.config_records[agent.RECORD][agent.FIELD] = b"changed by the site"
            return answer

        return app


@pytest.fixture
def grid_and_keeper():
    keeper = Keeper()
    grid = InMemoryGrid({1: bind(keeper.app(), context(1)), 2: bind(keeper.app(), context(2))})
    yield grid, keeper
    grid.close()


def test_a_change_on_one_side_does_not_reach_the_other(grid_and_keeper):
    grid, keeper = grid_and_keeper
    sent = order(1)
    identifiers = list(grid.push_messages([sent]))
    sent.content.config_records[agent.RECORD][agent.FIELD] = b"changed by the server"
    replies = []
    while not replies:
        replies = list(grid.pull_messages(identifiers))
    assert content(replies[0]) == b"reply"
    assert content(sent) == b"changed by the server"
    assert keeper.received[0] is not sent
    assert keeper.received[0].metadata.message_id == identifiers[0]
    assert replies[0].metadata.reply_to_message_id == identifiers[0]
    assert replies[0].metadata.src_node_id == 1
    assert all(name.startswith("site") for name in keeper.threads)


def test_every_reply_is_delivered_once(grid_and_keeper):
    grid, _ = grid_and_keeper
    assert sorted(grid.get_node_ids()) == [1, 2]
    identifiers = set(grid.push_messages([order(1), order(2), order(1)]))
    assert len(identifiers) == 3
    seen: list[str] = []
    while len(seen) < 3:
        seen += [m.metadata.reply_to_message_id for m in grid.pull_messages(identifiers)]
    assert set(seen) == identifiers
    assert list(grid.pull_messages(identifiers)) == []


def test_a_failing_app_is_an_error_reply_that_says_no_more_than_its_kind():
    app = ClientApp()

    @app.query(agent.ACTION)
    def handle(_: Message, __: Context) -> Message:
        raise ValueError("patient 17 has a tumour")

    grid = InMemoryGrid({5: bind(app, context(5))})
    reply = next(iter(grid.send_and_receive([order(5)])))
    grid.close()
    assert reply.has_error()
    assert "17" not in str(reply.error.reason)


def test_a_node_without_the_rosters_key_is_no_site():
    """A reply of the right form is believed by its signature over a fresh nonce only."""
    app = ClientApp()

    @app.query(agent.ACTION)
    def handle(message: Message, _: Context) -> Message:
        data = HelloReply("site-1", 1, "0.1.0", bytes(64)).encode()
        return Message(
            RecordDict({agent.RECORD: ConfigRecord({agent.FIELD: data})}), reply_to=message
        )

    grid = InMemoryGrid({1: bind(app, context(1))})
    sites = GridSites(grid, (RosterSite(name="site-1", identity="ab" * 32),))
    assert sites.present() == ()
    grid.close()


def test_a_message_without_the_record_or_with_rubbish_is_an_error_not_a_crash(tmp_path):
    asked = []

    class Service:
        def handle(self, data: bytes) -> bytes:
            asked.append(data)
            return b"rubbish"

    app = agent.make_app(lambda _: Service())
    grid = InMemoryGrid({1: bind(app, context(1))})
    empty = Message(RecordDict({}), 1, MESSAGE_TYPE)
    assert next(iter(grid.send_and_receive([empty]))).has_error()
    assert asked == []
    sites = GridSites(grid, (RosterSite(name="site-1", identity="ab" * 32),))
    assert sites.present() == ()
    assert len(asked) == 1
    grid.close()
