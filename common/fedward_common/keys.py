"""The three kinds of keys of a site (A1), as raw bytes in and raw bytes out.

Identity keys are Ed25519 and sign protocol messages and nothing else; encryption keys are X25519
and live for one plan; transport keys are EC P-384, because Flower accepts only NIST curves.
Private keys are made from a :class:`RandomBytes`, so that a simulation can derive them.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from fedward_common.codec import Value, encode
from fedward_common.errors import IntegrityError, PeerError
from fedward_common.randomness import RandomBytes
from fedward_common.secret import SecretBytes

KEY_BYTES = 32
"""Length of a private or public Ed25519 or X25519 key."""

SIGNATURE_BYTES = 64
"""Length of an Ed25519 signature."""

TRANSPORT_BYTES = 120
"""Length of a P-384 public key as DER SubjectPublicKeyInfo."""

# SEC 2, section 2.5.1: the order of the base point of secp384r1.
_P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf"
    "581a0db248b0a77aecec196accc52973",
    16,
)


def new_key(random: RandomBytes) -> SecretBytes:
    """Return a fresh private key, 32 bytes, for Ed25519 or X25519."""
    return SecretBytes(random(KEY_BYTES))


def signing_public(private: SecretBytes) -> bytes:
    """Return the Ed25519 public key, 32 bytes."""
    return Ed25519PrivateKey.from_private_bytes(private.reveal()).public_key().public_bytes_raw()


def encryption_public(private: SecretBytes) -> bytes:
    """Return the X25519 public key, 32 bytes."""
    return X25519PrivateKey.from_private_bytes(private.reveal()).public_key().public_bytes_raw()


def exchange(private: SecretBytes, public: bytes) -> SecretBytes:
    """Return the X25519 shared secret, 32 bytes.

    Raises:
        PeerError: ``public`` is not 32 bytes or has a low order (RFC 7748, section 6.1).
    """
    try:
        peer = X25519PublicKey.from_public_bytes(public)
        secret = X25519PrivateKey.from_private_bytes(private.reveal()).exchange(peer)
    except ValueError as error:
        raise PeerError("an X25519 public key is malformed or of low order") from error
    return SecretBytes(secret)


def check_encryption_public(public: bytes) -> None:
    """Refuse an X25519 public key with which no secret can be agreed.

    Raises:
        PeerError: wrong length or low order.
    """
    exchange(SecretBytes(bytes(KEY_BYTES)), public)


def sign(private: SecretBytes, *fields: Value) -> bytes:
    """Return the Ed25519 signature, 64 bytes, over the canonical encoding of ``fields``.

    The first field is the tag of the message's type, so that no signature serves two types (A2).
    """
    return Ed25519PrivateKey.from_private_bytes(private.reveal()).sign(encode(fields))


def verify(public: bytes, signature: bytes, *fields: Value) -> None:
    """Check the signature of ``public`` over ``fields``.

    Raises:
        PeerError: it is not valid, or the key is malformed; the message names ``fields[0]``.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, encode(fields))
    except (InvalidSignature, ValueError) as error:
        raise PeerError(f"the signature of a {fields[0]!r} message is not valid") from error


def new_transport_key(random: RandomBytes) -> SecretBytes:
    """Return a fresh P-384 private key as DER PKCS#8.

    The scalar comes from 16 bytes more than the order has (FIPS 186-5, A.2.1: extra random bits).
    """
    scalar = int.from_bytes(random(64), "big") % (_P384_ORDER - 1) + 1
    key = ec.derive_private_key(scalar, ec.SECP384R1())
    return SecretBytes(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def load_transport_key(private: SecretBytes) -> ec.EllipticCurvePrivateKey:
    """Return the key object for TLS and Flower.

    Raises:
        IntegrityError: the bytes are not a P-384 private key.
    """
    try:
        key = load_der_private_key(private.reveal(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IntegrityError("the transport key is damaged: restore it or enrol again") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise IntegrityError("the transport key is not an EC P-384 key: enrol again")
    return key


def transport_public(private: SecretBytes) -> bytes:
    """Return the P-384 public key as DER SubjectPublicKeyInfo, 120 bytes."""
    public = load_transport_key(private).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def check_transport_public(public: bytes) -> None:
    """Refuse anything but the canonical encoding of a P-384 public key.

    Raises:
        PeerError: another curve or kind, a point off the curve, or another encoding of it.
    """
    try:
        key = load_der_public_key(public)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise PeerError("the transport key is not a DER public key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise PeerError("the transport key is not an EC P-384 key")
    if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != public:
        raise PeerError("the transport key is not in its canonical encoding")
