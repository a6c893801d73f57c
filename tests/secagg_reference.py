"""The private sum a second time, slowly and from the textbook: what the fast code must equal.

Nothing here imports the code under test. X25519 follows RFC 7748 section 5 with Python's integers,
HKDF follows RFC 5869 with hmac, CTR mode encrypts its counter block by block, shares are
interpolated one by one.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

P25519 = 2**255 - 19
FIELD = 2**128 + 51
RING = 2**32


def canonical(value) -> bytes:
    if isinstance(value, str):
        tag, payload = b"s", value.encode()
    elif isinstance(value, bytes):
        tag, payload = b"b", value
    elif isinstance(value, int):
        width = (value if value >= 0 else ~value).bit_length() // 8 + 1
        tag, payload = b"i", value.to_bytes(width, "big", signed=True)
    else:
        tag, payload = b"T", b"".join(map(canonical, value))
    return tag + len(payload).to_bytes(4, "big") + payload


def H(*fields) -> bytes:  # noqa: N802 - the paper's name
    return hashlib.sha256(canonical(fields)).digest()


def hkdf(secret: bytes, *label) -> bytes:
    extracted = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(extracted, canonical(label) + b"\x01", "sha256")


def x25519(scalar: bytes, point: bytes) -> bytes:
    k = int.from_bytes(scalar, "little")
    k = (k & ~7 & (2**254 - 1)) | 2**254
    x1 = int.from_bytes(point, "little") % 2**255 % P25519
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for t in range(254, -1, -1):
        bit = (k >> t) & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb = d * a % P25519, c * b % P25519
        x3, z3 = (da + cb) ** 2 % P25519, x1 * (da - cb) ** 2 % P25519
        aa, bb = a * a % P25519, b * b % P25519
        e = aa - bb
        x2, z2 = aa * bb % P25519, e * (aa + 121665 * e) % P25519
    if swap:
        x2, x3, z2, z3 = x3, x2, z3, z2
    return (x2 * pow(z2, P25519 - 2, P25519) % P25519).to_bytes(32, "little")


def base_point_times(scalar: bytes) -> bytes:
    return x25519(scalar, (9).to_bytes(32, "little"))


def stream(key: bytes, elements: int) -> list[int]:
    block_cipher = Cipher(AES(key), ECB()).encryptor()
    out: list[int] = []
    counter = 0
    while len(out) < elements:
        block = block_cipher.update(counter.to_bytes(16, "big"))
        out += [int.from_bytes(block[i : i + 4], "little") for i in range(0, 16, 4)]
        counter += 1
    return out[:elements]


def interpolate_at_zero(points: dict[int, int]) -> int:
    """The value at zero of the polynomial through ``points`` (x -> y) over the field."""
    total = 0
    for xi, yi in points.items():
        term = yi
        for xj in points:
            if xj != xi:
                term = term * -xj % FIELD * pow(xi - xj, FIELD - 2, FIELD) % FIELD
        total += term
    return total % FIELD


def round_private(a: bytes, plan: bytes, e: int, index: int) -> bytes:
    return hkdf(a, "round-key", H("pre", plan, e), index)


def masked(
    i: int,
    addend: Sequence[int],
    a: dict[int, bytes],
    b: dict[int, bytes],
    ctx: bytes,
    plan: bytes,
    e: int,
) -> list[int]:
    """y_i of A3.2, from everyone's seeds."""
    u1 = sorted(a)
    y = list(addend)
    own = round_private(a[i], plan, e, i)
    terms = [(1, hkdf(b[i], "self", ctx, i))]
    for j in u1:
        if j != i:
            public = base_point_times(round_private(a[j], plan, e, j))
            dh = x25519(own, public)
            terms.append((1 if i < j else -1, hkdf(dh, "pair", ctx, min(i, j), max(i, j))))
    for sign, key in terms:
        y = [(v + sign * m) % RING for v, m in zip(y, stream(key, len(y)), strict=True)]
    return y
