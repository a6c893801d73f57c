"""Flower's node authentication, with the server's time, over the daemon's own transport."""

from __future__ import annotations

import datetime as dt
from base64 import b64encode

import httpx
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata

from fedward_client.daemon.transport import Transport
from fedward_client.enrolment import Connection
from fedward_common.keys import load_transport_key


class Signer:
    """An interceptor of Flower's client: signs the server's time, as Flower's own does this site's.

    It also sends: through the transport, whose bounds Flower's client does not have. ``public`` is
    the node's key (PEM), ``offset`` how many seconds the server's clock is ahead.
    """

    def __init__(self, connection: Connection, transport: Transport) -> None:
        self._key = load_transport_key(connection.transport)
        self._transport = transport
        version = RuntimeVersionMetadata.from_local_component("SuperNode")
        self._version = {name: str(value) for name, value in version.as_metadata()}
        self.public = public_key_to_bytes(self._key.public_key())
        self.offset = 0.0

    def intercept(
        self, context: ProtobufRequestContext, _call_next: ProtobufCall
    ) -> httpx.Response:
        """Sign and send; the next call, which would do so without bounds, is not made."""
        shifted = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self.offset)
        timestamp = shifted.isoformat()
        signature = sign_message(self._key, timestamp.encode("ascii"))
        headers = {
            FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(self.public).decode("ascii"),
            TIMESTAMP_HEADER: timestamp,
            FLEET_HTTP_SIGNATURE_HEADER: b64encode(signature).decode("ascii"),
        }
        context.request.headers.update(headers | self._version)
        return self._transport.send(context.request)
