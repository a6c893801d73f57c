"""The welcome: what a coordinator answers to a SITE.pub, and all that a site needs to connect.

It is a small JSON file that the coordinator's Ed25519 key signs as a whole. Nothing in it is
secret: the site made its own keys, and its certificate holds their public half. What makes it
trustworthy is that the operator compares the coordinator's fingerprint out of band.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedward_common import keys
from fedward_common.codec import digest
from fedward_common.errors import OperatorError, PeerError
from fedward_common.identity import SitePublic, name_problem
from fedward_common.messages import PROTOCOL_VERSION
from fedward_common.secret import SecretBytes

FORMAT = 1
"""Version of the welcome's file."""

MAX_TEXT = 16_384
"""Characters in a welcome."""

SUFFIX = ".welcome"

ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\]):(?P<port>\d{1,5})")
"""``host:port``; an IPv6 address stands in brackets (RFC 3986, section 3.2.2)."""


@dataclass(frozen=True)
class Welcome:
    """One site's way to the gateway.

    ``coordinator`` is the Ed25519 key that signs plans (hex), ``gateway`` is ``host:port``,
    ``authority`` the consortium's CA and ``certificate`` the site's own (both PEM), ``signature``
    (hex) is the coordinator's over all the others.
    """

    format: int
    name: str
    coordinator: str
    gateway: str
    authority: str
    certificate: str
    protocol: int
    signature: str

    @property
    def fingerprint(self) -> bytes:
        """What operators read to each other; see :func:`coordinator_fingerprint`."""
        return coordinator_fingerprint(bytes.fromhex(self.coordinator))

    def verify(self) -> None:
        """Check every field on its own, and the signature.

        Raises:
            PeerError: any of them is not valid.
        """
        if problem := name_problem(self.name):
            raise PeerError(problem)
        if problem := address_problem(self.gateway):
            raise PeerError(f"gateway: {problem}")
        authority, certificate = (
            load_certificate(self.authority),
            load_certificate(self.certificate),
        )
        keys.verify(
            _hex(self.coordinator, "coordinator", keys.KEY_BYTES),
            _hex(self.signature, "signature", keys.SIGNATURE_BYTES),
            *_statement(self),
        )
        try:
            authority.verify_directly_issued_by(authority)
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise PeerError("certificate: not issued by the authority beside it") from error

    def check_site(self, site: SitePublic) -> None:
        """Refuse a welcome that is not for ``site`` and its present transport key.

        Raises:
            PeerError: another name, another key, or another version of the protocol.
        """
        if self.name != site.name:
            raise PeerError(f"it is for {self.name}, not for {site.name}")
        if certified_key(load_certificate(self.certificate)) != site.transport:
            raise PeerError("its certificate is for another transport key than this site has")
        if self.protocol != PROTOCOL_VERSION:
            raise PeerError(
                f"the coordinator speaks protocol {self.protocol}, this package "
                f"{PROTOCOL_VERSION}; install the same version of fedward on both sides"
            )

    def to_text(self) -> str:
        """Return the file: JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"


def make_welcome(
    coordinator: SecretBytes, name: str, gateway: str, authority: str, certificate: str
) -> Welcome:
    """Return the signed welcome of the site ``name``. ``coordinator`` is the Ed25519 key."""
    public = keys.signing_public(coordinator).hex()
    bare = Welcome(FORMAT, name, public, gateway, authority, certificate, PROTOCOL_VERSION, "")
    signature = keys.sign(coordinator, *_statement(bare)).hex()
    return Welcome(**{**asdict(bare), "signature": signature})


def parse_welcome(text: str, source: str) -> Welcome:
    """Read a welcome's ``text`` and check it.

    Raises:
        OperatorError: one line that names ``source``, the field and the remedy.
    """
    try:
        welcome = _build(text)
        welcome.verify()
    except PeerError as error:
        raise OperatorError(f"{source}: {error}; ask the coordinator for it again") from error
    return welcome


def coordinator_fingerprint(coordinator: bytes) -> bytes:
    """Return the SHA-256, 32 bytes, over the coordinator's Ed25519 key.

    The key signs the CA and the gateway's address, so that one comparison covers them all.
    """
    return digest("coordinator", coordinator)


def certified_key(certificate: x509.Certificate) -> bytes:
    """Return a certificate's public key as DER SubjectPublicKeyInfo."""
    public = certificate.public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def load_certificate(pem: str) -> x509.Certificate:
    """Return the one certificate in ``pem``.

    Raises:
        PeerError: there is none, or it is malformed.
    """
    try:
        return x509.load_pem_x509_certificate(pem.encode("ascii"))
    except ValueError as error:
        raise PeerError("a certificate is malformed") from error


def address_problem(address: str) -> str | None:
    """Return what is wrong with ``host:port``, or None."""
    found = ADDRESS.fullmatch(address)
    if found and 0 < int(found["port"]) < 1 << 16:
        return None
    return "give HOST:PORT, with a port from 1 to 65535"


def _statement(welcome: Welcome) -> tuple[str | int, ...]:
    values = [getattr(welcome, field.name) for field in fields(welcome)]
    return ("welcome", *values[:-1])


def _build(text: str) -> Welcome:
    if len(text) > MAX_TEXT:
        raise PeerError("not a welcome: too long")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PeerError("not a welcome: no JSON") from error
    expected = {field.name: int if field.type == "int" else str for field in fields(Welcome)}
    if not isinstance(record, dict) or record.keys() != expected.keys():
        raise PeerError(f"not a welcome: it has the fields {', '.join(expected)}")
    for name, kind in expected.items():
        if type(record[name]) is not kind:
            raise PeerError(f"{name}: of the wrong type")
    if record["format"] != FORMAT:
        raise PeerError(f"format: {record['format']} instead of {FORMAT}")
    return Welcome(**record)


def _hex(text: str, name: str, length: int) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError as error:
        raise PeerError(f"{name}: not hexadecimal") from error
    if len(value) != length:
        raise PeerError(f"{name}: not {length} bytes")
    return value
