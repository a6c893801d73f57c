"""Random and mutated messages for fuzzing; reproducible from a seed, never used for keys."""

from __future__ import annotations

import random
from collections.abc import Sequence

from fedward_common.codec import MAX_DEPTH, MAX_INT_BYTES, Value, decode, encode
from fedward_common.errors import MisuseError

NUMBERS = (0, 1, -1, 3, 199, 200, 2**16, 2**31, 2**32 - 1, 2**63 - 1, 2**63, -(2**63), 2**200)
LENGTHS = (0, 1, 5, 16, 17, 32, 63, 64, 65, 2**16, 2**31, 2**32 - 1)
TAGS = b"Tibsdtf\x00X"


class Mutator:
    """Makes messages from a corpus of well-formed ones."""

    def __init__(self, corpus: Sequence[bytes], seed: int) -> None:
        self.rng = random.Random(seed)
        self.corpus = list(corpus)
        self.trees = [decode(data, max_bytes=1 << 20) for data in corpus]
        self.leaves = [leaf for tree in self.trees for leaf in _nodes(tree)]

    def message(self, own: Sequence[int]) -> bytes:
        """One message: mostly from the entries ``own`` of the corpus, sometimes from others."""
        among = own if self.rng.random() < 0.9 else range(len(self.corpus))
        entry = self.rng.choice(among)
        kind = self.rng.random()
        if kind < 0.55:
            return self._tree(self.trees[entry])
        if kind < 0.97:
            data = self.corpus[entry]
            for _ in range(self.rng.choice((1, 1, 1, 2, 5))):
                data = self._bytes(data)
            return data
        return self.rng.randbytes(self.rng.choice((0, 1, 4, 5, 64, 700)))

    def _bytes(self, data: bytes) -> bytes:
        a, b = sorted(self.rng.choices(range(len(data) + 1), k=2))
        flipped = bytes(byte ^ 1 << self.rng.randrange(8) for byte in data[a : a + 1])
        middle, rest = self.rng.choice(
            [
                (b"", a),  # nothing lost
                (b"", len(data)),  # cut off
                (b"", b),  # a part lost
                (data[a:b], a),  # a part twice
                (flipped, a + 1),
                (bytes([self.rng.choice(TAGS)]), a + 1),
                (self.rng.choice(LENGTHS).to_bytes(4, "big"), a + 4),
                (self.rng.choice(self.corpus)[-(len(data) - a + 1) :], len(data)),
                (self.rng.randbytes(self.rng.randrange(1, 40)), self.rng.choice((a, len(data)))),
            ]
        )
        return data[:a] + middle + data[rest:]

    def _tree(self, tree: Value) -> bytes:
        """A canonical encoding of another value than ``tree``: what only deep checks refuse."""
        for _ in range(self.rng.choice((1, 1, 1, 2, 3))):
            tree = self._replace(tree)
        try:
            return encode(tree)
        except MisuseError:  # too deep or too wide to be encoded at all
            return b""

    def _replace(self, node: Value) -> Value:
        """Change one node of the tree, near the root or far from it."""
        if isinstance(node, tuple) and node and self.rng.random() < 0.8:
            place = self.rng.randrange(len(node))
            return (*node[:place], self._replace(node[place]), *node[place + 1 :])
        return self._changed(node)

    def _changed(self, node: Value) -> Value:
        if self.rng.random() < 0.15:
            return self.rng.choice(self.leaves)
        if isinstance(node, tuple):
            return self._reordered(node)
        if isinstance(node, bool | float):
            return not node
        if isinstance(node, int):
            return self.rng.choice((*NUMBERS, node + 1, node - 1))
        if isinstance(node, str):
            return self.rng.choice(("", node + "x", "shares", "mask", "unmasked", "a" * 600))
        return self._bytes(node)

    def _reordered(self, items: tuple[Value, ...]) -> Value:
        a, b = sorted(self.rng.choices(range(len(items) + 1), k=2))
        changed = list(items)
        match self.rng.randrange(6):
            case 0:
                return items[:a] + items[b:]
            case 1:
                return items[:b] + items[a:]
            case 2:
                self.rng.shuffle(changed)
                return tuple(changed)
            case 3:
                return (*items, self.rng.choice(self.leaves))
            case 4:
                return (items,)
            case _:
                return ()


def nested(depth: int) -> bytes:
    """An encoding that nests ``depth`` tuples: deeper than MAX_DEPTH must be refused."""
    data = b""
    for _ in range(depth):
        data = b"T" + len(data).to_bytes(4, "big") + data
    return data


HOSTILE = (
    b"",
    nested(MAX_DEPTH + 1),
    nested(MAX_DEPTH + 2),
    nested(5000),
    b"T\xff\xff\xff\xff",
    b"b\x7f\xff\xff\xff" + bytes(64),
    b"i" + (MAX_INT_BYTES + 1).to_bytes(4, "big") + bytes(MAX_INT_BYTES + 1),
    b"T" + (70_000 * 5).to_bytes(4, "big") + b"t\0\0\0\0" * 70_000,
    bytes(1 << 17),
)
"""Messages that a mutation would hardly make."""


def _nodes(tree: Value) -> list[Value]:
    inner = [node for item in tree for node in _nodes(item)] if isinstance(tree, tuple) else []
    return [tree, *inner]
