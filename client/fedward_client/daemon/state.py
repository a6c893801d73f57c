"""What the daemon tells ``fedward-client status``: a small file, replaced as a whole.

It holds no order and nothing of a patient: when the server was reached, and why not.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fedward_client.serving import lock_id
from fedward_common.errors import StorageError
from fedward_common.files import write_atomic

log = logging.getLogger(__name__)

FILE = "daemon.json"
WRITE_SECONDS = 5.0
"""A contact that changes nothing else is written this often."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class DaemonState:
    """Times are seconds since 1970 by the site's clock, 0.0 for never.

    Attributes:
        started: when the process began.
        connected: since when the session with the server has lasted; 0.0 without one.
        contact: when the gateway answered last.
        answered: when an order was answered last.
        answer: what kind of answer that was; a refusal with its kind.
        problem: why there is no session; empty with one.
        retry: when it is tried again.
        clock_ahead: seconds that the server's clock is ahead of this one.
        node: Flower's number of this site; 0 without a session that may be going on.
        boot: the boot of the machine in which ``node`` was told.
        lock: the lock that its process held then: which file of which disk.
    """

    started: float = 0.0
    connected: float = 0.0
    contact: float = 0.0
    answered: float = 0.0
    answer: str = ""
    problem: str = ""
    retry: float = 0.0
    clock_ahead: float = 0.0
    node: int = 0
    boot: str = ""
    lock: str = ""


class StateFile:
    """The file of one site folder, written by its daemon alone."""

    def __init__(self, site: Path, clock: Callable[[], float] = time.time) -> None:
        self._site = site
        self._path = site / FILE
        self._clock = clock
        self._written = 0.0
        self.state = read_state(site) or DaemonState()

    def update(self, *, now: bool = True, **changes: Any) -> None:
        """Change fields; ``now=False`` may leave the writing for later."""
        self.state = replace(self.state, **changes)
        if not now and self._clock() - self._written < WRITE_SECONDS:
            return
        self._written = self._clock()
        text = json.dumps(asdict(self.state), indent=1) + "\n"
        try:
            write_atomic(self._path, text.encode(), mode=0o600)
        except StorageError as error:
            log.warning("%s", error)

    def begun(self, node: int, ahead: float) -> None:
        """Note a session as ``node`` with a server whose clock is ``ahead`` seconds ahead."""
        self.update(
            contact=self._clock(),
            clock_ahead=round(ahead, 1),
            node=node,
            boot=boot_id(),
            lock=lock_id(self._site),
        )

    def abandoned(self) -> int:
        """The node of an earlier process that ended without saying so, or 0.

        Only of this boot of this machine, and of this very folder: there its lock proves that the
        process is dead. A copy must wait wherever it is, as the original may be serving.
        """
        known = (self.state.boot, self.state.lock) == (boot_id(), lock_id(self._site))
        return self.state.node if known and self.state.lock else 0


def read_state(site: Path) -> DaemonState | None:
    """What the daemon of this folder wrote last; None if it never ran or the file is damaged."""
    try:
        record = json.loads((site / FILE).read_text("utf-8"))
        empty = asdict(DaemonState())
        return DaemonState(**{name: type(value)(record[name]) for name, value in empty.items()})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def boot_id() -> str:
    """The kernel's name of this boot; empty where it has none."""
    try:
        return BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""
