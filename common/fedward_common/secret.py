"""Secrets as a type that cannot print."""

from __future__ import annotations

import hmac


class SecretBytes:
    """Bytes that never appear in a repr, a log, a pickle or a format string.

    Read them with :meth:`reveal`, at the point of use only. Comparison is constant-time.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def reveal(self) -> bytes:
        """Return the bytes themselves."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretBytes):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        raise TypeError("SecretBytes is not hashable")

    def __repr__(self) -> str:
        return f"SecretBytes(<{len(self._value)} bytes>)"

    __str__ = __repr__

    def __reduce__(self) -> str:
        raise TypeError("SecretBytes is not picklable")
