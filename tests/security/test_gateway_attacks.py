"""Attacks on the gateway over real sockets: nothing of them reaches what stands behind it."""

from __future__ import annotations

import base64
import os
import ssl
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from tests.gateway_world import (
    GatewayWorld,
    Member,
    Upstream,
    expired,
    make_world,
    node_headers,
    read_response,
    request,
    self_made,
    serving,
    wait_until,
)

from fedward_common.identity import SiteIdentity
from fedward_common.randomness import os_random
from fedward_server.certificates import new_authority
from fedward_server.consortium import authority_of, revoke_site
from fedward_server.gateway_limits import (
    BYTES_PER_MINUTE,
    FLEET_PATHS,
    MIB,
    OBJECT_BYTES,
    PUSH_MESSAGES,
    REQUEST_BYTES,
    Limits,
)

PULL = "/v1/fleet/pull-messages"
NAMES = ("north", "south", "west", "east")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("gateway"), NAMES)


@pytest.fixture(scope="module")
def running(world, tmp_path_factory):
    with (
        Upstream(tmp_path_factory.mktemp("upstream")) as upstream,
        serving(world, upstream, {"BODY_SECONDS": 600.0}) as process,  # a busy machine is slow
    ):
        upstream.gateway = process.pid
        yield upstream


@pytest.fixture
def upstream(running):
    running.seen.clear()
    return running


@pytest.fixture
def north(world) -> Member:
    return world.members["north"]


def refused(answer: tuple[int, dict[str, str], bytes], status: int, upstream: Upstream) -> str:
    """The gateway itself answered with ``status``, and nothing passed; returns its line."""
    assert (answer[0], upstream.seen) == (status, [])
    return answer[2].decode()


def shut_out(world: GatewayWorld, member: Member | None, upstream: Upstream) -> None:
    """Not even HTTP is spoken: the handshake fails."""
    try:
        status, _, _ = world.post(member, PULL)
    except (ssl.SSLError, ConnectionError):
        status = 0
    assert (status, upstream.seen) == (0, [])


def test_an_enrolled_site_gets_through_with_its_own_headers_only(world, upstream, north):
    headers = {**north.headers(), "x-forwarded-for": "1.2.3.4", "cookie": "a=b", "flwr-x": "kept"}
    status, answer, body = world.post(north, PULL, headers, b"\x0a\x02hi")
    assert (status, body) == (200, upstream.answer)
    assert "set-cookie" not in answer
    assert answer["flwr-package-version"] == "1.41.0"
    ((path, seen, sent),) = upstream.seen
    assert (path, sent) == (PULL, b"\x0a\x02hi")
    lowered = {name.lower() for name in seen}
    assert {"flwr-public-key", "flwr-signature", "flwr-timestamp", "flwr-x"} <= lowered
    assert not lowered & {"x-forwarded-for", "cookie"}


def test_every_path_that_a_node_needs_passes(world, upstream, north):
    for path in FLEET_PATHS:
        body = announced().SerializeToString() if path == PUSH_MESSAGES else b"any"
        assert world.post(north, path, body=body)[0] == 200
        assert upstream.seen[-1][2] == body
    assert [path for path, _, _ in upstream.seen] == list(FLEET_PATHS)


def test_without_a_certificate(world, upstream):
    shut_out(world, None, upstream)


def test_with_an_expired_certificate(world, upstream, north):
    shut_out(world, expired(world, north), upstream)


def test_with_a_certificate_of_another_authority(world, upstream, north):
    shut_out(world, self_made(world, north, new_authority(datetime.now(UTC), os_random)), upstream)


def test_with_a_certificate_of_ours_for_a_key_that_is_not_enrolled(world, upstream):
    """Were the CA's key used for anybody else, the gateway would still know its own list."""
    stranger = Member(SiteIdentity.generate("stranger", os_random), "")
    known = self_made(world, stranger, authority_of(world.server))
    assert "not enrolled" in refused(world.post(known, PULL), 403, upstream)


def test_with_tls_1_2(world, upstream, north):
    context = world.context(north)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(world.connect(north).unwrap(), server_hostname="127.0.0.1")
    assert upstream.seen == []


def test_a_sites_headers_over_another_sites_certificate(world, upstream, north):
    """Replayed headers of one site are valid for Flower: only the certificate tells."""
    south = world.members["south"]
    assert "not the certificate's" in refused(
        world.post(north, PULL, south.headers()), 403, upstream
    )
    assert "not the certificate's" in refused(
        world.post(south, PULL, north.headers()), 403, upstream
    )


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda h: h.pop("flwr-public-key"), "exactly one"),
        (lambda h: h.update({"flwr-public-key": "not base64!"}), "holds no key"),
        (lambda h: h.update({"flwr-public-key": base64.b64encode(b"x").decode()}), "holds no key"),
    ],
)
def test_a_header_without_a_node_key(world, upstream, north, change, line):
    headers = north.headers()
    change(headers)
    assert line in refused(world.post(north, PULL, headers), 403, upstream)


def test_two_node_keys_in_one_request(world, upstream, north):
    """A proxy and a server that read different ones of two headers are how checks are passed."""
    other = node_headers(world.members["south"].identity)["flwr-public-key"]
    headers = {**north.headers(), "Flwr-Public-Key": other}
    assert "exactly one" in refused(world.post(north, PULL, headers), 403, upstream)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/get-fab",
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/control/list-runs",
        "/v1/runtime/acquire-task",
        "/v1/runtime/pull-messages",
        "/v1/runtime/push-messages",
        "/health",
        "/metrics",
        "/status",
        "/docs",
        "/openapi.json",
        "/",
        "//v1/fleet/pull-messages",
        "/v1/fleet/pull-messages/",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/pull-messages%00",
        "/V1/FLEET/PULL-MESSAGES",
        "http://127.0.0.1/v1/control/start-run",
    ],
)
def test_a_path_that_no_node_needs(world, upstream, north, path):
    assert "no such path" in refused(world.post(north, path), 404, upstream)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_another_method(world, upstream, north, method):
    status, _, _ = world.post(north, PULL, method=method)
    assert (status, upstream.seen) == (404, [])


def test_a_declared_body_that_is_too_long(world, upstream, north):
    """Refused by its length alone: not a byte of it is read."""
    for path, limit in ((PULL, REQUEST_BYTES), ("/v1/fleet/push-object", OBJECT_BYTES)):
        with world.connect(north) as connection:
            head = request(path, north.headers(), b"").replace(
                b"content-length: 0", b"content-length: %d" % (limit + 1)
            )
            connection.sendall(head)
            assert "longer than" in refused(read_response(connection), 413, upstream)


def test_a_chunked_body_that_is_too_long(world, upstream, north):
    with world.connect(north) as connection:
        head = request(PULL, north.headers(), b"").replace(
            b"content-length: 0", b"transfer-encoding: chunked"
        )
        connection.sendall(head)
        piece = bytes(64 * 1024)
        chunk = b"%x\r\n" % len(piece) + piece + b"\r\n"
        try:
            for _ in range(REQUEST_BYTES // len(piece) + 1):
                connection.sendall(chunk)
        except (ConnectionError, ssl.SSLError):
            pass  # it was cut off already
        assert "longer than" in refused(read_response(connection), 413, upstream)


def test_a_length_and_chunks_in_one_request(world, upstream, north):
    """Request smuggling: what passes is written anew, with one framing."""
    with world.connect(north) as connection:
        smuggled = request("/v1/control/start-run", {}, b"")
        head = request(PULL, {**north.headers(), "transfer-encoding": "chunked"}, b"")
        connection.sendall(head + b"0\r\n\r\n" + smuggled)
        read_response(connection)
    assert all(path == PULL and sent == b"" for path, _, sent in upstream.seen)


def test_headers_that_are_too_long(world, upstream, north):
    headers = {**north.headers(), "x-long": "x" * 64 * 1024}
    status, _, _ = world.post(north, PULL, headers)
    assert status in {400, 431}  # by the parser if it comes in pieces, else by the gateway
    assert upstream.seen == []


def test_a_header_that_grows_without_end(world, upstream, north):
    with world.connect(north) as connection:
        connection.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: x\r\nx-long: ")
        try:
            for _ in range(64):
                connection.sendall(bytes(64 * 1024).replace(b"\0", b"x"))
        except (ConnectionError, ssl.SSLError):
            pass  # it was cut off already
        status, _, _ = read_response(connection)
    assert status in {0, 400}
    assert upstream.seen == []


def test_what_the_superlink_sets_for_one_site_is_not_sent_for_another(world, upstream, north):
    for name in ("north", "south"):
        assert world.post(world.members[name], PULL)[0] == 200
    assert not [seen for _, seen, _ in upstream.seen if "cookie" in map(str.lower, seen)]


def test_a_large_object_passes_whole(world, upstream, north):
    body = os_random(8 * 1024 * 1024)
    assert world.post(north, "/v1/fleet/push-object", body=body)[0] == 200
    assert upstream.seen[0][2] == body


def announced(**changes) -> PushMessagesRequest:
    """What a node announces before it uploads an answer: as it should be, but for ``changes``."""
    metadata = {
        "src_node_id": 7, "dst_node_id": SUPERLINK_NODE_ID, "message_id": "ab" * 32,
        "reply_to_message_id": "cd" * 32,
    }  # fmt: skip
    metadata |= {name: value for name, value in changes.items() if name in metadata}
    parts = ObjectTree(object_id=changes.get("root", metadata["message_id"]))
    for number in range(changes.get("children", 2)):
        parts.children.add(object_id=f"{number:064x}")
    request = PushMessagesRequest(node=Node(node_id=7))
    request.messages_list.extend(
        [Message(metadata=Metadata(**metadata))] * changes.get("messages", 1)
    )
    request.message_object_trees.extend([parts] * changes.get("trees", 1))
    request.clientapp_runtime_list.extend(changes.get("seconds", []))
    return request


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"src_node_id": SUPERLINK_NODE_ID}, "another node's name"),  # an order, as if we sent it
        ({"src_node_id": 8}, "another node's name"),
        ({"src_node_id": 0}, "another node's name"),
        ({"dst_node_id": 8}, "answers no order"),
        ({"reply_to_message_id": ""}, "answers no order"),
        ({"root": "ef" * 32}, "parts of another message"),  # names that another is about to use
        ({"message_id": ""}, "parts of another message"),
        ({"children": 8}, "more than 8 parts"),
        ({"messages": 0, "trees": 0}, "exactly one message"),
        ({"messages": 2, "trees": 2}, "exactly one message"),
        ({"trees": 2}, "exactly one message"),
        ({"seconds": [0.5]}, "how long a site took"),
    ],
)
def test_a_message_that_is_not_the_sites_own_answer(world, upstream, north, changes, words):
    body = announced(**changes).SerializeToString()
    assert words in refused(world.post(north, PUSH_MESSAGES, body=body), 400, upstream)


def test_an_announcement_that_is_none(world, upstream, north):
    nested = b""
    for _ in range(200):
        nested = b"\x12" + _varint(len(nested)) + nested  # field 2 of ObjectTree: a child
    for body in (b"\xff" * 1000, b"\x1a" + _varint(len(nested)) + nested):
        answer = world.post(north, PUSH_MESSAGES, body=body)
        assert "not a PushMessagesRequest" in refused(answer, 400, upstream)


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low]) if not rest else bytes([low | 0x80]) + _varint(rest)


def test_a_site_may_send_four_of_the_largest_answers_in_a_minute_and_not_five():
    limits, key = Limits(), b"key"
    for _ in range(4):
        assert limits.begin(key, 0.0) is None
        assert limits.take(key, OBJECT_BYTES) is None
        limits.end(key)
    assert limits.begin(key, 0.0) is None
    assert "more than 256 MiB a minute" in str(limits.take(key, MIB))
    limits.end(key)
    assert "more than 256 MiB" in str(limits.begin(key, 0.1))
    assert limits.begin(b"another", 0.1) is None
    assert limits.begin(key, 30.0) is None
    assert limits.take(key, BYTES_PER_MINUTE // 2 - 2 * MIB) is None


def test_a_body_where_none_belongs(world, upstream, north):
    """What comes after the answer is not read: the connection ends."""
    for framing in (b"content-length: 1000000000000", b"transfer-encoding: chunked"):
        with world.connect(north) as connection:
            head = request("/v1/time", {}, b"", "GET").replace(b"content-length: 0", framing)
            connection.sendall(head)
            assert "no body" in refused(read_response(connection), 400, upstream)
            endless = bytes(64 * MIB)
            with pytest.raises(OSError):
                connection.sendall(endless)


def test_a_site_that_is_revoked_within_a_body_does_not_finish_it(world, upstream):
    member = world.enrol("leaving")
    wait_until(lambda: world.post(member, PULL)[0] == 200)
    upstream.seen.clear()
    body = bytes(40_000)
    with world.connect(member) as connection:
        head = request("/v1/fleet/push-object", member.headers(), b"").replace(
            b"content-length: 0", b"content-length: %d" % len(body)
        )
        connection.sendall(head + body[:16_384])
        time.sleep(1.1)  # CRLs are dated in seconds, and OpenSSL takes up a later one only
        revoke_site(world.server, "leaving", datetime.now(UTC))
        wait_until(lambda: dropped(world, member))
        upstream.seen.clear()
        connection.sendall(body[16_384:])
        assert "revoked" in refused(read_response(connection), 403, upstream)


def test_time_is_told_to_sites(world, upstream, north):
    status, _, body = world.post(north, "/v1/time", method="GET")
    assert status == 200
    assert b'"protocol": 1' in body
    assert upstream.seen == []


def test_a_revoked_site_is_cut_off_within_an_open_connection_and_at_the_handshake(world, upstream):
    west = world.members["west"]
    with world.connect(west) as open_before:
        open_before.sendall(request(PULL, west.headers(), b""))
        assert read_response(open_before)[0] == 200
        revoke_site(world.server, "west", datetime.now(UTC))
        wait_until(lambda: dropped(world, west))
        upstream.seen.clear()
        open_before.sendall(request(PULL, west.headers(), b""))
        assert "revoked" in refused(read_response(open_before), 403, upstream)
    shut_out(world, west, upstream)
    assert world.post(world.members["north"], PULL)[0] == 200


def test_a_replaced_key_is_cut_off_at_once_if_the_identity_is_another(world, upstream):
    old = world.members["east"]
    new = world.enrol("east", replace=True)
    wait_until(lambda: dropped(world, old))
    upstream.seen.clear()
    shut_out(world, old, upstream)
    assert world.post(new, PULL)[0] == 200


def dropped(world: GatewayWorld, member: Member) -> bool:
    try:
        return world.post(member, PULL)[0] == 0
    except (ssl.SSLError, ConnectionError):
        return True


def test_a_port_that_is_taken_is_said_in_one_line(world, upstream):
    command = [sys.executable, "-m", "fedward_server.gateway_process", str(world.server), "20001"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    *_, last = done.stderr.splitlines()
    assert done.returncode == 1
    assert f"{world.port}: cannot listen (another program listens there)" in last
    assert "Traceback" not in done.stderr


def test_as_many_files_may_be_open_as_the_machine_allows(world, running):
    limits = Path(f"/proc/{running.gateway}/limits").read_text()
    soft, hard = next(r for r in limits.splitlines() if r.startswith("Max open files")).split()[3:5]
    assert soft == hard


def test_metrics_and_status_say_who_was_refused(world, upstream, north):
    world.post(north, "/v1/fleet/get-fab")
    metrics = world.metrics()
    assert metrics['fedward_gateway_refused_total{site="north"}'] >= 1
    assert metrics['fedward_site_last_seen_timestamp_seconds{site="north"}'] > 1.7e9
    assert metrics['fedward_gateway_requests_total{path="other",status="404"}'] >= 1
    assert world.admin("/health") == (200, "ok\n")
    assert '"north": "no such path' in world.admin("/status")[1]
    assert world.admin("/v1/fleet/pull-messages")[0] == 404
