from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from fedward_common.codec import MAX_DEPTH, MAX_INT_BYTES, MAX_ITEMS, decode, digest, encode
from fedward_common.errors import MisuseError, PeerError

KNOWN = [
    (True, "7400000000"),
    (False, "6600000000"),
    (0, "690000000100"),
    (127, "69000000017f"),
    (128, "69000000020080"),
    (-1, "6900000001ff"),
    (-129, "6900000002ff7f"),
    (1.5, "64000000083ff8000000000000"),
    (-0.0, "64000000080000000000000000"),
    (b"\x00", "620000000100"),
    ("é", "7300000002c3a9"),
    ((), "5400000000"),
    ((1, "a"), "540000000c6900000001017300000001" + "61"),
]


@pytest.mark.parametrize(("value", "expected"), KNOWN)
def test_every_kind_has_its_known_bytes_and_returns(value, expected):
    assert encode(value).hex() == expected
    assert decode(bytes.fromhex(expected), max_bytes=100) == value


def test_a_boolean_is_no_integer():
    yes, one = True, 1
    assert encode(yes) != encode(one)
    assert decode(encode(yes), max_bytes=9) is True


def test_digest_is_sha256_of_the_encoded_tuple():
    fields = ("y", b"x" * 1000, (1, 2))
    assert digest(*fields) == hashlib.sha256(encode(fields)).digest()


def test_no_two_splits_of_the_same_bytes_share_a_digest():
    assert digest("ab", "c") != digest("a", "bc")
    assert digest(b"ab") != digest("ab")
    assert digest((1,), 2) != digest(1, (2,))


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        "\ud800",
        1 << (8 * MAX_INT_BYTES),
        None,
        [1],
        np.int64(3),
        (0,) * (MAX_ITEMS + 1),
    ],
    ids=["nan", "inf", "surrogate", "wide", "none", "list", "numpy", "long"],
)
def test_what_has_no_encoding_is_our_bug(value):
    with pytest.raises(MisuseError):
        encode(value)


def test_depth_is_bounded_both_ways():
    value = ()
    for _ in range(MAX_DEPTH):
        value = (value,)
    assert decode(encode(value), max_bytes=1000) == value
    with pytest.raises(MisuseError):
        encode((value,))
    deep = encode(value)
    with pytest.raises(PeerError, match="deeper"):
        decode(b"T" + len(deep).to_bytes(4, "big") + deep, max_bytes=1000)


@pytest.mark.parametrize(
    "data",
    [
        "",
        "69",
        "6900000002" + "00",
        "690000000100" + "00",
        "6900000000",
        "69000000020001",
        "6900000002ffff",
        "6900000021" + "01" * 33,
        "7400000001" + "00",
        "7a00000000",
        "6400000008" + "7ff8000000000000",
        "6400000008" + "7ff0000000000000",
        "6400000008" + "8000000000000000",
        "6400000004" + "00000000",
        "7300000001ff",
        "7300000003eda080",
        "5400000003" + "690000",
        "5400000005" + "6900000001" + "00",
    ],
    ids=[
        "empty",
        "header_cut",
        "payload_cut",
        "trailing_byte",
        "integer_of_no_bytes",
        "integer_not_shortest",
        "negative_not_shortest",
        "integer_too_wide",
        "true_with_payload",
        "unknown_tag",
        "nan",
        "infinity",
        "minus_zero",
        "short_float",
        "not_utf8",
        "surrogate",
        "item_header_cut",
        "item_crosses_tuple",
    ],
)
def test_any_deviation_is_refused(data):
    with pytest.raises(PeerError):
        decode(bytes.fromhex(data), max_bytes=1000)


def test_the_limit_is_checked_before_anything_is_read():
    with pytest.raises(PeerError, match="exceeds the limit of 4"):
        decode(b"\xff" * 5, max_bytes=4)


def test_too_many_items_are_refused():
    item = encode(())
    body = item * (MAX_ITEMS + 1)
    with pytest.raises(PeerError, match="more than"):
        decode(b"T" + len(body).to_bytes(4, "big") + body, max_bytes=1 << 20)
