from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedward_common.codec import decode, encode
from fedward_common.errors import PeerError

scalars = (
    st.booleans()
    | st.integers(-(2**255), 2**255 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.binary(max_size=40)
    | st.text(max_size=20)
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4).map(tuple), max_leaves=12)
nested = values.filter(lambda value: _depth(value) <= 6)


def _depth(value):
    return 1 + max(map(_depth, value), default=0) if isinstance(value, tuple) else 0


def _typed(value):
    if isinstance(value, tuple):
        return tuple(map(_typed, value))
    return type(value), (value + 0.0 if isinstance(value, float) else value)


@given(nested)
def test_a_value_returns_with_its_types(value):
    data = encode(value)
    assert _typed(decode(data, max_bytes=len(data))) == _typed(value)


@given(nested, nested)
def test_two_values_never_share_an_encoding(one, other):
    assert (encode(one) == encode(other)) == (repr(_typed(one)) == repr(_typed(other)))


@given(nested, st.data())
def test_a_cut_message_is_refused(value, data):
    encoded = encode(value)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    try:
        decode(encoded[:cut], max_bytes=10_000)
    except PeerError:
        return
    raise AssertionError("a truncated message was accepted")


@given(st.binary(max_size=60))
def test_what_decodes_is_canonical(data):
    try:
        value = decode(data, max_bytes=60)
    except PeerError:
        return
    assert encode(value) == data


@given(nested, st.data())
def test_a_changed_message_is_refused_or_canonical(value, data):
    encoded = bytearray(encode(value))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))
    try:
        changed = decode(bytes(encoded), max_bytes=10_000)
    except PeerError:
        return
    assert encode(changed) == bytes(encoded)
