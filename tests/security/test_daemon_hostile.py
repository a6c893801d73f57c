"""A malicious or broken coordinator against a hospital's daemon: the daemon goes on, unharmed."""

from __future__ import annotations

import gc
import gzip
import json
import time
from datetime import UTC, datetime
from http.cookiejar import Cookie

import httpx
import pytest
from flwr.app import ConfigRecord, Metadata, RecordDict
from flwr.app.message.message import make_message
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PullMessagesResponse
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import Metadata as MetadataProto
from flwr.proto.message_pb2 import ObjectTree, PullObjectRequest, PullObjectResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from tests.hostile_gateway import HostileGateway

from fedward_client.agent import FIELD, MESSAGE_TYPE, RECORD
from fedward_client.daemon import fleet, transport
from fedward_client.daemon.fleet import FleetLink, NotActivatedError, RunEndedError
from fedward_client.daemon.tls import tls_context
from fedward_client.daemon.transport import LinkError, Transport
from fedward_common.errors import PeerError
from fedward_common.randomness import os_random
from fedward_server.certificates import new_authority

PROTOBUF = {"Content-Type": "application/x-protobuf"}


def silent(*_: object):
    return 200, {}, b""


def clock(seconds_ahead: float, protocol: int = 1):
    told = {"unix_time": time.time() + seconds_ahead, "protocol": protocol, "package": "0.1.0"}
    return lambda *_: (200, {}, json.dumps(told).encode())


def offset(gateway: HostileGateway) -> float:
    connection = gateway.connection()
    with Transport(connection.welcome.gateway, tls_context(connection)) as way:
        return way.clock_offset()


@pytest.mark.parametrize("ahead", [-400.0, 0.0, 3600.0])
def test_the_servers_time_is_what_requests_are_signed_with(tmp_path, ahead):
    with HostileGateway(tmp_path, clock(ahead)) as gateway:
        assert abs(offset(gateway) - ahead) < 30


def test_a_proxy_that_tells_no_time_is_taken_to_agree(tmp_path):
    with HostileGateway(tmp_path, lambda *_: (404, {}, b"")) as gateway:
        assert offset(gateway) == 0.0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "malformed"),
        (b"[" * 100_000, "malformed"),
        (b'{"unix_time": "x", "protocol": 1}', "malformed"),
        (b'{"unix_time": 1' + b"0" * 400 + b', "protocol": 1}', "malformed"),
        (b'{"unix_time": 1' + b"0" * 5000 + b', "protocol": 1}', "malformed"),
        (b'{"unix_time": 1.0, "protocol": 1e999}', "malformed"),
        (b'{"unix_time": Infinity, "protocol": 1}', "no time"),
        (b'{"unix_time": NaN, "protocol": 1}', "no time"),
        (b'{"unix_time": 1e12, "protocol": 1}', "no time"),
        (b'{"unix_time": 1.0, "protocol": 2}', "speaks protocol 2"),
    ],
)
def test_a_time_that_is_none_and_another_protocol_are_refused(tmp_path, body, words):
    with (
        HostileGateway(tmp_path, lambda *_: (200, {}, body)) as gateway,
        pytest.raises(LinkError, match=words),
    ):
        offset(gateway)


def test_no_redirect_is_followed_into_the_hospitals_network(tmp_path):
    with HostileGateway(tmp_path / "inside", silent) as inside:
        place = f"https://127.0.0.1:{inside.port}/admin"
        for status in (301, 302, 307, 308):
            answer = (status, {"Location": place}, b"")
            with HostileGateway(tmp_path / "outside", lambda *_, a=answer: a) as gateway:
                with pytest.raises(LinkError, match=str(status)):
                    offset(gateway)
                with FleetLink(gateway.connection()) as link, pytest.raises(LinkError):
                    link.activate()
        assert inside.asked == []


def test_an_answer_without_end_is_cut_off(tmp_path, monkeypatch):
    """Only the parts of an order may be longer than a mebibyte."""
    monkeypatch.setattr(transport, "MAX_ORDER_BYTES", 1 << 23)
    sizes = {"/v1/time": 1 << 21, transport.PULL_OBJECT: 1 << 21, "/x" + transport.PULL_OBJECT: 1}

    def told(way: Transport, path: str) -> int:
        return len(way.send(httpx.Request("POST", f"{way.base}{path}")).content)

    with HostileGateway(tmp_path, lambda _, path, __: (200, {}, bytes(sizes[path]))) as gateway:
        connection = gateway.connection()
        with Transport(connection.welcome.gateway, tls_context(connection)) as way:
            assert told(way, transport.PULL_OBJECT) == 1 << 21
            sizes |= {transport.PULL_OBJECT: 1 << 24, "/x" + transport.PULL_OBJECT: 1 << 21}
            for path in sizes:
                with pytest.raises(LinkError, match="cut off"):
                    told(way, path)


def test_the_parts_of_an_order_are_counted_together(tmp_path, monkeypatch):
    monkeypatch.setattr(transport, "MAX_ORDER_BYTES", 1 << 20)
    with HostileGateway(tmp_path, lambda *_: (200, {}, bytes(600_000))) as gateway:
        connection = gateway.connection()
        with Transport(connection.welcome.gateway, tls_context(connection)) as way:
            part = httpx.Request("POST", f"{way.base}{transport.PULL_OBJECT}")
            for _ in range(2):
                way.begin_order()
                assert len(way.send(part).content) == 600_000
                with pytest.raises(LinkError, match="cut off"):
                    way.send(part)


LOCATIONS = ("https://[", "https://%zz/", "//a:99999999/", "http://\xe9/", "data:,x", "\x01")


@pytest.mark.parametrize("location", LOCATIONS)
def test_a_redirect_to_nowhere_is_a_refusal(tmp_path, location):
    answer = (302, {"Location": location}, b"")
    with (
        HostileGateway(tmp_path, lambda *_: answer) as gateway,
        FleetLink(gateway.connection()) as link,
    ):
        with pytest.raises(LinkError, match="302"):
            link.activate()
        with pytest.raises(LinkError, match="302"):
            link.measure_clock()


CHARSETS = ("hex", "zlib", "base64", "rot13", "idna", "undefined", "utf-16", "unicode_escape")


@pytest.mark.parametrize("charset", CHARSETS)
def test_a_refusal_in_a_strange_character_set_is_a_refusal(tmp_path, charset):
    answer = (503, {"Content-Type": f"text/plain; charset={charset}", "X": "\xe9"}, b"78" * 5)
    with (
        HostileGateway(tmp_path, lambda *_: answer) as gateway,
        FleetLink(gateway.connection()) as link,
        pytest.raises(LinkError, match="503"),
    ):
        link.activate()


@pytest.mark.parametrize("body", [b"[" * 200_000, b"1" * 5000, b'{"code": 1e999}', b"\xff"])
def test_a_refusal_that_is_no_json_is_a_refusal(tmp_path, body):
    with (
        HostileGateway(tmp_path, lambda *_: (403, {}, body)) as gateway,
        FleetLink(gateway.connection()) as link,
        pytest.raises(LinkError, match="403"),
    ):
        link.activate()


def test_no_cookie_is_kept_and_no_proxy_of_the_environment_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    content = clock(0)()[2]
    with HostileGateway(tmp_path, lambda *_: (200, {"Set-Cookie": "a=b"}, content)) as gateway:
        connection = gateway.connection()
        with Transport(connection.welcome.gateway, tls_context(connection)) as way:
            response = way.send(httpx.Request("GET", f"{way.base}/v1/time"))
            assert response.content == content
            assert list(response.headers) == ["content-length"]  # of what was read
            assert not [item for item in gc.get_objects() if type(item) is Cookie]


def test_an_answer_that_drips_ends_at_its_deadline(tmp_path, monkeypatch):
    monkeypatch.setattr(transport, "ANSWER_SECONDS", 0.0)
    with (
        HostileGateway(tmp_path, lambda *_: (200, {}, b"x")) as gateway,
        pytest.raises(LinkError, match="not complete"),
    ):
        offset(gateway)


def test_nothing_is_unpacked(tmp_path):
    bomb = gzip.compress(bytes(1 << 24))
    with HostileGateway(tmp_path, lambda *_: (200, {"Content-Encoding": "gzip"}, bomb)) as gateway:
        with pytest.raises(LinkError, match="malformed"):
            offset(gateway)
        with FleetLink(gateway.connection()) as link, pytest.raises(LinkError, match="malformed"):
            link.activate()


def test_another_authority_an_old_certificate_and_another_host_are_no_gateway(tmp_path):
    with HostileGateway(tmp_path / "a", clock(0)) as gateway:
        stranger = gateway.connection(authority=new_authority(datetime.now(UTC), os_random))
        with (
            Transport(stranger.welcome.gateway, tls_context(stranger)) as way,
            pytest.raises(LinkError, match="certificate is refused"),
        ):
            way.clock_offset()
    for number, changes in enumerate(({"days_ago": 1000}, {"host": "gateway.example"})):
        with (
            HostileGateway(tmp_path / str(number), clock(0), **changes) as gateway,
            pytest.raises(LinkError, match="certificate is refused"),
        ):
            offset(gateway)
        assert gateway.asked == []


def test_a_refused_certificate_of_this_site_is_named_as_the_likely_reason(tmp_path):
    with HostileGateway(tmp_path, clock(0)) as gateway:
        old = gateway.connection(days_ago=1000)
        with (
            Transport(old.welcome.gateway, tls_context(old)) as way,
            pytest.raises(LinkError, match="this site's certificate"),
        ):
            way.clock_offset()


def test_nobody_there_is_one_line(tmp_path):
    with HostileGateway(tmp_path, silent) as gateway:
        connection = gateway.connection()
    with (
        Transport(connection.welcome.gateway, tls_context(connection)) as way,
        pytest.raises(LinkError, match="cannot be reached"),
    ):
        way.clock_offset()


def test_a_refusal_is_shown_without_what_a_terminal_would_obey(tmp_path):
    text = b"\x1b[2Jcertificate revoked\nmore" + b"x" * 5000
    with HostileGateway(tmp_path, lambda *_: (403, {}, text)) as gateway:
        with pytest.raises(LinkError) as caught:
            offset(gateway)
        assert "403: " in str(caught.value)
        assert "certificate revoked" in str(caught.value)
        assert "\x1b" not in str(caught.value)
        assert "more" not in str(caught.value)


def order(content: RecordDict | None = None, kind: str = MESSAGE_TYPE):
    """An order as a SuperLink hands it out: (its proto without content, its tree, its objects)."""
    metadata = Metadata(3, "", 1, 17, "", "", time.time(), 600.0, kind)
    asked = {FIELD: b"abc", "salt": bytes(16)}
    records = RecordDict({RECORD: ConfigRecord(asked)}) if content is None else content
    message = make_message(metadata, records)
    message.metadata.__dict__["_message_id"] = message.object_id
    proto = MessageProto(
        metadata=MetadataProto(
            run_id=3,
            message_id=message.object_id,
            src_node_id=1,
            dst_node_id=17,
            created_at=metadata.created_at,
            ttl=metadata.ttl,
            message_type=kind,
        )
    )
    objects = {name: item.deflate() for name, item in get_all_nested_objects(message).items()}
    return proto, get_object_tree(message), objects


class Orders:
    """Answers as a SuperLink that holds one order."""

    def __init__(self, proto, trees, objects) -> None:
        self.pull = PullMessagesResponse(messages_list=[proto], message_object_trees=trees)
        self.objects = objects

    def __call__(self, _method: str, path: str, body: bytes):
        match path.rsplit("/", 1)[1]:
            case "activate-node":
                reply = ActivateNodeResponse(node_id=17)
            case "pull-messages":
                reply = self.pull
            case "pull-object":
                name = PullObjectRequest.FromString(body).object_id
                found = name in self.objects
                reply = PullObjectResponse(
                    object_found=found,
                    object_available=found,
                    object_content=self.objects.get(name, b""),
                )
            case _:
                return 200, PROTOBUF, b""
        return 200, PROTOBUF, reply.SerializeToString()


def fetched(tmp_path, orders: Orders) -> bytes:
    with HostileGateway(tmp_path, orders) as gateway, FleetLink(gateway.connection()) as link:
        link.activate()
        announced = link.pull()
        assert announced is not None
        try:
            return link.fetch(announced)
        finally:
            assert not [path for path in gateway.asked if "fab" in path]


def test_an_honest_order_arrives(tmp_path):
    proto, tree, objects = order()
    assert fetched(tmp_path, Orders(proto, [tree], objects)) == b"abc"


def test_an_order_without_salt_is_served_too(tmp_path):
    proto, tree, objects = order(RecordDict({RECORD: ConfigRecord({FIELD: b"abc"})}))
    assert fetched(tmp_path, Orders(proto, [tree], objects)) == b"abc"


def _without_a_part(proto, tree, objects):
    return proto, [tree], dict(list(objects.items())[1:])


def _with_a_garbled_part(proto, tree, objects):
    return proto, [tree], {name: content[:-3] for name, content in objects.items()}


def _with_parts_of_nothing(proto, tree, objects):
    return proto, [tree], dict.fromkeys(objects, b"")


def _in_too_many_parts(proto, _tree, objects):
    many = ObjectTree(object_id="0" * 64, children=[ObjectTree(object_id="1" * 64)] * 9)
    return proto, [many], objects


def _announced_without_parts(proto, _tree, objects):
    return proto, [], objects


def _part_of_itself(proto, tree, objects):
    head = f"RecordDict {tree.object_id} 0\0".encode()
    return proto, [tree], dict.fromkeys(objects, head)


DEFECTS = (
    _without_a_part,
    _with_a_garbled_part,
    _with_parts_of_nothing,
    _in_too_many_parts,
    _announced_without_parts,
    _part_of_itself,
)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.__name__)
def test_a_malformed_order_is_the_peers_fault_and_no_more(tmp_path, defect, monkeypatch):
    monkeypatch.setattr(fleet, "OBJECT_SECONDS", 0.2)  # a part that never comes
    with pytest.raises(PeerError):
        fetched(tmp_path, Orders(*defect(*order())))


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"other": ConfigRecord({FIELD: b"abc"})}),
        RecordDict({RECORD: ConfigRecord({FIELD: "text"})}),
    ],
)
def test_an_order_without_our_record_is_refused(tmp_path, content):
    proto, tree, objects = order(content)
    with pytest.raises(PeerError, match="record"):
        fetched(tmp_path, Orders(proto, [tree], objects))


def test_another_type_of_message_is_refused(tmp_path):
    proto, tree, objects = order(kind="train")
    with pytest.raises(PeerError, match="not fedward's"):
        fetched(tmp_path, Orders(proto, [tree], objects))


def flower_error(code: int) -> bytes:
    return json.dumps({"code": code, "detail": "no"}).encode()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(403, 2007, RunEndedError), (412, 2004, NotActivatedError), (401, 1, LinkError)],
)
def test_flowers_own_refusals_are_told_apart(tmp_path, status, code, kind):
    answer = (status, {"Content-Type": "application/json"}, flower_error(code))
    with (
        HostileGateway(tmp_path, lambda *_: answer) as gateway,
        FleetLink(gateway.connection()) as link,
        pytest.raises(kind),
    ):
        link.activate()


@pytest.mark.parametrize("known", [True, False])
def test_a_session_whose_process_died_is_gone_on_with_if_the_server_knows_it(tmp_path, known):
    beats = []

    def answer(_method: str, path: str, body: bytes):
        if path.endswith("send-node-heartbeat"):
            beats.append(SendNodeHeartbeatRequest.FromString(body).node.node_id)
            return 200, PROTOBUF, SendNodeHeartbeatResponse(success=known).SerializeToString()
        return 412, {"Content-Type": "application/json"}, flower_error(2004)

    with HostileGateway(tmp_path, answer) as gateway, FleetLink(gateway.connection()) as link:
        if known:
            link.activate(abandoned=17)
            assert link.node_id == 17
        else:
            with pytest.raises(NotActivatedError):
                link.activate(abandoned=17)
            assert link.node_id == 0
        assert not [path for path in gateway.asked if "deactivate" in path]
    assert beats == [17]
