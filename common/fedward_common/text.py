"""Small helpers for text that a person reads on a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def under(heading: str, items: Sequence[str]) -> tuple[str, ...]:
    """A heading and its indented items; nothing if there is no item."""
    return (heading, *(f"  {item}" for item in items)) if items else ()


def printable(text: str) -> str:
    """``text`` with every control character replaced by a blank."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def size(count: float) -> str:
    """A number of bytes for a person: ``22.8 kB``."""
    for unit, step in (("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count:.0f} bytes"
