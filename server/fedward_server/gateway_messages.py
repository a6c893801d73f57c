"""What a hospital may announce to the SuperLink: one answer, its own, to one order.

Flower 1.41 checks only who asks. What is asked, it stores: a message in another node's or in the
server's name, and objects under names that others are about to use.
"""

from __future__ import annotations

from collections.abc import Iterator

from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree

from fedward_common.errors import PeerError

SUPERLINK_NODE = 1
"""Flower's number (``flwr.common.constant.SUPERLINK_NODE_ID``) of who orders are sent by."""

MAX_OBJECTS = 8
"""Parts of one answer; ours are three: the message, its records, the record."""


def check_push(body: bytes) -> None:
    """Refuse what is not one answer of the asking node to an order of the server.

    That the node which the request names is the certificate's, the SuperLink checks.

    Raises:
        PeerError: it is something else.
    """
    request = PushMessagesRequest()
    try:
        request.ParseFromString(body)
    except Exception as error:  # protobuf has an error type of its own
        raise PeerError("not a PushMessagesRequest") from error
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        raise PeerError("exactly one message with its parts is taken")
    if request.clientapp_runtime_list:
        raise PeerError("how long a site took is not told")
    metadata, tree = request.messages_list[0].metadata, request.message_object_trees[0]
    if not metadata.src_node_id or metadata.src_node_id != request.node.node_id:
        raise PeerError("a message in another node's name")
    if metadata.dst_node_id != SUPERLINK_NODE or not metadata.reply_to_message_id:
        raise PeerError("a message that answers no order")
    if not tree.object_id or tree.object_id != metadata.message_id:
        raise PeerError("parts of another message")
    if sum(1 for _ in _parts(tree)) > MAX_OBJECTS:
        raise PeerError(f"more than {MAX_OBJECTS} parts")


def _parts(tree: ObjectTree) -> Iterator[ObjectTree]:
    """Every node of the tree; protobuf has bounded how deep it is."""
    yield tree
    for child in tree.children:
        yield from _parts(child)
