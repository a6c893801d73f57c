"""The parts of Flower that fedward relies on are as they were when it was written.

Flower is pinned to one minor version; raising the pin starts by making this file pass.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

PUBLIC = ("flwr.app", "flwr.serverapp", "flwr.clientapp")
INTERNAL = {
    "flwr.common.constant.SUPERLINK_NODE_ID",
    "flwr.common.serde.message_from_proto",
    "flwr.common.serde.message_to_proto",
    "flwr.proto.message_pb2.Message",
    "flwr.supercore.run.Run",
    "flwr.supercore.task_identity.TaskIdentity",
}
"""What fedward may import from inside Flower. Each is tried below; add a test with each name."""

FLEET = {
    "flwr.common.constant.TIMESTAMP_HEADER",
    "flwr.common.serde.message_to_proto",
    "flwr.common.serde_utils.metadata_from_proto",
    "flwr.proto.fleet_pb2.ActivateNodeRequest",
    "flwr.proto.fleet_pb2.DeactivateNodeRequest",
    "flwr.proto.fleet_pb2.PullMessagesRequest",
    "flwr.proto.fleet_pb2.PushMessagesRequest",
    "flwr.proto.heartbeat_pb2.SendNodeHeartbeatRequest",
    "flwr.proto.message_pb2.Metadata",
    "flwr.proto.message_pb2.ObjectTree",
    "flwr.proto.node_pb2.Node",
    "flwr.supercore.constant.FLEET_HTTP_PUBLIC_KEY_HEADER",
    "flwr.supercore.constant.FLEET_HTTP_SIGNATURE_HEADER",
    "flwr.supercore.error.ApiErrorCode",
    "flwr.supercore.error.FlowerError",
    "flwr.supercore.inflatable.inflatable_object.get_all_nested_objects",
    "flwr.supercore.inflatable.inflatable_object.get_object_tree",
    "flwr.supercore.inflatable.inflatable_object.iterate_object_tree",
    "flwr.supercore.inflatable.inflatable_protobuf_utils.make_confirm_message_received_fn_protobuf",
    "flwr.supercore.inflatable.inflatable_protobuf_utils.make_pull_object_fn_protobuf",
    "flwr.supercore.inflatable.inflatable_protobuf_utils.make_push_object_fn_protobuf",
    "flwr.supercore.inflatable.inflatable_utils.ObjectPullError",
    "flwr.supercore.inflatable.inflatable_utils.ObjectPushError",
    "flwr.supercore.inflatable.inflatable_utils.pull_and_inflate_object_from_tree",
    "flwr.supercore.inflatable.inflatable_utils.push_objects",
    "flwr.supercore.primitives.asymmetric.public_key_to_bytes",
    "flwr.supercore.primitives.asymmetric.sign_message",
    "flwr.supercore.protobuf.client.ProtobufCall",
    "flwr.supercore.protobuf.client.ProtobufRequestContext",
    "flwr.supercore.runtime_version_compatibility.RuntimeVersionMetadata",
    "flwr.supernode.fleet_http_client.FleetHttpClient",
}
"""What the daemon imports besides; tried in test_flwr_fleet.py."""

CONTROL = {
    "flwr.cli.build.build_fab_from_files",
    "flwr.common.serde.user_config_to_proto",
    "flwr.proto.control_pb2.ListNodesRequest",
    "flwr.proto.control_pb2.ListRunsRequest",
    "flwr.proto.control_pb2.RegisterNodeRequest",
    "flwr.proto.control_pb2.StartRunRequest",
    "flwr.proto.control_pb2.StopRunRequest",
    "flwr.proto.control_pb2.UnregisterNodeRequest",
    "flwr.proto.fab_pb2.Fab",
    "flwr.supercore.control.control_http_client.ControlHttpClient",
    "flwr.supercore.inflatable.inflatable_utils.pull_objects",
}
"""What the supervisor and the ServerApp import besides; tried in test_flwr_control.py."""

GRID_METHODS = {
    "create_message", "get_node_ids", "pull_messages", "push_messages", "run", "send_and_receive",
    "set_run",
}  # fmt: skip
TYPE = "query.fedward"
NODE = 17


@pytest.fixture(autouse=True)
def identity() -> Iterator[None]:
    """Message() reads this process-wide identity, as an in-memory grid sets it."""
    before = (TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id)
    TaskIdentity.run_id = 3
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    TaskIdentity.task_id = 1
    yield
    for name, value in zip(("_run_id", "_node_id", "_task_id"), before, strict=True):
        setattr(TaskIdentity, name, value)


def request(payload: bytes = b"\x00\xff") -> Message:
    content = RecordDict({"fedward": ConfigRecord({"message": payload})})
    return Message(content, NODE, TYPE, ttl=60.0, group_id="1")


def payload_of(message: Message) -> bytes:
    payload = message.content.config_records["fedward"]["message"]
    assert isinstance(payload, bytes)
    return payload


def test_pinned_minor_version() -> None:
    assert version("flwr").split(".")[:2] == ["1", "41"]


def test_internal_imports_are_the_listed_ones(root: Path) -> None:
    used = set()
    for folder in ("common", "client", "server", "simulations"):
        for file in (root / folder).rglob("*.py"):
            if "bench" in file.parts:
                continue  # a peer that benchmarks measure, not what fedward relies on
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flwr"):
                    used |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert {name for name in used if not name.startswith(PUBLIC)} == INTERNAL | FLEET | CONTROL


def test_grid_is_these_methods() -> None:
    assert Grid.__abstractmethods__ == GRID_METHODS
    assert list(inspect.signature(Grid.push_messages).parameters) == ["self", "messages"]
    assert list(inspect.signature(Grid.pull_messages).parameters) == ["self", "message_ids"]
    assert list(inspect.signature(Grid.send_and_receive).parameters) == [
        "self", "messages", "timeout",
    ]  # fmt: skip


def test_a_message_takes_its_run_and_source_from_the_process() -> None:
    metadata = request().metadata
    assert (metadata.run_id, metadata.src_node_id) == (3, SUPERLINK_NODE_ID)
    assert (metadata.dst_node_id, metadata.message_type, metadata.group_id) == (NODE, TYPE, "1")


def test_a_message_without_an_identity_is_refused() -> None:
    setattr(TaskIdentity, "_run_id", None)  # noqa: B010  (the type admits no None)
    with pytest.raises(RuntimeError, match="run_id"):
        request()


def test_an_identifier_set_in_memory_survives_the_wire() -> None:
    message = request()
    message.metadata.__dict__["_message_id"] = "m1"
    data = message_to_proto(message).SerializeToString()
    again = message_from_proto(ProtoMessage.FromString(data))
    assert again.metadata.message_id == "m1"
    assert payload_of(again) == b"\x00\xff"


def test_an_error_survives_the_wire() -> None:
    reply = Message(Error(0, "PeerError"), reply_to=request())
    again = message_from_proto(ProtoMessage.FromString(message_to_proto(reply).SerializeToString()))
    assert again.has_error()
    assert (again.error.code, again.error.reason) == (0, "PeerError")


def test_client_app_dispatches_the_type_to_its_action() -> None:
    app = ClientApp()

    @app.query("fedward")
    def handle(message: Message, context: Context) -> Message:
        content = RecordDict({"fedward": ConfigRecord({"message": payload_of(message)[::-1]})})
        return Message(content, reply_to=message)

    reply = app(request(b"abc"), context())
    assert payload_of(reply) == b"cba"
    assert reply.metadata.dst_node_id == SUPERLINK_NODE_ID
    with pytest.raises(ValueError, match="query"):
        app(Message(RecordDict(), NODE, "query.other", ttl=60.0), context())


def test_server_app_runs_its_own_loop() -> None:
    app = ServerApp()
    seen: list[Any] = []

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        seen.append(grid.run.run_id)

    one_run: Any = type(
        "OneRun", (Grid,), dict.fromkeys(GRID_METHODS) | {"run": Run.create_empty(3)}
    )
    app(one_run(), context())
    assert seen == [3]


def context() -> Context:
    return Context(run_id=3, node_id=NODE, node_config={}, state=RecordDict(), run_config={})
