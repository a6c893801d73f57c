from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fedward_common import keys
from fedward_common.errors import IntegrityError, PeerError
from fedward_common.randomness import os_random
from fedward_common.secret import SecretBytes

LOW_ORDER = [0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18]


def test_two_sites_agree_on_one_secret():
    one, other = keys.new_key(os_random), keys.new_key(os_random)
    secret = keys.exchange(one, keys.encryption_public(other))
    assert secret == keys.exchange(other, keys.encryption_public(one))
    assert len(secret) == keys.KEY_BYTES


@pytest.mark.parametrize("u", LOW_ORDER)
def test_a_point_of_low_order_is_refused(u):
    with pytest.raises(PeerError, match="low order"):
        keys.check_encryption_public(u.to_bytes(32, "little"))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_is_refused(length):
    with pytest.raises(PeerError):
        keys.check_encryption_public(bytes(length))
    with pytest.raises(PeerError):
        keys.verify(bytes(length), bytes(64), "tag")


def test_a_signature_holds_for_its_fields_and_key_only():
    private, other = keys.new_key(os_random), keys.new_key(os_random)
    public = keys.signing_public(private)
    signature = keys.sign(private, "key", 1, b"x")
    keys.verify(public, signature, "key", 1, b"x")
    for who, what, fields in [
        (public, signature, ("addend", 1, b"x")),
        (public, signature, ("key", 2, b"x")),
        (public, signature, ("key", 1, b"x", ())),
        (public, signature, ("key", 1, "x")),
        (public, signature[:-1], ("key", 1, b"x")),
        (public, bytes(64), ("key", 1, b"x")),
        (keys.signing_public(other), signature, ("key", 1, b"x")),
    ]:
        with pytest.raises(PeerError):
            keys.verify(who, what, *fields)


def test_a_transport_key_is_p384_and_follows_its_random_bytes():
    private = keys.new_transport_key(os_random)
    assert keys.load_transport_key(private).curve.name == "secp384r1"
    public = keys.transport_public(private)
    assert len(public) == keys.TRANSPORT_BYTES
    keys.check_transport_public(public)
    fixed = [keys.new_transport_key(lambda count: b"\x05" * count) for _ in range(2)]
    assert fixed[0] == fixed[1]
    assert keys.new_transport_key(os_random) != private


def _public(key):
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_other_kinds_of_transport_keys_are_refused():
    p256 = ec.generate_private_key(ec.SECP256R1())
    good = keys.transport_public(keys.new_transport_key(os_random))
    off_curve = good[:-1] + bytes([good[-1] ^ 1])
    rsa_key = rsa.generate_private_key(65537, 2048)
    for public in (_public(p256), _public(rsa_key), off_curve, good + b"\0", b"", b"junk"):
        with pytest.raises(PeerError):
            keys.check_transport_public(public)
    key = keys.load_transport_key(keys.new_transport_key(os_random)).public_key()
    point = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    header = bytes.fromhex("3046301006072a8648ce3d020106052b81040022033200")
    with pytest.raises(PeerError, match="canonical"):
        keys.check_transport_public(header + point)
    pem = p256.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    for private in (pem, b"", b"junk"):
        with pytest.raises(IntegrityError):
            keys.load_transport_key(SecretBytes(private))
