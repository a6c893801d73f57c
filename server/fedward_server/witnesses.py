"""The server as messenger between a site that has started and its witnesses (B6).

A new process of a site serves nothing before members have said which head of its ledger they saw
last. :class:`WitnessedSites` stands in front of the sites of one study: whoever answers an order
with what it needs gets it, and then the order again. A site that hears that its ledger is behind
refuses for good, and the caller is told. One that cannot be satisfied yet has not answered; the
round goes on without it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedward_common.errors import IntegrityError
from fedward_common.messages import (
    Message,
    Refusal,
    Standing,
    Witnessed,
    WitnessesNeeded,
    WitnessOrder,
    WitnessReply,
)
from fedward_server.sites import Sites, Traffic

log = logging.getLogger(__name__)

WITNESS_SECONDS = 30.0
"""How long members may take to answer: they read one row and sign."""


@dataclass(frozen=True)
class WitnessedSites:
    """The port :class:`~fedward_server.sites.Sites` for one study, ``names`` in roster order."""

    sites: Sites
    study: bytes
    names: Sequence[str]

    def drain_traffic(self) -> dict[str, Traffic]:
        """What crossed since the last call, by site."""
        return self.sites.drain_traffic()

    def present(self) -> tuple[str, ...]:
        """Names of the roster members that can be reached now."""
        return self.sites.present()

    def exchange(
        self, orders: Mapping[str, Message], deadline_seconds: float
    ) -> Iterator[tuple[str, Message]]:
        """Send each site its order, again after witnesses where it asks for them."""
        nonces: dict[str, bytes] = {}
        for name, reply in self.sites.exchange(orders, deadline_seconds):
            if isinstance(reply, WitnessesNeeded):
                nonces[name] = reply.nonce
            else:
                yield name, reply
        if nonces:
            ready, behind = self._witness(nonces, min(deadline_seconds, WITNESS_SECONDS))
            yield from behind.items()
            again = {name: orders[name] for name in ready}
            for name, reply in self.sites.exchange(again, deadline_seconds) if again else ():
                if not isinstance(reply, WitnessesNeeded):  # it has started once more
                    yield name, reply

    def _witness(
        self, nonces: Mapping[str, bytes], deadline_seconds: float
    ) -> tuple[list[str], dict[str, Refusal]]:
        """Carry the questions to every member and the answers back.

        Returns who has had enough, and who refuses for good: its ledger is behind.
        """
        asked = WitnessOrder(self.study, tuple(nonces.get(name, b"") for name in self.names))
        heard: dict[str, tuple[bytes, ...]] = {}
        for name, reply in self.sites.exchange(dict.fromkeys(self.names, asked), deadline_seconds):
            if isinstance(reply, WitnessReply) and len(reply.answers) == len(self.names):
                heard[name] = reply.answers
        orders = {name: Witnessed(self.study, self._answers_to(name, heard)) for name in nonces}
        ready: list[str] = []
        behind: dict[str, Refusal] = {}
        for name, reply in self.sites.exchange(orders, deadline_seconds):
            if isinstance(reply, Standing):
                ready.append(name)
            elif isinstance(reply, Refusal) and reply.kind == IntegrityError.__name__:
                behind[name] = reply
        for name in nonces.keys() - set(ready):
            why = "its ledger is behind" if name in behind else "not enough members witness it"
            log.warning("%s sits out: %s", name, why)
        return ready, behind

    def _answers_to(self, name: str, heard: Mapping[str, tuple[bytes, ...]]) -> tuple[bytes, ...]:
        index = self.names.index(name)
        return tuple(heard[other][index] if other in heard else b"" for other in self.names)
