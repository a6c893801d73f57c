"""The sum as the server gets it: through the machines of the private sum, as bytes (A3)."""

from __future__ import annotations

from collections.abc import Sequence

from fedward_client.privacy_audit.trial import Addends
from fedward_simulations.bench.secagg import Server, Site, make_group, play


class MaskedSum:
    """Sums the addends of ``sites`` sites under masks; every call is an attempt of its own."""

    def __init__(self, sites: int) -> None:
        self._group, self._keys = make_group(sites)

    def __call__(self, addends: Sequence[Addends]) -> Addends:
        """Return the sum of the sites' addends, uint32 (d,), as the server unmasks it."""
        sites = [
            Site(self._group, keys, vector)
            for keys, vector in zip(self._keys, addends, strict=True)
        ]
        server = Server(self._group, addends[0].size)
        play(sites, server, 0)
        return server.total
