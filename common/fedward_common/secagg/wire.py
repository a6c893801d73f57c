"""Strict reading of typed tuples: every field has one type and one length, or it is refused."""

from __future__ import annotations

from itertools import pairwise

from fedward_common.codec import Value, decode
from fedward_common.errors import PeerError
from fedward_common.secagg.parameters import MAX_SITES

MAX_COUNTER = 2**63 - 1
"""Largest attempt number e, and largest number of entries in a ledger."""


def unpack(data: bytes, tag: str, fields: int, max_bytes: int) -> tuple[Value, ...]:
    """Return the ``fields`` values that follow ``tag`` in the message ``data``.

    Raises:
        PeerError: too long, not canonical, another tag or another number of fields.
    """
    value = decode(data, max_bytes=max_bytes)
    if not isinstance(value, tuple) or len(value) != fields + 1 or value[0] != tag:
        raise PeerError(f"not a {tag} message of {fields} fields")
    return value[1:]


def as_tuple(value: Value, what: str, most: int, length: int | None = None) -> tuple[Value, ...]:
    """Return ``value`` as a tuple of at most ``most`` items, or of exactly ``length``."""
    if not isinstance(value, tuple) or len(value) > most:
        raise PeerError(f"{what} is not a list of at most {most} items")
    if length is not None and len(value) != length:
        raise PeerError(f"{what} does not have {length} items")
    return value


def as_bytes(value: Value, what: str, *lengths: int) -> bytes:
    """Return ``value`` as bytes of one of ``lengths``."""
    if not isinstance(value, bytes) or len(value) not in lengths:
        raise PeerError(f"{what} is not {' or '.join(map(str, lengths))} bytes")
    return value


def as_text(value: Value, what: str, most: int) -> str:
    """Return ``value`` as text of at most ``most`` characters."""
    if not isinstance(value, str) or len(value) > most:
        raise PeerError(f"{what} is not text of at most {most} characters")
    return value


def as_count(value: Value, what: str, most: int = MAX_COUNTER) -> int:
    """Return ``value`` as an integer from 0 to ``most``."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise PeerError(f"{what} is not an integer from 0 to {most}")
    return value


def as_index(value: Value) -> int:
    """Return ``value`` as a roster index below MAX_SITES."""
    return as_count(value, "a site's index", MAX_SITES - 1)


def check_ascending(indices: list[int], what: str) -> None:
    """Refuse a site that is listed twice, and any order but the roster's.

    Raises:
        PeerError: the indices do not strictly increase.
    """
    if any(a >= b for a, b in pairwise(indices)):
        raise PeerError(f"{what} do not list distinct sites in roster order")
