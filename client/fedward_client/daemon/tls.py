"""The TLS side of the way to the gateway: TLS 1.3, the pinned authority, the site's own key."""

from __future__ import annotations

import os
import ssl

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fedward_client.enrolment import Connection
from fedward_common.errors import OperatorError
from fedward_common.keys import load_transport_key


def tls_context(connection: Connection) -> ssl.SSLContext:
    """A context that trusts the consortium's authority alone and shows the site's certificate.

    Raises:
        OperatorError: certificate and key cannot be loaded.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the host's name
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    key = load_transport_key(connection.transport)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        context.load_verify_locations(cadata=connection.welcome.authority)
        _load_chain(context, connection.welcome.certificate.encode("ascii") + pem)
    except (ssl.SSLError, OSError) as error:
        raise OperatorError(
            "the site's certificate cannot be used; run fedward-client enrol again"
        ) from error
    return context


def _load_chain(context: ssl.SSLContext, pem: bytes) -> None:
    """OpenSSL reads keys from files only: this one is in memory and has no name (memfd_create)."""
    descriptor = os.memfd_create("transport", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as stream:
            stream.write(pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
