"""Flower's own handlers and grid between the server and its sites: what one site sends to all.

The state is Flower's, in a database; sites call its Fleet handlers as the SuperLink would for them.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field

import pytest
from flwr.app import ConfigRecord, Message, Metadata, RecordDict
from flwr.app.message.message import make_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import GetNodesRequest
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.constant import NOOP_FEDERATION_ID
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import (
    pull_and_inflate_object_from_tree,
    pull_objects,
)
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.superlink.servicer.fleet import fleet_handlers as fleet
from flwr.superlink.servicer.runtime import runtime_handlers as runtime

from fedward_common import keys
from fedward_common.messages import Hello, HelloReply, ShareOrder, StepReply, decode_message
from fedward_common.plan.sections import RosterSite
from fedward_common.randomness import os_random
from fedward_server import grid_sites as module
from fedward_server.grid_sites import INCOMPLETE, MALFORMED, NOT_TAKEN, GridSites
from fedward_server.patience import bound_pulls, limit_pulls

KEYS = {name: keys.new_key(os_random) for name in ("north", "south", "west")}
ROSTER = tuple(
    RosterSite(name=name, identity=keys.signing_public(KEYS[name]).hex())
    for name in ("north", "south")
)
ORDER, ANSWER = ShareOrder(b"study", 1), StepReply(b"answer", b"")


@dataclass
class Link:
    """A SuperLink's state with a run under way; ``answers`` says how each node behaves."""

    state: object
    run: int
    nodes: dict[str, int] = field(default_factory=dict)
    seen: dict[str, list[bytes]] = field(default_factory=dict)
    salts: list[bytes] = field(default_factory=list)
    hostile: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    withholding: set[str] = field(default_factory=set)
    """Who announces an answer and uploads none of it."""
    deleting: set[str] = field(default_factory=set)
    """Who confirms an order, so that Flower deletes it, as soon as it is announced."""
    later: dict[str, float] = field(default_factory=dict)
    """When a site begins to answer."""

    def enrolled(self) -> dict[int, str]:
        return {node: name for name, node in self.nodes.items()}

    def work(self) -> None:
        """Every site answers what was sent to it."""
        for name, node in self.nodes.items():
            if time.monotonic() < self.later.get(name, 0.0):
                continue
            got = fleet.pull_messages(
                PullMessagesRequest(node=Node(node_id=node)), self.state, self.state.object_store
            )
            for order, tree in zip(got.messages_list, got.message_object_trees, strict=True):
                record = self._read(node, tree).content.config_records["fedward"]
                self.seen.setdefault(name, []).append(record["message"])
                self.salts.append(record["salt"])
                if name not in self.silent:
                    self._answer(name, order.metadata.message_id, record["message"])

    def _read(self, node: int, tree) -> Message:
        def pull(identifier: str) -> bytes:
            request = PullObjectRequest(
                node=Node(node_id=node), run_id=self.run, object_id=identifier
            )
            return fleet.pull_object(request, self.state).object_content

        return pull_and_inflate_object_from_tree(tree, pull, lambda *_: None, return_type=Message)

    def _answer(self, name: str, asked: str, data: bytes) -> None:
        reply = ANSWER
        if b"hello" in data[:32]:
            nonce = decode_message(data, (Hello,)).nonce
            reply = HelloReply(name, 1, "0.1.0", keys.sign(KEYS[name], "hello", nonce, name))
        elif name in self.hostile:
            self._push(name, asked, RecordDict({"junk": ConfigRecord({"x": os.urandom(8)})}))
            return
        record = ConfigRecord({"message": reply.encode(), "order": asked})
        content = RecordDict({"fedward": record})
        message = make_message(_metadata(self.run, self.nodes[name], asked), content)
        self._push(name, asked, message)

    def _push(self, name: str, asked: str, root) -> None:
        """An answer whose parts hang on ``root``: a Message, or what a Message is not."""
        node = Node(node_id=self.nodes[name])
        metadata = _metadata(self.run, node.node_id, asked)
        metadata.__dict__["_message_id"] = root.object_id
        taken = fleet.push_messages(
            PushMessagesRequest(
                node=node,
                messages_list=[message_to_proto(make_message(metadata, RecordDict()))],
                message_object_trees=[get_object_tree(root)],
            ),
            self.state,
        )
        parts = get_all_nested_objects(root) if name not in self.withholding else {}
        for identifier in set(taken.objects_to_push) & parts.keys():
            request = PushObjectRequest(
                node=node,
                run_id=self.run,
                session_id=taken.session_id,
                object_id=identifier,
                object_content=parts[identifier].deflate(),
            )
            fleet.push_object(request, self.state)

    def delete(self) -> None:
        """What a node can do between an order's announcement and the upload of its parts."""
        for node in (self.nodes[name] for name in self.deleting):
            got = fleet.pull_messages(
                PullMessagesRequest(node=Node(node_id=node)), self.state, self.state.object_store
            )
            for order in got.messages_list:
                request = ConfirmMessageReceivedRequest(
                    node=Node(node_id=node),
                    run_id=self.run,
                    message_object_id=order.metadata.message_id,
                )
                fleet.confirm_message_received(request, self.state, self.state.object_store)


def _metadata(run: int, node: int, asked: str) -> Metadata:
    return Metadata(run, "", node, 1, asked, "", time.time(), 600.0, "query.fedward")


class Runtime:
    """The Runtime API without HTTP; what is pushed is answered at once."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def __getattr__(self, name: str):
        handlers = {
            "GetNodes": runtime.get_nodes,
            "PushMessages": runtime.push_messages,
            "PullMessages": runtime.pull_messages,
            "PushObject": runtime.push_object,
            "PullObject": runtime.pull_object,
            "ConfirmMessageReceived": runtime.confirm_message_received,
        }

        def call(request):
            if name == "PullMessages":
                self._link.work()
            answer = handlers[name](request, self._link.state, Task(run_id=self._link.run))
            if name == "PushMessages":
                self._link.delete()
            return answer

        return call


@pytest.fixture
def link(tmp_path, monkeypatch):
    for handlers in (fleet, runtime):
        if hasattr(handlers, "check_abort"):
            monkeypatch.setattr(handlers, "check_abort", lambda *_: None)  # as if it ran
    database = str(tmp_path / "state.db")
    manager = NoOpFederationManager()
    state = LinkStateFactory(database, manager, ObjectStoreFactory(database)).state()
    run = state.create_run(
        None, None, "0" * 64, {}, NOOP_FEDERATION_ID, None, None, "flwr-serverapp"
    )
    made = Link(state, run)
    for name in KEYS:
        made.nodes[name] = state.create_node(name, name, name.encode(), 0)
        state.activate_node(made.nodes[name], 600.0)
    for name, value in (("run_id", run), ("node_id", 1), ("task_id", 1)):
        monkeypatch.setattr(TaskIdentity, f"_{name}", value)
    return made


@pytest.fixture
def grid(link, monkeypatch):
    made = HttpGrid.__new__(HttpGrid)
    monkeypatch.setattr(HttpGrid, "_runtime_client", Runtime(link))
    made.node, made._run = Node(node_id=1), Run.create_empty(link.run)
    return made


def test_members_are_greeted_and_an_enrolled_outsider_learns_of_nothing(link, grid):
    assert (
        len(list(grid.get_node_ids()))
        == len(grid._runtime_client.GetNodes(GetNodesRequest()).nodes)
        == 3
    )
    sites = GridSites(grid, ROSTER, enrolled=link.enrolled)
    assert set(sites.present()) == {"north", "south"}
    assert dict(sites.exchange(dict.fromkeys(("north", "south"), ORDER), 60.0)).keys() == {
        "north",
        "south",
    }
    assert "west" not in link.seen
    assert len(set(link.salts)) == len(link.salts) == 4
    assert {len(salt) for salt in link.salts} == {16}


def test_a_reply_that_flower_cannot_read_costs_its_sender_only(link, grid, caplog):
    problems: list[tuple[str, str]] = []
    sites = GridSites(
        grid, ROSTER, enrolled=link.enrolled, on_problem=lambda *told: problems.append(told)
    )
    assert set(sites.present()) == {"north", "south"}
    link.hostile.add("south")
    orders = dict.fromkeys(("north", "south"), ORDER)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert dict(sites.exchange(orders, 60.0)) == {"north": ANSWER}
    assert problems == [("south", MALFORMED)] * 2
    link.hostile.clear()
    assert dict(sites.exchange(orders, 60.0)) == {"north": ANSWER, "south": ANSWER}


def test_an_order_that_its_site_deletes_is_lost_to_this_site_only(link, grid):
    problems = []
    sites = GridSites(
        grid, ROSTER, on_problem=lambda *told: problems.append(told), enrolled=link.enrolled
    )
    assert set(sites.present()) == {"north", "south"}
    link.deleting.add("south")
    orders = dict.fromkeys(("north", "south"), ORDER)
    assert dict(sites.exchange(orders, 60.0)) == {"north": ANSWER}
    assert problems == [("south", NOT_TAKEN)]
    link.deleting.clear()
    assert dict(sites.exchange(orders, 60.0)) == {"north": ANSWER, "south": ANSWER}


@pytest.fixture
def patient(monkeypatch):
    """Flower's waiting for parts, as the ServerApp sets it, and as it was afterwards."""
    defaults = dict(pull_objects.__kwdefaults__)
    bound_pulls()
    yield limit_pulls
    pull_objects.__kwdefaults__.update(defaults)


def test_an_answer_that_is_withheld_keeps_nobody_elses_back(link, grid, patient):
    problems = []
    sites = GridSites(
        grid,
        ROSTER,
        on_problem=lambda *told: problems.append(told),
        enrolled=link.enrolled,
        patience=patient,
    )
    assert set(sites.present()) == {"north", "south"}
    link.withholding.add("south")
    for late in (0.0, 0.5, 1.4):  # north's answer comes while a pull waits for south's
        link.later["north"] = time.monotonic() + late
        orders = dict.fromkeys(("south", "north"), ORDER)
        assert dict(sites.exchange(orders, 1.5)) == {"north": ANSWER}
    assert set(problems) == {("south", INCOMPLETE)}


def test_a_silent_node_is_waited_for_once_and_left_alone_for_a_while(link, grid, monkeypatch):
    greeted: list[int] = []
    push = grid.push_messages

    def counting(messages):
        messages = list(messages)
        greeted.extend(message.metadata.dst_node_id for message in messages)
        return push(messages)

    monkeypatch.setattr(grid, "push_messages", counting)
    link.silent.add("south")
    node = link.nodes["south"]
    sites = GridSites(grid, ROSTER, enrolled=link.enrolled)
    for _ in range(4):
        assert sites.present() == ("north",)
    assert greeted.count(node) == 1
    monkeypatch.setattr(module, "GREETING_SECONDS", 0.1)
    pauses = []
    for times in range(1, 5):
        assert greeted.count(node) == times
        pauses.append(sites._pauses[node][1])
        sites._pauses[node] = (0.0, pauses[-1])  # that time has passed
        sites.present()
    assert pauses == [15.0, 30.0, 60.0, 60.0]
