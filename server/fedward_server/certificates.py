"""The consortium's certificate authority: X.509 over P-384, nothing but keys and clocks as input.

A site's certificate holds the transport key of its SITE.pub, so it needs no signing request: the
TLS handshake proves that the site has the private half, and Flower's node key is the same.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedward_common import keys
from fedward_common.errors import MisuseError
from fedward_common.randomness import RandomBytes
from fedward_common.secret import SecretBytes

AUTHORITY_DAYS = 3650
SITE_DAYS = 730
GATEWAY_DAYS = 397
RENEW_DAYS = 60
"""A certificate with less left than this is renewed, or its owner is told."""

BACKDATED = timedelta(hours=1)
"""A site's clock may be this much behind."""

SERIAL_BYTES = 19
"""RFC 5280, section 4.1.2.2: at most 20 octets, positive."""


@dataclass(frozen=True)
class Authority:
    """The CA: its P-384 ``key`` (DER PKCS#8) and its own ``certificate`` (PEM)."""

    key: SecretBytes
    certificate: str


@dataclass(frozen=True)
class KeyPair:
    """A server's P-384 ``key`` (DER PKCS#8) and ``certificate`` (PEM)."""

    key: SecretBytes
    certificate: str

    def key_pem(self) -> bytes:
        """The private key as PEM, for a file that a TLS library reads."""
        key = keys.load_transport_key(self.key)
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def new_authority(now: datetime, random: RandomBytes) -> Authority:
    """Return a fresh CA that may sign certificates of servers and sites, but no other CA."""
    key = keys.new_transport_key(random)
    name = _name(f"fedward consortium {random(4).hex()}")
    builder = _builder(name, name, keys.load_transport_key(key).public_key(), random)
    builder = _valid(builder, now, AUTHORITY_DAYS)
    builder = _marked(builder, x509.BasicConstraints(ca=True, path_length=0), None)
    return Authority(key, _signed(builder, keys.load_transport_key(key)))


def issue_site(
    authority: Authority, name: str, transport: bytes, now: datetime, random: RandomBytes
) -> str:
    """Return the client certificate (PEM) of the site ``name``.

    ``transport`` is its P-384 key as DER SubjectPublicKeyInfo, checked by SITE.pub's signature.
    """
    public = load_der_public_key(transport)
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise MisuseError("a site's transport key was not checked before its certificate")
    return _issue(authority, _name(name), public, now, SITE_DAYS, random, names=())


def issue_server(
    authority: Authority, hosts: Sequence[str], now: datetime, random: RandomBytes
) -> KeyPair:
    """Return a fresh key with a server certificate for ``hosts`` (DNS names or IP addresses)."""
    key = keys.new_transport_key(random)
    public = keys.load_transport_key(key).public_key()
    names = tuple(map(_general_name, hosts))
    subject = _name(hosts[0][:64])
    certificate = _issue(authority, subject, public, now, GATEWAY_DAYS, random, names=names)
    return KeyPair(key, certificate)


def revocation_list(authority: Authority, serials: Iterable[int], now: datetime) -> str:
    """Return the CRL (PEM) that revokes ``serials``; RFC 5280, section 5.

    It is valid as long as the CA: it is read from the folder that it is written to, never fetched.
    """
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now - BACKDATED)
        .next_update(now + timedelta(days=AUTHORITY_DAYS))
    )
    for serial in sorted(set(serials)):
        entry = x509.RevokedCertificateBuilder().serial_number(serial)
        builder = builder.add_revoked_certificate(entry.revocation_date(now - BACKDATED).build())
    signed = builder.sign(keys.load_transport_key(authority.key), hashes.SHA384())
    return signed.public_bytes(Encoding.PEM).decode("ascii")


def needs_renewal(certificate: str, now: datetime) -> bool:
    """Whether fewer than RENEW_DAYS of a certificate (PEM) are left."""
    ends = x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc
    return ends - now < timedelta(days=RENEW_DAYS)


def _issue(
    authority: Authority,
    subject: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now: datetime,
    days: int,
    random: RandomBytes,
    *,
    names: tuple[x509.GeneralName, ...],
) -> str:
    """A certificate for a server if it has names, else for a client."""
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    signer = keys.load_transport_key(authority.key)
    usage = ExtendedKeyUsageOID.SERVER_AUTH if names else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = _valid(_builder(subject, issuer.subject, public, random), now, days)
    builder = _marked(
        builder, x509.BasicConstraints(ca=False, path_length=None), usage
    ).add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _signed(builder, signer)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, random: RandomBytes
) -> x509.CertificateBuilder:
    serial = int.from_bytes(random(SERIAL_BYTES), "big") | 1
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(serial)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _valid(builder: x509.CertificateBuilder, now: datetime, days: int) -> x509.CertificateBuilder:
    return builder.not_valid_before(now - BACKDATED).not_valid_after(now + timedelta(days=days))


def _marked(
    builder: x509.CertificateBuilder,
    constraints: x509.BasicConstraints,
    extended: x509.ObjectIdentifier | None,
) -> x509.CertificateBuilder:
    """What the key may do: sign certificates (the CA), or take part in a handshake."""
    usage = x509.KeyUsage(
        digital_signature=not constraints.ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=constraints.ca,
        crl_sign=constraints.ca,
        encipher_only=False,
        decipher_only=False,
    )
    builder = builder.add_extension(constraints, critical=True).add_extension(usage, critical=True)
    if extended is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([extended]), critical=True)
    return builder


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> str:
    return builder.sign(key, hashes.SHA384()).public_bytes(Encoding.PEM).decode("ascii")


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return x509.DNSName(host)
