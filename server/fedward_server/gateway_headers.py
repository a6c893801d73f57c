"""The headers of a request to the gateway: what they must say, and which of them pass."""

from __future__ import annotations

import base64
import binascii

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from fedward_common.errors import FedwardError
from fedward_server.gateway_limits import HEADER_BYTES

Headers = list[tuple[bytes, bytes]]

NODE_KEY = b"flwr-public-key"
FLOWER = b"flwr-"
"""Headers that begin so are Flower's own and pass both ways, as do these:"""
FORWARDED = (b"content-type", b"accept")
RETURNED = (b"content-type", b"content-length")


class RefusedError(FedwardError):
    """A request that is not let through, with the HTTP status and one line for the hospital."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def check_size(headers: Headers) -> None:
    """The parser bounds a header that comes in pieces; this bounds one that came at once."""
    if sum(len(name) + len(value) for name, value in headers) > HEADER_BYTES:
        raise RefusedError(431, f"the headers are longer than {HEADER_BYTES} bytes")


def check_node_key(headers: Headers, key: bytes) -> None:
    """Flower's node must be the site of the certificate."""
    values = [value for name, value in headers if name == NODE_KEY]
    if len(values) != 1:
        raise RefusedError(403, "exactly one flwr-public-key header is needed")
    try:
        public = load_pem_public_key(base64.b64decode(values[0], validate=True))
        named = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, UnsupportedAlgorithm, binascii.Error) as error:
        raise RefusedError(403, "the flwr-public-key header holds no key") from error
    if named != key:
        raise RefusedError(403, "the node key in the header is not the certificate's")


def check_no_body(headers: Headers) -> None:
    """For what is only asked."""
    length = [value for name, value in headers if name in {b"content-length", b"transfer-encoding"}]
    if any(value != b"0" for value in length):
        raise RefusedError(400, "no body is expected")


def check_length(headers: Headers, limit: int) -> int | None:
    """The declared length of the body; None if it comes in chunks, counted as they come."""
    values = [value for name, value in headers if name == b"content-length"]
    if not values:
        return None
    length = int(values[0])  # the HTTP parser has checked its form
    if length > limit:
        raise RefusedError(413, f"the body is longer than {limit} bytes")
    return length


def filtered(headers: Headers, wanted: tuple[bytes, ...]) -> Headers:
    """Nothing else passes: neither hop-by-hop headers nor what a proxy would believe."""
    lowered = [(name.lower(), value) for name, value in headers]
    return [item for item in lowered if item[0] in wanted or item[0].startswith(FLOWER)]
