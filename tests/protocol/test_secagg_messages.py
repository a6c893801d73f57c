"""Each message returns from its bytes, and anything but its bytes is a PeerError."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.secagg_world import Round, SeededRandom, World

from fedward_common.codec import decode, encode
from fedward_common.errors import PeerError
from fedward_common.secagg import messages
from fedward_common.secagg.transcript import Transcript

DIMENSION = 5


def _collect() -> dict[str, object]:
    world = World.make(4, SeededRandom("messages"))
    attempt = Round(world, [np.arange(DIMENSION, dtype=np.uint32)] * 4, drop={1: 2})
    transcript = attempt.run().transcript
    return {
        "share": messages.ShareMessage.decode(attempt.wire["share", 0]),
        "mask_request": attempt.mask_asked[0],
        "addend": messages.MaskedAddend.decode(attempt.wire["addend", 0], DIMENSION),
        "agree_request": attempt.agree_asked[0],
        "agreement": messages.Agreement.decode(attempt.wire["agree", 0]),
        "unmask_request": attempt.unmask_asked[0],
        "unmask_reply": messages.UnmaskReply.decode(attempt.wire["unmask", 0]),
        "transcript": transcript,
    }


MESSAGES = _collect()
each = pytest.mark.parametrize("name", sorted(MESSAGES))


def _decode(name, data):
    kind = type(MESSAGES[name])
    if kind is messages.MaskedAddend:
        return kind.decode(data, DIMENSION)
    return kind.decode(data)


@each
def test_it_returns_from_its_bytes(name):
    message = MESSAGES[name]
    assert _decode(name, message.encode()) == message
    assert _decode(name, message.encode()).encode() == message.encode()


@each
def test_no_prefix_and_no_extension_is_accepted(name):
    data = MESSAGES[name].encode()
    for cut in range(len(data)):
        with pytest.raises(PeerError):
            _decode(name, data[:cut])
    with pytest.raises(PeerError):
        _decode(name, data + b"\0")


@each
def test_no_other_type_is_accepted(name):
    for message in MESSAGES.values():
        if type(message) is not type(MESSAGES[name]):
            with pytest.raises(PeerError):
                _decode(name, message.encode())


@each
def test_an_oversized_message_is_refused_unread(name):
    with pytest.raises(PeerError, match="exceeds the limit"):
        _decode(name, bytes(1 << 18))


@each
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_changed_byte_is_refused_or_another_message(name, data):
    encoded = bytearray(MESSAGES[name].encode())
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))
    try:
        changed = _decode(name, bytes(encoded))
    except PeerError:
        return
    assert changed.encode() == bytes(encoded)
    assert changed != MESSAGES[name]


def _leaves(value, path=()):
    yield path
    if isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from _leaves(item, (*path, i))


def _replace(value, path, new):
    if not path:
        return new
    items = list(value)
    items[path[0]] = _replace(items[path[0]], path[1:], new)
    return tuple(items)


@each
def test_a_field_of_another_type_or_length_is_refused(name):
    whole = decode(MESSAGES[name].encode(), max_bytes=1 << 18)
    for path in _leaves(whole):
        for wrong in (1.5, -1, 2**63, True, "x" * 200, b"xyz", ((),) * 201, (1.5,)):
            data = encode(_replace(whole, path, wrong))
            with pytest.raises(PeerError):
                _decode(name, data)


def test_lists_of_sites_name_each_once_in_order():
    for name, field in [
        ("mask_request", "keys"),
        ("agree_request", "hashes"),
        ("unmask_request", "agreements"),
        ("transcript", "keys"),
        ("transcript", "hashes"),
        ("transcript", "agreements"),
    ]:
        items = getattr(MESSAGES[name], field)
        for wrong in (items[::-1], (items[0], *items[:-1])):
            with pytest.raises(PeerError, match="distinct sites in roster order"):
                dataclasses.replace(MESSAGES[name], **{field: wrong})


def test_records_and_seeds_match_the_keys_in_number():
    for name, field in [("mask_request", "ciphertexts"), ("transcript", "seeds")]:
        items = getattr(MESSAGES[name], field)
        with pytest.raises(PeerError, match="items"):
            dataclasses.replace(MESSAGES[name], **{field: items[:-1]})


def test_an_addend_of_another_dimension_is_refused():
    data = MESSAGES["addend"].encode()
    for dimension in (DIMENSION - 1, DIMENSION + 1):
        with pytest.raises(PeerError, match="the addend is not"):
            messages.MaskedAddend.decode(data, dimension)


def test_an_addend_carries_four_bytes_a_coordinate_and_little_more():
    assert len(MESSAGES["addend"].encode()) - 4 * DIMENSION < 120


def test_no_message_shows_its_addend_or_shares_when_printed():
    assert "y=" not in repr(MESSAGES["addend"])
    assert "shares=" not in repr(MESSAGES["unmask_reply"])


def test_a_share_message_always_has_one_length():
    lengths = set()
    for seed in range(20):
        world = World.make(4, SeededRandom(f"length {seed}"))
        attempt = Round(world, [np.zeros(1, dtype=np.uint32)] * 4)
        attempt.share()
        lengths |= {len(attempt.wire["share", i]) for i in range(4)}
    assert len(lengths) == 1


def test_a_transcript_is_read_as_it_was_published():
    transcript = MESSAGES["transcript"]
    assert Transcript.decode(transcript.encode()).survivors == (0, 2, 3)
