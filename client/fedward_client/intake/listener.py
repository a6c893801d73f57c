"""The receiver's sockets: every connection is bounded in time, in number and in bytes.

pynetdicom gathers a message in memory until it is complete and lets a peer announce any length. The
bound stands below it, at the socket: little until the association is accepted, then one object's
size since the last object was taken; one byte more ends the connection. A TLS handshake runs in
the connection's own thread, so that a silent peer holds up nobody else.
"""

from __future__ import annotations

import logging
import socket
import socketserver
import ssl
import threading
from typing import Any

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.transport import ThreadedAssociationServer

STRANGER_BYTES = 1 << 20
"""What a peer may send before its association is accepted; a request takes a few kB."""

MAX_THREADS = 128
HANDSHAKE_SECONDS = 10.0

_LOGGER = logging.getLogger(__name__)


class Metered(socket.socket):
    """A socket that reads no more than its meter allows."""

    meter: Meter

    def recv(self, *arguments: Any) -> bytes:
        """Read as a socket does.

        Raises:
            OSError: the limit is passed; pynetdicom takes it for a broken connection.
        """
        return self.meter.counted(self, super().recv(*arguments))


class MeteredTLS(ssl.SSLSocket):
    """The same over TLS."""

    meter: Meter

    def recv(self, *arguments: Any) -> bytes:
        """Read as a TLS socket does.

        Raises:
            OSError: the limit is passed.
        """
        return self.meter.counted(self, super().recv(*arguments))


class Meter:
    """Bytes of one connection since the last object was taken."""

    def __init__(self) -> None:
        self._limit, self._seen = STRANGER_BYTES, 0

    def counted(self, connection: socket.socket, data: bytes) -> bytes:
        """Count ``data`` and return it.

        Raises:
            OSError: more than the limit; the connection is closed.
        """
        self._seen += len(data)
        if self._seen > self._limit:
            _LOGGER.warning("a connection was closed: it sent more than an object may hold")
            connection.close()
            raise OSError("an object exceeds the size limit")
        return data

    def restart(self, limit: int) -> None:
        """Count from zero: the association is accepted, or an object is complete."""
        self._limit, self._seen = limit, 0


class Entity(AE):
    """Counts accepted associations only: a peer that connects and says nothing takes no place."""

    @property
    def active_associations(self) -> list[Association]:
        """The associations that are accepted and open."""
        return [one for one in super().active_associations if one.is_established]


class Listener(ThreadedAssociationServer):
    """Accepts associations; ``tls``: the context, or None."""

    daemon_threads = True

    def __init__(self, *arguments: Any, tls: ssl.SSLContext | None, **more: Any) -> None:
        self._tls = tls
        if tls is not None:
            tls.sslsocket_class = MeteredTLS
        super().__init__(*arguments, **more)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Refuse a connection beyond the number that may be open at once."""
        del request, client_address
        return threading.active_count() < MAX_THREADS

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands and start the association, in the connection's own thread."""
        metered: Metered | MeteredTLS
        try:
            if self._tls is None:
                metered = Metered(fileno=request.detach())
            else:
                request.settimeout(HANDSHAKE_SECONDS)
                wrapped = self._tls.wrap_socket(request, server_side=True)
                metered = wrapped  # type: ignore[assignment]  # the context makes this class
        except OSError:
            _LOGGER.warning("a connection was refused: no TLS handshake with a known certificate")
            self.shutdown_request(request)
            return
        metered.meter = Meter()
        metered.settimeout(self.ae.network_timeout)
        super().finish_request(metered, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log that a connection failed, and nothing of what it sent."""
        del request, client_address
        _LOGGER.warning("a connection failed before its association was made")

    def shutdown(self) -> None:
        """Stop accepting and close the listening socket."""
        socketserver.BaseServer.shutdown(self)
        self.server_close()


def restart_meter(association: Any, limit: int) -> None:
    """Let the peer of an association send ``limit`` more bytes."""
    held = association.dul.socket
    if held is not None and held.socket is not None:
        held.socket.meter.restart(limit)
