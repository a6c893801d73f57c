"""The sites as the round loop sees them: named members that answer orders, or do not.

:class:`~fedward_server.grid_sites.GridSites` is the port over Flower's Grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from fedward_common.messages import Message


@dataclass(frozen=True)
class Traffic:
    """What crossed between the server and one site, in messages and bytes of content."""

    messages_received: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.messages_received + other.messages_received,
            self.bytes_received + other.bytes_received,
            self.bytes_sent + other.bytes_sent,
        )

    @property
    def total(self) -> int:
        """Bytes both ways."""
        return self.bytes_received + self.bytes_sent


class Sites(Protocol):
    """Members of the roster, by name."""

    def drain_traffic(self) -> dict[str, Traffic]:
        """What crossed since the last call, by site."""
        ...

    def present(self) -> tuple[str, ...]:
        """Names of the roster members that can be reached now."""
        ...

    def exchange(
        self, orders: Mapping[str, Message], deadline_seconds: float
    ) -> Iterator[tuple[str, Message]]:
        """Send each site its order; yield replies as they come, until all or the deadline.

        A refusal is a reply like any other: it tells that nothing else will come.
        """
        ...
