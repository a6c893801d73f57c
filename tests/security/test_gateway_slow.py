"""Clients that take their time: the gateway lets go of them, and serves the others meanwhile."""

from __future__ import annotations

import socket
import threading

import pytest
from tests.gateway_world import (
    HOST,
    PATIENCE,
    Upstream,
    make_world,
    read_response,
    request,
    serving,
)

from fedward_server.gateway_limits import CONNECTIONS_PER_SITE, REQUESTS_AT_ONCE

PULL, PUSH = "/v1/fleet/pull-messages", "/v1/fleet/push-object"
SHORT = {"HANDSHAKE_SECONDS": 1.0, "HEADER_SECONDS": 1.0, "BODY_SECONDS": 1.0, "BURST": 40.0,
         "REQUESTS_PER_SECOND": 1.0}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("gateway"), ("north", "south"))


@pytest.fixture(scope="module")
def upstream(world, tmp_path_factory):
    with Upstream(tmp_path_factory.mktemp("upstream")) as made, serving(world, made, SHORT):
        yield made


@pytest.fixture
def north(world):
    return world.members["north"]


def test_no_handshake_at_all(world, upstream):
    with socket.create_connection((HOST, world.port), timeout=PATIENCE) as raw:
        assert raw.recv(1) == b""  # not a byte was sent: the gateway hangs up


def test_a_header_that_never_ends(world, upstream, north):
    with world.connect(north) as connection:
        connection.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: x\r\nx-slow: ")
        assert read_response(connection)[0] == 408
        assert connection.recv(1) == b""


def test_a_second_header_that_never_ends(world, upstream, north):
    """After a good request, when other timers have run."""
    with world.connect(north) as connection:
        connection.sendall(request(PULL, north.headers(), b""))
        assert read_response(connection)[0] == 200
        connection.sendall(b"POST /v1/fl")
        assert read_response(connection)[0] == 408


def test_a_body_that_never_comes(world, upstream, north):
    before = len(upstream.seen)
    with world.connect(north) as connection:
        head = request(PUSH, north.headers(), b"").replace(
            b"content-length: 0", b"content-length: 1000000"
        )
        connection.sendall(head + bytes(1000))
        status, _, line = read_response(connection)
    assert (status, line) == (408, b"the body came too slowly\n")
    assert len(upstream.seen) == before


def test_slow_bodies_of_one_site_keep_nobody_else_waiting(world, upstream, north):
    south = world.members["south"]
    head = request(PUSH, south.headers(), b"").replace(
        b"content-length: 0", b"content-length: 1000000"
    )
    held = [world.connect(south) for _ in range(REQUESTS_AT_ONCE)]
    for connection in held:
        connection.sendall(head)
    assert world.post(north, PULL)[0] == 200
    for connection in held:
        connection.close()


def test_a_site_may_hold_so_many_connections_only(world, upstream, north):
    held = [world.connect(north) for _ in range(CONNECTIONS_PER_SITE + 4)]
    answers: list[int] = []

    def ask(connection) -> None:
        try:
            connection.sendall(request("/v1/time", {}, b"", "GET"))
            answers.append(read_response(connection)[0])
        except OSError:
            answers.append(0)

    threads = [threading.Thread(target=ask, args=(connection,)) for connection in held]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for connection in held:
        connection.close()
    assert answers.count(0) >= 4


def test_too_many_requests_are_refused_and_a_pause_mends_it(world, upstream):
    south = world.members["south"]
    with world.connect(south) as connection:
        codes = []
        for _ in range(int(SHORT["BURST"]) + 10):
            connection.sendall(request("/v1/time", {}, b"", "GET"))
            codes.append(read_response(connection)[0])
            if codes[-1] != 200:
                break
    assert codes[-1] == 429
    assert codes.count(200) >= 10
