"""The parts of Flower's Fleet API that the hospital's daemon relies on are as they were.

What the calls do on the wire is tried in tests/security/test_daemon_hostile.py and, against the
real SuperLink, in tests/integration/test_daemon.py.
"""

from __future__ import annotations

import inspect
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from flwr.app import Metadata, RecordDict
from flwr.app.message.message import make_message
from flwr.common.constant import (
    HEARTBEAT_MIN_INTERVAL,
    HEARTBEAT_PATIENCE,
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_HEADER,
    TIMESTAMP_TOLERANCE,
)
from flwr.common.serde import message_to_proto
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.server.utils.validator import validate_message
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import (
    inflate_object_from_contents,
    pull_and_inflate_object_from_tree,
    push_objects,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supernode.fleet_http_client import FleetHttpClient

from fedward_client.agent import answer_content
from fedward_client.daemon.fleet import HEARTBEAT_SECONDS, _reply_metadata
from fedward_client.daemon.loop import BEAT_SECONDS
from fedward_client.daemon.transport import BEAT_TIMEOUT

CALLS = {
    "ActivateNode", "DeactivateNode", "SendNodeHeartbeat", "PullMessages", "PullObject",
    "ConfirmMessageReceived", "PushMessages", "PushObject",
}  # fmt: skip
A_DAY = 86400.0  # an order that outlives the slowest run of the tests
ORDER = Metadata(
    3, "ab" * 32, 1, 17, "", "g", datetime.now(UTC).timestamp(), A_DAY, "query.fedward"
)


def answer(payload: bytes = b"\x00\xff"):
    """An answer as the daemon builds it."""
    return make_message(_reply_metadata(ORDER), answer_content(payload, ORDER.message_id))


def test_the_client_has_the_calls_and_takes_interceptors_and_a_context() -> None:
    assert {name for name in vars(FleetHttpClient) if name[0].isupper()} >= CALLS
    parameters = inspect.signature(ProtobufClient.__init__).parameters
    assert list(parameters) == [
        "self", "base_url", "interceptors", "verify", "timeout", "retry_invoker",
    ]  # fmt: skip
    assert parameters["retry_invoker"].default is None  # nothing is tried again behind our back


def test_the_interceptor_nearest_to_the_wire_may_send_by_itself() -> None:
    class Sender:
        def intercept(self, context, call_next):
            seen.append((context.request.method, context.request.url.path))
            raise InterruptedError

    seen: list[tuple[str, str]] = []
    client = FleetHttpClient("https://127.0.0.1:1", interceptors=[Sender()])
    with client, pytest.raises(InterruptedError):
        client.PullMessages(PullMessagesRequest())
    assert seen == [("POST", "/v1/fleet/pull-messages")]


def test_a_node_is_authenticated_by_a_signed_time() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    key.public_key().verify(sign_message(key, b"now"), b"now", ec.ECDSA(SHA256()))
    assert public_key_to_bytes(key.public_key()).startswith(b"-----BEGIN PUBLIC KEY-----")
    assert FLEET_HTTP_PUBLIC_KEY_HEADER == "flwr-public-key"
    assert FLEET_HTTP_SIGNATURE_HEADER == "flwr-signature"
    assert TIMESTAMP_HEADER == "flwr-timestamp"
    assert (SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE) == (5, 300)
    names = {name for name, _ in RuntimeVersionMetadata.from_local_component("x").as_metadata()}
    assert names == {"flwr-package-name", "flwr-package-version", "flwr-component-name"}


def test_our_heartbeat_is_taken_and_one_may_be_lost() -> None:
    assert HEARTBEAT_MIN_INTERVAL <= HEARTBEAT_SECONDS
    slowest = 2 * BEAT_TIMEOUT  # of one beat: to connect, and to be answered
    assert 2 * (BEAT_SECONDS + slowest) < HEARTBEAT_PATIENCE * HEARTBEAT_SECONDS


def test_refusals_have_these_codes() -> None:
    assert ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED == 2007
    assert ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED == 2004
    told = FlowerError.from_json('{"code": 2007, "detail": "no"}')
    assert told is not None
    assert told.code == ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED
    assert FlowerError.from_json("<html>") is None


def test_an_answer_is_the_same_message_whenever_it_is_made() -> None:
    """The server takes one answer to an order and knows it by its hash: a resend must be equal."""
    assert answer().object_id == answer().object_id
    assert answer(b"other").object_id != answer().object_id


def test_no_part_of_an_answer_can_be_foretold_without_the_orders_id() -> None:
    """The server knows parts by their hashes: whoever registers one first could block the other."""
    other = make_message(_reply_metadata(ORDER), answer_content(b"\x00\xff", "cd" * 32))
    assert not set(get_all_nested_objects(answer())) & set(get_all_nested_objects(other))


def test_the_servers_validator_takes_an_answer_dated_as_its_order() -> None:
    reply = answer()
    reply.metadata.__dict__["_message_id"] = reply.object_id
    bare = make_message(reply.metadata, RecordDict())
    assert validate_message(bare, is_reply_message=True) == []
    assert metadata_from_proto(message_to_proto(bare).metadata).message_id == reply.object_id


def test_an_order_is_pulled_in_parts_and_put_together() -> None:
    reply = answer()
    parts = get_all_nested_objects(reply)
    tree = get_object_tree(reply)
    assert len(list(iterate_object_tree(tree))) == len(parts) == 3
    contents = {name: item.deflate() for name, item in parts.items()}
    again = inflate_object_from_contents(reply.object_id, dict(contents))
    assert again.content.config_records["fedward"]["message"] == b"\x00\xff"
    names = set(inspect.signature(pull_and_inflate_object_from_tree).parameters)
    assert names >= {"return_type", "max_time", "max_tries_per_object", "initial_backoff"}
    sent: dict[str, bytes] = {}
    push_objects(parts, sent.__setitem__, object_ids_to_push=set(contents))
    assert sent == contents
