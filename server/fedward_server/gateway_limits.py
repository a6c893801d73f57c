"""What the gateway lets through: which paths, how much, how fast. No sockets, no clock of its own.

Every limit is on an enrolled hospital: who has no certificate does not get past the handshake.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MIB = 1 << 20

OBJECT_BYTES = 64 * MIB
"""Largest object: the masked addend of a model of 10^7 parameters is 40 MB."""

REQUEST_BYTES = MIB

PUSH_MESSAGES = "/v1/fleet/push-messages"
"""Read whole and looked into; see :mod:`fedward_server.gateway_messages`."""

FLEET_PATHS = {
    "/v1/fleet/activate-node": REQUEST_BYTES,
    "/v1/fleet/deactivate-node": REQUEST_BYTES,
    "/v1/fleet/send-node-heartbeat": REQUEST_BYTES,
    "/v1/fleet/pull-messages": REQUEST_BYTES,
    PUSH_MESSAGES: REQUEST_BYTES,
    "/v1/fleet/push-object": OBJECT_BYTES,
    "/v1/fleet/pull-object": REQUEST_BYTES,
    "/v1/fleet/confirm-message-received": REQUEST_BYTES,
}
"""What a node may ask for, with the largest body. Not: to register or unregister a node, which the
coordinator does, the run, and the bundle, which no site runs (G2)."""

HEADER_BYTES = 16 * 1024
HANDSHAKE_SECONDS = 10.0
HEADER_SECONDS = 10.0
"""From the first byte of a request, or of the connection, to the end of its headers."""

BODY_SECONDS = 20.0
BODY_BYTES_PER_SECOND = 8 * 1024
"""A body may take BODY_SECONDS and as long as it needs at this rate."""

SEND_SECONDS = 60.0
"""For a reader to take the next piece of a response."""

KEEP_ALIVE_SECONDS = 75.0
UPSTREAM_SECONDS = 60.0
CONNECTIONS = 4096
CONNECTIONS_PER_SITE = 16
REQUESTS_AT_ONCE = 8
REQUESTS_PER_SECOND = 100.0
BURST = 200.0
BYTES_PER_MINUTE = 4 * OBJECT_BYTES
"""Of request bodies: four of the largest answers. More is not computed in a minute."""


TOO_MUCH = f"more than {BYTES_PER_MINUTE // MIB} MiB a minute"


def body_deadline(received: int) -> float:
    """Seconds from the start of a body after which ``received`` bytes are too few."""
    return BODY_SECONDS + received / BODY_BYTES_PER_SECOND


@dataclass
class Allowance:
    """One site's requests: token buckets of them and of their bytes, a count of those under way."""

    tokens: float = BURST
    octets: float = BYTES_PER_MINUTE
    updated: float = 0.0
    under_way: int = 0
    connections: int = 0


@dataclass
class Limits:
    """Allowances by the key of the site. Times are seconds of one monotonic clock."""

    _sites: dict[bytes, Allowance] = field(default_factory=dict)

    def begin(self, site: bytes, now: float) -> str | None:
        """Take a request in and return None, or return why not. End it with :meth:`end`."""
        allowance = self._sites.setdefault(site, Allowance(updated=now))
        gained = (now - allowance.updated) * REQUESTS_PER_SECOND
        allowance.tokens = min(BURST, allowance.tokens + gained)
        grown = (now - allowance.updated) * BYTES_PER_MINUTE / 60
        allowance.octets = min(BYTES_PER_MINUTE, allowance.octets + grown)
        allowance.updated = now
        if allowance.under_way >= REQUESTS_AT_ONCE:
            return f"more than {REQUESTS_AT_ONCE} requests at once"
        if allowance.tokens < 1.0:
            return f"more than {REQUESTS_PER_SECOND:g} requests a second"
        if allowance.octets < 0:
            return TOO_MUCH
        allowance.tokens -= 1.0
        allowance.under_way += 1
        return None

    def take(self, site: bytes, count: int) -> str | None:
        """Count bytes of a body in and return None, or return why it is to be broken off.

        Bytes are given back at the next :meth:`begin`.
        """
        allowance = self._sites[site]
        allowance.octets -= count
        return TOO_MUCH if allowance.octets < 0 else None

    def end(self, site: bytes) -> None:
        """A request that was taken in is over."""
        self._sites[site].under_way -= 1

    def connect(self, site: bytes) -> bool:
        """Count a connection in, or return False if the site has too many."""
        allowance = self._sites.setdefault(site, Allowance())
        if allowance.connections >= CONNECTIONS_PER_SITE:
            return False
        allowance.connections += 1
        return True

    def disconnect(self, site: bytes) -> None:
        """A connection that was counted in is gone."""
        self._sites[site].connections -= 1
