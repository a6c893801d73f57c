"""The edge to Flower's Fleet API: activate, heartbeat, pull an order, push its answer.

Nothing here can ask for a bundle: code from a server never comes near a hospital (G2). The time
that the site took is not told either (B2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self, TypeVar

import httpx
from flwr.app import Message, Metadata, RecordDict
from flwr.app.message.message import make_message
from flwr.common.serde import message_to_proto
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import Metadata as MetadataProto
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    pull_and_inflate_object_from_tree,
    push_objects,
)
from flwr.supernode.fleet_http_client import FleetHttpClient

from fedward_client.agent import MESSAGE_TYPE, answer_content, order_content
from fedward_client.daemon.inbox import Announced
from fedward_client.daemon.signer import Signer
from fedward_client.daemon.tls import tls_context
from fedward_client.daemon.transport import LinkError, Transport, refusal_text
from fedward_client.enrolment import Connection
from fedward_common.errors import FedwardError, PeerError

HEARTBEAT_SECONDS = 15.0
"""Flower counts a node that was killed as there for twice as long, and refuses its successor unless
that goes on with its session."""

MAX_OBJECTS = 8
"""Parts of one order; ours are three: the message, its records, the record."""

OBJECT_SECONDS, OBJECT_TRIES = 120.0, 1000
OBJECT_FIRST_PAUSE, OBJECT_PAUSE = 0.02, 0.5
"""An order may be announced a moment before its parts are there."""

MAX_REFUSAL = 4096
"""Bytes of a refusal that are looked at; Flower's own are a line."""

T = TypeVar("T")
R = TypeVar("R")


class RefusedError(LinkError):
    """The server or the gateway has answered, and said no."""


class NotActivatedError(RefusedError):
    """The server still counts an earlier process of this site as there: a matter of seconds."""


class RunEndedError(FedwardError):
    """The run that an order belongs to is over: nobody waits for its answer."""


class FleetLink:
    """One activated session with the server. Use it in a ``with`` statement.

    Every method raises LinkError when the gateway does not serve it.
    """

    def __init__(self, connection: Connection) -> None:
        context = tls_context(connection)
        self._transport = Transport(connection.welcome.gateway, context)
        self._signer = Signer(connection, self._transport)
        self._client = FleetHttpClient(
            self._transport.base, interceptors=[self._signer], verify=context
        )
        self._node = Node()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._transport.close()

    @property
    def node_id(self) -> int:
        """The number that the server knows this site by; 0 before :meth:`activate`."""
        return int(self._node.node_id)

    def measure_clock(self) -> float:
        """Sign with the server's time from now on; returns how many seconds it is ahead."""
        self._signer.offset = self._transport.clock_offset()
        return self._signer.offset

    def activate(self, abandoned: int = 0) -> None:
        """Begin a session, or go on with the one of node ``abandoned``, whose process died.

        Ending that one first would tell the server that its orders are answered by nobody.

        Raises:
            NotActivatedError: the server counts another session as going on.
        """
        if abandoned and self._resumed(abandoned):
            return
        request = ActivateNodeRequest(
            public_key=self._signer.public, heartbeat_interval=HEARTBEAT_SECONDS
        )
        response = self._call(self._client.ActivateNode, request)
        self._node = Node(node_id=response.node_id)

    def deactivate(self) -> None:
        """End this session."""
        self._call(self._client.DeactivateNode, DeactivateNodeRequest(node_id=self.node_id))

    def heartbeat(self) -> None:
        """Say that this site is there."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_SECONDS)
        if not self._call(self._client.SendNodeHeartbeat, request).success:
            raise RefusedError("the server has forgotten this node")

    def _resumed(self, node_id: int) -> bool:
        """Whether the server knows this node still; a heartbeat makes it a present one again."""
        self._node = Node(node_id=node_id)
        try:
            self.heartbeat()
        except RefusedError:
            self._node = Node()
            return False
        return True

    def pull(self) -> Announced | None:
        """The next order, of whichever run; None if there is none.

        Raises:
            PeerError: the announcement is malformed.
        """
        response = self._call(self._client.PullMessages, PullMessagesRequest(node=self._node))
        if not response.messages_list:
            return None
        if len(response.message_object_trees) != len(response.messages_list):
            raise PeerError("an order was announced without its parts")
        return Announced(
            response.messages_list[0].metadata.SerializeToString(),
            response.message_object_trees[0].SerializeToString(),
        )

    def fetch(self, announced: Announced) -> bytes:
        """The order's bytes.

        Raises:
            PeerError: it is not fedward's, or malformed.
            RunEndedError: its run is over.
        """
        run, tree = _open(announced.envelope).run_id, _tree(announced.tree)
        self._transport.begin_order()
        pull = make_pull_object_fn_protobuf(self._bound(self._client.PullObject), self._node, run)
        confirm = make_confirm_message_received_fn_protobuf(
            self._bound(self._client.ConfirmMessageReceived), self._node, run
        )
        try:
            message = pull_and_inflate_object_from_tree(
                tree,
                pull,
                confirm,
                return_type=Message,
                max_time=OBJECT_SECONDS,
                max_tries_per_object=OBJECT_TRIES,
                initial_backoff=OBJECT_FIRST_PAUSE,
                backoff_cap=OBJECT_PAUSE,
            )
        except ObjectPullError as error:
            raise PeerError("a part of an order is missing") from error
        except FedwardError:
            raise
        except Exception as error:  # whatever Flower's parsers make of what the server sent
            raise PeerError("an order is malformed") from error
        return order_content(message)

    def push(self, envelope: bytes, answer: bytes) -> None:
        """Send the answer to the order of ``envelope``; repeating it is harmless.

        The message is the same, byte for byte, however often and in whichever process it is made:
        the server takes one answer to an order and knows it by its hash.

        Raises:
            RunEndedError: its run is over.
        """
        asked = _open(envelope)
        reply = make_message(_reply_metadata(asked), answer_content(answer, asked.message_id))
        reply.metadata.__dict__["_message_id"] = reply.object_id
        bare = make_message(reply.metadata, RecordDict())  # its parts follow
        response = self._call(
            self._client.PushMessages,
            PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(bare)],
                message_object_trees=[get_object_tree(reply)],
            ),
        )
        push = make_push_object_fn_protobuf(
            self._bound(self._client.PushObject), self._node, asked.run_id, response.session_id
        )
        try:
            push_objects(
                get_all_nested_objects(reply),
                push,
                object_ids_to_push=set(response.objects_to_push),
            )
        except ObjectPushError as error:
            raise LinkError("the server did not take the answer; it is sent again") from error

    def _bound(self, call: Callable[[T], R]) -> Callable[[T], R]:
        return lambda request: self._call(call, request)

    def _call(self, call: Callable[[T], R], request: T) -> R:
        try:
            return call(request)
        except httpx.HTTPStatusError as error:
            raise _refusal(error.response) from error
        except ValueError as error:  # Flower's word for bytes that are no protobuf
            raise LinkError("the gateway's answer is malformed") from error


def _open(envelope: bytes) -> Metadata:
    try:
        metadata = metadata_from_proto(MetadataProto.FromString(envelope))
    except Exception as error:  # protobuf has an error type of its own
        raise PeerError("an order's envelope is malformed") from error
    if metadata.message_type != MESSAGE_TYPE:
        raise PeerError("a message that is not fedward's")
    return metadata


def _tree(data: bytes) -> ObjectTree:
    try:
        tree = ObjectTree()
        tree.ParseFromString(data)
        parts = len(list(iterate_object_tree(tree)))
    except Exception as error:  # protobuf has an error type of its own
        raise PeerError("an order's list of parts is malformed") from error
    if parts > MAX_OBJECTS:
        raise PeerError(f"an order in {parts} parts")
    return tree


def _reply_metadata(asked: Metadata) -> Metadata:
    """Addressed back; dated as the order is, so that no clock of ours makes it another message."""
    return Metadata(
        run_id=asked.run_id,
        message_id="",
        src_node_id=asked.dst_node_id,
        dst_node_id=asked.src_node_id,
        reply_to_message_id=asked.message_id,
        group_id=asked.group_id,
        created_at=asked.created_at,
        ttl=asked.ttl,
        message_type=asked.message_type,
        src_task_id=asked.dst_task_id,
        dst_task_id=asked.src_task_id,
    )


def _refusal(response: httpx.Response) -> FedwardError:
    """What an answer other than 2xx means."""
    try:
        told = FlowerError.from_json(response.content[:MAX_REFUSAL].decode("utf-8", "replace"))
    except (ValueError, RecursionError):  # JSON of absurd depth or numbers
        told = None
    if told is not None and told.code == ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED:
        return RunEndedError("the run is over")
    if told is not None and told.code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
        return NotActivatedError("the server does not activate this node yet")
    return RefusedError(refusal_text(response))
