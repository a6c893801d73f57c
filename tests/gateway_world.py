"""A coordinator's folder with enrolled sites, its gateway as a process, and what is behind it.

Behind the gateway stands a small HTTPS server that notes what reaches it, so that a test can say
that nothing did. Clients are bare sockets: they can do what no library does.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fedward_common import keys
from fedward_common.enrolment import parse_welcome
from fedward_common.identity import SiteIdentity
from fedward_common.randomness import os_random
from fedward_server.certificates import Authority, issue_site
from fedward_server.consortium import (
    Gateway,
    authority_of,
    enrol_site,
    found_consortium,
    gateway_certificate,
)
from fedward_server.server_folder import ServerFolder, create_server
from fedward_server.superlink import prepare_superlink

HOST = "127.0.0.1"
PATIENCE = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@dataclass
class Upstream:
    """An HTTPS server in the SuperLink's place; ``seen`` holds (path, headers, body)."""

    folder: Path
    seen: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    answer: bytes = b"answer"
    gateway: int = 0
    """The process before it, if a test wants to look at it."""

    def __enter__(self) -> Self:
        self.link = prepare_superlink(self.folder, datetime.now(UTC), os_random)
        upstream = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = b"".join(iter(self._chunk, b""))
                else:
                    length = int(self.headers["Content-Length"])
                    body = self.rfile.read(length)
                    if len(body) < length:
                        self.close_connection = True  # cut off: no request at all
                        return
                upstream.seen.append((self.path, dict(self.headers.items()), body))
                self._reply(upstream.answer)

            def do_GET(self) -> None:
                self._reply(b"ok")

            def _chunk(self) -> bytes:
                size = int(self.rfile.readline(), 16)
                data = self.rfile.read(size)
                self.rfile.readline()
                return data

            def _reply(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Set-Cookie", "not=passed")
                self.send_header("flwr-package-version", "1.41.0")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer((HOST, self.link.port), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "tls.crt", self.folder / "tls.key")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


@dataclass(frozen=True)
class Member:
    """An enrolled site with its keys, and the certificate of its welcome (PEM)."""

    identity: SiteIdentity
    certificate: str

    @property
    def name(self) -> str:
        return self.identity.name

    def headers(self) -> dict[str, str]:
        """What Flower's interceptor adds: the node's key, the time, the signature over it."""
        return node_headers(self.identity)


def node_headers(identity: SiteIdentity) -> dict[str, str]:
    key = keys.load_transport_key(identity.transport)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    moment = datetime.now(UTC).isoformat()
    signature = key.sign(moment.encode("ascii"), ec.ECDSA(SHA256()))
    return {
        "flwr-public-key": base64.b64encode(public).decode("ascii"),
        "flwr-timestamp": moment,
        "flwr-signature": base64.b64encode(signature).decode("ascii"),
        "content-type": "application/x-protobuf",
    }


@dataclass
class GatewayWorld:
    """The coordinator's folder at ``root``/server; its gateway listens on ``port``."""

    root: Path
    folder: ServerFolder
    port: int
    admin_port: int
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def server(self) -> Path:
        return self.folder.path

    def enrol(self, name: str, *, replace: bool = False, identity: SiteIdentity | None = None):
        """Enrol a site with fresh keys (or ``identity``) and return it."""
        who = identity or SiteIdentity.generate(name, os_random)
        text = who.public().to_text()
        now = datetime.now(UTC)
        enrolled = enrol_site(self.folder, text, "SITE.pub", now, os_random, replace=replace)
        assert enrolled.welcome is not None
        welcome = parse_welcome(enrolled.welcome.read_text(), "welcome")
        welcome.check_site(who.public())
        self.members[name] = Member(who, welcome.certificate)
        return self.members[name]

    def context(self, member: Member | None) -> ssl.SSLContext:
        """A client's TLS context with a member's certificate, or with none."""
        authority = authority_of(self.server).certificate
        context = ssl.create_default_context(cadata=authority)
        if member is not None:
            key = keys.load_transport_key(member.identity.transport)
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            path = self.root / f"{member.name}.{os.urandom(4).hex()}.tls"
            path.write_bytes(pem + member.certificate.encode())
            context.load_cert_chain(path)
            path.unlink()
        return context

    def connect(self, member: Member | None) -> ssl.SSLSocket:
        raw = socket.create_connection((HOST, self.port), timeout=PATIENCE)
        return self.context(member).wrap_socket(raw, server_hostname=HOST)

    def post(self, member: Member | None, path: str, headers=None, body=b"", method="POST"):
        """One request on a connection of its own; returns (status, headers, body)."""
        with self.connect(member) as connection:
            given = member.headers() if headers is None and member is not None else headers or {}
            connection.sendall(request(path, given, body, method))
            return read_response(connection)

    def admin(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.admin_port}{path}", timeout=10) as r:
                return r.status, r.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metrics(self) -> dict[str, float]:
        lines = self.admin("/metrics")[1].splitlines()
        rows = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in rows}


def make_world(root: Path, names: tuple[str, ...]) -> GatewayWorld:
    folder = create_server(root / "server")
    port, admin = free_port(), free_port()
    gateway = Gateway(f"{HOST}:{port}", f"{HOST}:{port}", admin)
    found_consortium(folder, gateway, datetime.now(UTC), os_random)
    world = GatewayWorld(root, folder, port, admin)
    for name in names:
        world.enrol(name)
    return world


@contextlib.contextmanager
def serving(world: GatewayWorld, upstream: Upstream, settings: dict[str, float] | None = None):
    """The gateway as a process, which is ended by its process id.

    ``settings`` replace limits of ``gateway_limits`` (shorter deadlines): the process then is
    ``tests.short_gateway``, which calls the same main function.
    """
    gateway_certificate(world.server, datetime.now(UTC), os_random)
    module = "tests.short_gateway" if settings else "fedward_server.gateway_process"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), *sys.path])),
        "SHORT_GATEWAY": json.dumps(settings or {}),
    }
    link = world.server / "superlink"
    if not link.exists():
        link.symlink_to(upstream.folder, target_is_directory=True)
    process = subprocess.Popen(
        [sys.executable, "-m", module, str(world.server), str(upstream.link.port)],
        env=environment,
    )
    try:
        wait_until(lambda: reachable(world.port) and reachable(world.admin_port))
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


def reachable(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until(condition, patience: float = PATIENCE) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def request(path: str, headers: dict[str, str], body: bytes, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"host: {HOST}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


def read_response(connection: ssl.SSLSocket) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body); (0, {}, b"") if the connection ended without an answer."""
    data = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while b"\r\n\r\n" not in data and (piece := connection.recv(65536)):
            data += piece
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return 0, {}, b""
    first, *rows = head.decode("latin-1").split("\r\n")
    headers = {n.strip().lower(): v.strip() for n, _, v in (row.partition(":") for row in rows)}
    while len(body) < int(headers.get("content-length", "0")):
        piece = connection.recv(65536)
        if not piece:
            break
        body += piece
    return int(first.split(" ")[1]), headers, body


def expired(world: GatewayWorld, member: Member) -> Member:
    """The same site with a certificate of three years ago."""
    then = datetime.now(UTC) - timedelta(days=3 * 365)
    authority = authority_of(world.server)
    transport = member.identity.public().transport
    return Member(member.identity, issue_site(authority, member.name, transport, then, os_random))


def self_made(world: GatewayWorld, member: Member, authority: Authority) -> Member:
    """The same site with a certificate of another CA."""
    transport = member.identity.public().transport
    now = datetime.now(UTC)
    return Member(member.identity, issue_site(authority, member.name, transport, now, os_random))
