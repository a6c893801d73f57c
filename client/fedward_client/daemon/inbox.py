"""The order in hand, on the disk: a killed daemon answers it after its restart.

Flower hands an order out once. Without this, a site that died over one would leave the server to
wait for the whole deadline. What is announced is noted before it is fetched, for the server keeps
an order's parts until it is told that they have come. The file lies among the keys of rounds in
flight, which no backup holds (A6); what is in it came from the server and leads to no patient.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from fedward_client.site import VOLATILE
from fedward_common.codec import decode, encode
from fedward_common.errors import PeerError, StorageError
from fedward_common.files import write_atomic
from fedward_common.messages import MAX_MESSAGE_BYTES

log = logging.getLogger(__name__)

FILE = "order"
MAX_BYTES = MAX_MESSAGE_BYTES + (1 << 16)


@dataclass(frozen=True)
class Announced:
    """An order that waits to be fetched; ``tree`` names its parts, as Flower encodes it."""

    envelope: bytes
    tree: bytes


@dataclass(frozen=True)
class Order:
    """What the server asks; ``envelope`` is what the answer is addressed with."""

    envelope: bytes
    content: bytes


class Inbox:
    """At most one order, in the site folder ``site``."""

    def __init__(self, site: Path) -> None:
        self._path = site / VOLATILE / FILE

    def keep(self, item: Announced | Order) -> None:
        """Note what is being worked on. A full disk does not hinder the answer."""
        match item:
            case Announced(envelope, tree):
                data = encode(("announced", envelope, tree))
            case Order(envelope, content):
                data = encode(("order", envelope, content))
        try:
            write_atomic(self._path, data, mode=0o600)
        except StorageError as error:
            log.warning("%s", error)

    def clear(self) -> None:
        """The order was answered."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError:
            log.warning("%s: cannot be removed; check rights", self._path)

    def take(self) -> Announced | Order | None:
        """What an earlier process left, once: an order that kills us is not tried again."""
        try:
            data = self._path.read_bytes()
        except OSError:
            return None
        self.clear()
        try:
            match decode(data, max_bytes=MAX_BYTES):
                case ("order", bytes(envelope), bytes(content)):
                    return Order(envelope, content)
                case ("announced", bytes(envelope), bytes(tree)):
                    return Announced(envelope, tree)
        except PeerError:
            pass
        log.warning("%s: damaged; the server will ask again", self._path)
        return None
