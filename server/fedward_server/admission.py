"""Who may connect now: the enrolled sites, read again when a file of theirs has changed."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from fedward_server.consortium import CRL, admitted

GRACE_SECONDS = 60.0
"""Read at least so often: the grace of a replaced key ends without any file changing."""


@dataclass
class Admission:
    """The enrolled sites, read again when a file of theirs has changed."""

    server: Path
    _names: dict[bytes, str] = field(default_factory=dict)
    _read: object = None

    def names(self) -> dict[bytes, str]:
        """Keys (DER) of the sites that may connect now, with their names."""
        return self._names

    def refresh(self) -> bool:
        """Read what has changed; True if anything has. A file that goes away just now waits.

        Raises:
            StorageError: the folder of the sites is away: that shuts nobody out.
        """
        with suppress(FileNotFoundError):
            state = self._state()
            if state != self._read:
                self._names, self._read = admitted(self.server, datetime.now(UTC)), state
                return True
        return False

    def _state(self) -> object:
        files = [*(self.server / "sites").glob("*.pub"), self.server / "authority" / CRL]
        stats = [(file.name, file.stat()) for file in files]
        found = sorted((name, stat.st_mtime_ns, stat.st_ino) for name, stat in stats)
        return found, int(time.monotonic() // GRACE_SECONDS)
