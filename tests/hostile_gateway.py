"""An HTTPS server with client certificates in a coordinator's place, which answers as a test says.

It stands where a malicious or broken coordinator would: what it sends is up to the test.
"""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from fedward_client.enrolment import Connection
from fedward_common.enrolment import make_welcome
from fedward_common.identity import SiteIdentity
from fedward_common.randomness import os_random
from fedward_common.secret import SecretBytes
from fedward_server.certificates import issue_server, issue_site, new_authority

HOST = "127.0.0.1"
COORDINATOR = SecretBytes(bytes(range(32)))

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class HostileGateway:
    """``answer`` maps (method, path, body) to (status, headers, body); ``asked`` notes paths."""

    folder: Path
    answer: Callable[[str, str, bytes], Answer]
    host: str = HOST
    days_ago: int = 0
    asked: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        now = datetime.now(UTC)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.authority = new_authority(now - timedelta(days=3000), os_random)
        then = now - timedelta(days=self.days_ago)
        pair = issue_server(self.authority, [self.host], then, os_random)
        (self.folder / "tls.pem").write_bytes(pair.certificate.encode() + pair.key_pem())
        (self.folder / "ca.pem").write_text(self.authority.certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "tls.pem")
        context.load_verify_locations(self.folder / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        self._server = http.server.ThreadingHTTPServer((HOST, 0), self._handler())
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    def connection(self, *, days_ago: int = 0, authority=None) -> Connection:
        """A site's way to this gateway, with a certificate made ``days_ago``."""
        identity = SiteIdentity.generate("north", os_random)
        now = datetime.now(UTC) - timedelta(days=days_ago)
        ca = authority or self.authority
        certificate = issue_site(ca, "north", identity.public().transport, now, os_random)
        address = f"{HOST}:{self.port}"
        welcome = make_welcome(COORDINATOR, "north", address, ca.certificate, certificate)
        return Connection(welcome, identity.transport)

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        gateway = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self._answer(self.rfile.read(int(self.headers["Content-Length"])))

            def do_GET(self) -> None:
                self._answer(b"")

            def _answer(self, body: bytes) -> None:
                gateway.asked.append(self.path)
                status, headers, content = gateway.answer(self.command, self.path, body)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
