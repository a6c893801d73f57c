"""One canonical encoding for everything that is hashed, signed or sent.

A value is an ``int``, ``float``, ``bool``, ``bytes``, ``str`` or a ``tuple`` of values. It is
encoded as a one-byte tag, a four-byte big-endian length and the payload, so that a typed tuple
has exactly one encoding and no two tuples share one. Decoding is strict: any deviation from the
canonical form, a depth over :data:`MAX_DEPTH`, or a byte too many is a :class:`PeerError` raised
before anything is interpreted. There is no pickle and no optional field.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator

from fedward_common.errors import MisuseError, PeerError

Value = int | float | bool | bytes | str | tuple["Value", ...]

MAX_DEPTH = 6
"""Nesting of tuples that a decoder accepts."""

MAX_ITEMS = 65_536
"""Items in all tuples of one message: what a decoder builds is bounded, however small they are."""

MAX_INT_BYTES = 32
"""Two's-complement width of an integer: enough for a SHA-256 value."""

MAX_PAYLOAD_BYTES = 2**32 - 1
"""What the four-byte length can say."""

_HEADER = struct.Struct(">cI")
_DOUBLE = struct.Struct(">d")


def encode(value: Value) -> bytes:
    """Return the canonical encoding of ``value``.

    Raises:
        MisuseError: a type, depth, size or number that has no encoding.
    """
    return b"".join(_parts(value, 0))


def digest(*fields: Value) -> bytes:
    """Return H(fields): SHA-256 over the canonical encoding of the typed tuple (A2)."""
    hasher = hashlib.sha256()
    for part in _parts(fields, 0):  # megabytes of masked addend are hashed without a copy
        hasher.update(part)
    return hasher.digest()


def decode(data: bytes, *, max_bytes: int) -> Value:
    """Decode exactly one value from ``data``.

    Raises:
        PeerError: longer than ``max_bytes``, truncated, trailing bytes, or not canonical.
    """
    if len(data) > max_bytes:
        raise PeerError(f"message of {len(data)} bytes exceeds the limit of {max_bytes}")
    value, end = _decode_at(memoryview(data), 0, 0, iter(range(MAX_ITEMS)))
    if end != len(data):
        raise PeerError(f"{len(data) - end} bytes follow the message")
    return value


def _parts(value: Value, depth: int) -> list[bytes]:
    """Return the pieces whose concatenation is the encoding of ``value``."""
    if depth > MAX_DEPTH:
        raise MisuseError(f"a value nests deeper than {MAX_DEPTH}")
    if isinstance(value, tuple):
        if len(value) > MAX_ITEMS:
            raise MisuseError(f"a tuple of {len(value)} items exceeds {MAX_ITEMS}")
        tag, payload = b"T", [part for item in value for part in _parts(item, depth + 1)]
    else:
        tag, scalar = _scalar(value)
        payload = [scalar]
    length = sum(map(len, payload))
    if length > MAX_PAYLOAD_BYTES:
        raise MisuseError(f"a value of {length} bytes exceeds {MAX_PAYLOAD_BYTES}")
    return [_HEADER.pack(tag, length), *payload]


def _scalar(value: float | bytes | str) -> tuple[bytes, bytes]:
    """Return the tag and the payload of a value that is not a tuple."""
    if isinstance(value, bool):
        return (b"t" if value else b"f"), b""
    if isinstance(value, int):
        return b"i", _int_bytes(value)
    if isinstance(value, float):
        return b"d", _double_bytes(value)
    if isinstance(value, bytes):
        return b"b", value
    if isinstance(value, str):
        return b"s", _text_bytes(value)
    raise MisuseError(f"no encoding for {type(value).__name__}")


def _double_bytes(value: float) -> bytes:
    if not math.isfinite(value):
        raise MisuseError("only finite floats have an encoding")
    return _DOUBLE.pack(value + 0.0)  # minus zero becomes zero


def _text_bytes(value: str) -> bytes:
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MisuseError("text with a lone surrogate has no encoding") from error


def _int_bytes(value: int) -> bytes:
    width = (value if value >= 0 else ~value).bit_length() // 8 + 1
    if width > MAX_INT_BYTES:
        raise MisuseError(f"an integer wider than {MAX_INT_BYTES} bytes has no encoding")
    return value.to_bytes(width, "big", signed=True)


def _decode_at(
    data: memoryview, start: int, depth: int, budget: Iterator[int]
) -> tuple[Value, int]:
    if depth > MAX_DEPTH:
        raise PeerError(f"a message nests deeper than {MAX_DEPTH}")
    if start + _HEADER.size > len(data):
        raise PeerError("truncated message: a header is cut off")
    tag, length = _HEADER.unpack_from(data, start)
    begin = start + _HEADER.size
    end = begin + length
    if end > len(data):
        raise PeerError("truncated message: a payload is cut off")
    if tag == b"T":
        return _decode_tuple(data[:end], begin, depth, budget), end
    return _decode_scalar(tag, bytes(data[begin:end])), end


def _decode_tuple(
    data: memoryview, start: int, depth: int, budget: Iterator[int]
) -> tuple[Value, ...]:
    items: list[Value] = []
    while start < len(data):
        if next(budget, None) is None:
            raise PeerError(f"a message holds more than {MAX_ITEMS} items")
        item, start = _decode_at(data, start, depth + 1, budget)
        items.append(item)
    return tuple(items)


def _decode_scalar(tag: bytes, payload: bytes) -> Value:
    if tag == b"b":
        return payload
    if tag == b"s":
        try:
            return payload.decode("utf-8")
        except UnicodeDecodeError as error:
            raise PeerError("text is not UTF-8") from error
    if tag == b"i":
        return _decode_int(payload)
    if tag == b"d":
        return _decode_double(payload)
    if tag in (b"t", b"f") and not payload:
        return tag == b"t"
    raise PeerError("unknown or non-canonical value tag")


def _decode_int(payload: bytes) -> int:
    if not 0 < len(payload) <= MAX_INT_BYTES:
        raise PeerError("an integer has a bad length")
    value = int.from_bytes(payload, "big", signed=True)
    if _int_bytes(value) != payload:
        raise PeerError("an integer is not in its shortest form")
    return value


def _decode_double(payload: bytes) -> float:
    if len(payload) != _DOUBLE.size:
        raise PeerError("a float has a bad length")
    value: float = _DOUBLE.unpack(payload)[0]
    if not math.isfinite(value) or _DOUBLE.pack(value + 0.0) != payload:
        raise PeerError("a float is not finite or not canonical")
    return value
