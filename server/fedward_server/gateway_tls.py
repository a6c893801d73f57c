"""The gateway's sockets: TLS 1.3 with client certificates, and deadlines that uvicorn lacks."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from errno import EADDRINUSE
from functools import partial
from pathlib import Path
from typing import Any

import h11
import uvicorn
from cryptography import x509
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from fedward_common.enrolment import certified_key
from fedward_common.errors import StorageError
from fedward_server.gateway import PEER, Peer
from fedward_server.gateway_limits import (
    CONNECTIONS,
    HANDSHAKE_SECONDS,
    HEADER_BYTES,
    HEADER_SECONDS,
    KEEP_ALIVE_SECONDS,
    Limits,
)

BACKLOG = 128
TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def tls_context(tls: Path, authority: Path, revoked: Path) -> ssl.SSLContext:
    """TLS 1.3; the client shows a certificate of ``authority`` that is not in ``revoked``.

    ``tls`` holds the gateway's key and certificate. No session is resumed: a resumed one is not
    checked against the CRL again. A later CRL is added by :func:`load_revoked`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(tls)
    context.load_verify_locations(authority)
    load_revoked(context, revoked)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF | ssl.VERIFY_X509_STRICT
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context


def load_revoked(context: ssl.SSLContext, revoked: Path) -> None:
    """Add a CRL: OpenSSL takes the one of the latest date."""
    context.load_verify_locations(revoked)


class GatewayProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with a known peer, a deadline for headers and a limit of connections."""

    def __init__(self, *args: Any, limits: Limits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._peer: Peer | None = None
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Note who it is; who has too many connections already loses this one."""
        super().connection_made(transport)
        tls: ssl.SSLObject = transport.get_extra_info("ssl_object")
        certificate = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
        peer = Peer(certified_key(certificate), certificate.not_valid_after_utc)
        if len(self.connections) > CONNECTIONS or not self._limits.connect(peer.key):
            transport.abort()
            return
        self._peer = peer
        self.app_state = {**self.app_state, PEER: peer}
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection out."""
        self._unwatch()
        if self._peer is not None:
            self._limits.disconnect(self._peer.key)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes in; the deadline runs while they are part of a header."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._unwatch()
        elif self._late is None:
            self._watch_headers()

    def on_response_complete(self) -> None:
        """Watch the next request too if it has begun while this one was answered."""
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0] and not self._late:
            self._watch_headers()

    def _watch_headers(self) -> None:
        self._late = self.loop.call_later(HEADER_SECONDS, self._too_slow)

    def _unwatch(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_slow(self) -> None:
        self._late = None
        if not self.transport.is_closing():
            self.transport.write(TOO_SLOW)
            self.transport.close()


class Listener:
    """A listening socket and the connections that came through it."""

    def __init__(self, app: Callable[..., Any], make: Callable[..., H11Protocol]) -> None:
        config = uvicorn.Config(
            app,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=int(KEEP_ALIVE_SECONDS),
            h11_max_incomplete_event_size=HEADER_BYTES,
        )
        config.load()
        self._state = ServerState()
        self._factory = partial(make, config=config, server_state=self._state, app_state={})
        self._server: asyncio.Server | None = None

    async def open(self, host: str, port: int, **tls: Any) -> None:
        """Listen; ``tls`` as for :meth:`asyncio.loop.create_server`.

        Raises:
            StorageError: the port is taken, or may not be used.
        """
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                self._factory, host, port, backlog=BACKLOG, **tls
            )
        except OSError as error:
            why = "another program listens there" if error.errno == EADDRINUSE else error.strerror
            raise StorageError(f"{host}:{port}: cannot listen ({why}); free the port") from error

    async def close(self, seconds: float) -> None:
        """Take no more; let answers under way be sent for so long, then hang up."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=seconds)
        for connection in list(self._state.connections):
            connection.transport.abort()


async def listen(
    app: Callable[..., Any], host: str, port: int, context: ssl.SSLContext, limits: Limits
) -> Listener:
    """Serve ``app`` to hospitals."""
    listener = Listener(app, partial(GatewayProtocol, limits=limits))
    await listener.open(host, port, ssl=context, ssl_handshake_timeout=HANDSHAKE_SECONDS)
    return listener


async def listen_plain(app: Callable[..., Any], host: str, port: int) -> Listener:
    """Serve ``app`` without TLS: for the loopback interface only."""
    listener = Listener(app, H11Protocol)
    await listener.open(host, port)
    return listener
