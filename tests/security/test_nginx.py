"""The configuration for nginx, in a real nginx: it lets through and refuses as our gateway does."""

from __future__ import annotations

import shutil
import signal
import ssl
import subprocess
from datetime import UTC, datetime

import pytest
from tests.gateway_world import (
    PATIENCE,
    Upstream,
    expired,
    make_world,
    reachable,
    read_response,
    request,
    self_made,
    wait_until,
)

from fedward_common.randomness import os_random
from fedward_server import nginx
from fedward_server.certificates import new_authority
from fedward_server.consortium import gateway_certificate, revoke_site
from fedward_server.gateway_limits import FLEET_PATHS, OBJECT_BYTES, REQUEST_BYTES

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
PULL = "/v1/fleet/pull-messages"

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

MAIN = """\
daemon off;
master_process on;
worker_processes 1;
user {user};
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/fedward.conf;
}}
"""


class Nginx:
    """nginx with the world's configuration; :meth:`reload` makes it again, as its operator does."""

    def __init__(self, world, upstream, folder):
        self.world, self.upstream, self.folder = world, upstream, folder
        (folder / "nginx.conf").write_text(MAIN.format(folder=folder, user=_me()))
        self._write()
        self.process = subprocess.Popen(
            [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
        )
        wait_until(lambda: reachable(world.port))

    def _write(self) -> None:
        port = self.upstream.link.port
        text = nginx.nginx_configuration(self.world.server, port, datetime.now(UTC))
        (self.folder / "fedward.conf").write_text(text)

    def reload(self) -> None:
        self._write()
        self.process.send_signal(signal.SIGHUP)

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)


def _me() -> str:
    import getpass

    return getpass.getuser()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = make_world(tmp_path_factory.mktemp("gateway"), ("north", "south", "west"))
    gateway_certificate(made.server, datetime.now(UTC), os_random)
    return made


@pytest.fixture(scope="module")
def running(world, tmp_path_factory):
    with (
        pytest.MonkeyPatch.context() as patch,
        Upstream(tmp_path_factory.mktemp("upstream")) as upstream,
    ):
        for name in ("HEADER_SECONDS", "BODY_SECONDS"):
            patch.setattr(nginx, name, 1.0)
        (world.server / "superlink").symlink_to(upstream.folder, target_is_directory=True)
        made = Nginx(world, upstream, tmp_path_factory.mktemp("nginx"))
        yield made
        made.close()


@pytest.fixture
def upstream(running):
    running.upstream.seen.clear()
    return running.upstream


@pytest.fixture
def north(world):
    return world.members["north"]


def test_an_enrolled_site_passes_on_every_path_that_it_needs(world, upstream, north):
    for path in FLEET_PATHS:
        given = {
            **north.headers(), "cookie": "a=b", "x-forwarded-for": "1.2.3.4", "flwr-other": "x",
            "flwr-package-name": "flwr", "flwr-package-version": "1.41.0",
            "flwr-component-name": "supernode",
        }  # fmt: skip
        status, headers, body = world.post(north, f"{path}?a=b", given, b"hi")
        assert (status, body) == (200, upstream.answer), path
        assert "set-cookie" not in headers
    assert [path for path, _, _ in upstream.seen] == list(FLEET_PATHS)
    for _, seen, sent in upstream.seen:
        lowered = {name.lower(): value for name, value in seen.items()}
        assert sent == b"hi"
        assert lowered["flwr-public-key"] == north.headers()["flwr-public-key"]
        passed = {name for name in lowered if name.startswith("flwr-")}
        assert passed == {name for name in given if name.startswith("flwr-")} - {"flwr-other"}
        assert all(
            lowered[name] == given[name] for name in passed - {"flwr-timestamp", "flwr-signature"}
        )
        assert not lowered.keys() & {"cookie", "x-forwarded-for"}


def test_without_or_with_a_wrong_certificate(world, upstream, north):
    stranger = new_authority(datetime.now(UTC), os_random)
    for member in (None, expired(world, north), self_made(world, north, stranger)):
        try:
            status = world.post(member, PULL, north.headers())[0]
        except (ssl.SSLError, ConnectionError):
            status = 0
        assert status in {0, 400}
    assert upstream.seen == []


def test_another_sites_headers(world, upstream, north):
    south = world.members["south"]
    assert world.post(north, PULL, south.headers())[0] == 403
    assert world.post(south, PULL, north.headers())[0] == 403
    headers = north.headers()
    del headers["flwr-public-key"]
    assert world.post(north, PULL, headers)[0] == 403
    assert upstream.seen == []


def test_two_node_keys_in_one_request(world, upstream, north):
    """Whichever of them nginx compares, it is the certificate's that arrives."""
    other = world.members["south"].headers()["flwr-public-key"]
    world.post(north, PULL, {**north.headers(), "Flwr-Public-Key": other})
    for _, seen, _ in upstream.seen:
        keys = [value for name, value in seen.items() if name.lower() == "flwr-public-key"]
        assert keys == [north.headers()["flwr-public-key"]]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/fleet/get-run",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/get-fab",
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/health",
        "/v1/fleet/pull-messages/",
        "/v1/fleet/%2e%2e/control/start-run",
    ],
)
def test_other_paths_and_methods(world, upstream, north, path):
    assert world.post(north, path)[0] in {400, 404}
    assert world.post(north, PULL, method="GET")[0] == 404
    assert upstream.seen == []


def test_bodies_that_are_too_long(world, upstream, north):
    for path, limit in ((PULL, REQUEST_BYTES), ("/v1/fleet/push-object", OBJECT_BYTES)):
        with world.connect(north) as connection:
            head = request(path, north.headers(), b"").replace(
                b"content-length: 0", b"content-length: %d" % (limit + 1)
            )
            connection.sendall(head)
            assert read_response(connection)[0] == 413
    assert upstream.seen == []


def test_slow_clients(world, upstream, north):
    with world.connect(north) as connection:
        connection.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: x\r\nx-slow: ")
        assert read_response(connection)[0] in {0, 408}
    with world.connect(north) as connection:
        head = request("/v1/fleet/push-object", north.headers(), b"").replace(
            b"content-length: 0", b"content-length: 1000000"
        )
        connection.sendall(head + bytes(1000))
        assert read_response(connection)[0] in {0, 408}
    assert upstream.seen == []


def test_the_time(world, upstream, north):
    status, _, body = world.post(north, "/v1/time", method="GET")
    assert status == 200
    assert b'"protocol": 1' in body


def test_a_revoked_site_is_out_after_a_reload(world, running, upstream):
    west = world.members["west"]
    assert world.post(west, PULL)[0] == 200
    revoke_site(world.server, "west", datetime.now(UTC))
    running.reload()
    wait_until(lambda: _status(world, west) != 200)
    upstream.seen.clear()
    assert _status(world, west) in {0, 400, 403}
    assert upstream.seen == []
    assert _status(world, world.members["north"]) == 200


def _status(world, member) -> int:
    try:
        return world.post(member, PULL)[0]
    except (ssl.SSLError, ConnectionError):
        return 0
