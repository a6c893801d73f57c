"""An in-memory Flower Grid: real Messages, encoded and decoded, between real apps.

Every message crosses as the bytes that Flower would put on a wire, so byte counts are true and
nothing is shared by reference. Sites answer on a small pool of threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedward_common.errors import MisuseError

Node = Callable[[Message], Message]

PULL_SECONDS = 1.0
"""How long a pull waits for a first reply, so that the server need not poll."""

APP_FAILED = 0
"""Flower's error code for an unknown failure of a ClientApp."""


class InMemoryGrid(Grid):
    """Delivers messages to ``nodes`` (node id to ClientApp bound to its context)."""

    def __init__(self, nodes: Mapping[int, Node], *, run_id: int = 1, workers: int = 2) -> None:
        self._nodes = dict(nodes)
        self._run = Run.create_empty(run_id)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="site")
        self._pending: dict[str, Future[bytes]] = {}
        self._numbers = itertools.count(1)
        # Message() reads these process-wide values.
        TaskIdentity.run_id = run_id
        TaskIdentity.node_id = SUPERLINK_NODE_ID
        TaskIdentity.task_id = 1

    def set_run(self, run: Run) -> None:
        """Adopt ``run``."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run all messages belong to."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message to a node (Flower's older interface)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Every simulated site."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Encode each message and hand it to its node's thread."""
        identifiers = []
        for message in messages:
            identifier = f"m{next(self._numbers)}"
            message.metadata.__dict__["_message_id"] = identifier
            data = message_to_proto(message).SerializeToString()
            node = self._nodes[message.metadata.dst_node_id]
            self._pending[identifier] = self._pool.submit(_deliver, node, data)
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there, each once; wait a little for the first."""
        known = {i: self._pending[i] for i in message_ids if i in self._pending}
        wait(known.values(), timeout=PULL_SECONDS, return_when=FIRST_COMPLETED)
        ready = [identifier for identifier, future in known.items() if future.done()]
        return [_decode(self._pending.pop(identifier).result()) for identifier in ready]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push, then wait for every reply."""
        identifiers = list(self.push_messages(messages))
        return [_decode(self._pending.pop(i).result(timeout)) for i in identifiers]

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def bind(app: Callable[[Message, Context], Message], context: Context) -> Node:
    """A node that runs ``app`` in its own context."""
    return lambda message: app(message, context)


def _deliver(node: Node, data: bytes) -> bytes:
    message = _decode(data)
    try:
        reply = node(message)
    except Exception as error:  # noqa: BLE001  (as Flower does: an app's failure is an error reply)
        reply = Message(Error(APP_FAILED, type(error).__name__), reply_to=message)
    return bytes(message_to_proto(reply).SerializeToString())


def _decode(data: bytes) -> Message:
    proto = ProtoMessage.FromString(data)
    message = message_from_proto(proto)
    if not isinstance(message, Message):
        raise MisuseError("the grid carries Flower messages only")
    return message
