"""The daemon as a process: its site, its signals, its loop."""

from __future__ import annotations

import functools
import logging
import signal
from pathlib import Path

from fedward_client.daemon.inbox import Inbox
from fedward_client.daemon.log import log_to_stderr
from fedward_client.daemon.loop import Daemon
from fedward_client.daemon.state import StateFile
from fedward_client.daemon.stopping import Stop
from fedward_client.enrolment import load_connection
from fedward_client.package import package_digest
from fedward_client.processes import forbid_core_dumps
from fedward_client.round import SiteService
from fedward_client.serving import claim
from fedward_client.site import POLICY, Site, open_site
from fedward_common.errors import OperatorError

log = logging.getLogger(__name__)

Edition = tuple[int, int]

HALF_SAVED_SECONDS = 2.0
"""What an editor needs at most to write a file that it has begun to write."""


def serve(path: Path) -> None:
    """Serve the site in ``path`` until SIGTERM or SIGINT; a second one ends the process at once.

    A policy or a configuration that is edited meanwhile holds from the next order on: the site is
    opened anew. If it is malformed, the process ends rather than obey the old one; it is read twice
    before, for an editor may not have written all of it yet.

    Raises:
        OperatorError: not a site, not enrolled, or another process serves it.
        StorageError, IntegrityError: as of :func:`~fedward_client.site.open_site`.
    """
    forbid_core_dumps()
    log_to_stderr()
    package_digest()  # of the code as this process has loaded it
    folder, lock, stop = path.resolve(), None, Stop()
    _set_on_signals(stop)
    try:
        while not stop.is_set():
            editions = _editions(folder)  # before they are read: saved meanwhile is edited
            with _opened(folder, stop, again=lock is not None) as site:
                lock = lock or claim(folder)
                load_connection(site.folder)  # a site that is not enrolled says so at once
                daemon_of(site, stop, editions).run()
    finally:
        if lock is not None:
            lock.close()


def _opened(folder: Path, stop: Stop, *, again: bool) -> Site:
    try:
        return open_site(folder)
    except OperatorError as error:
        if not again:
            raise
        log.warning("%s; it is read once more in %g s", error, HALF_SAVED_SECONDS)
        stop.wait(HALF_SAVED_SECONDS)
        return open_site(folder)


def daemon_of(
    site: Site, stop: Stop | None = None, opened_with: list[Edition | None] | None = None
) -> Daemon:
    """The daemon of an open site, whose folder the caller has claimed.

    Its ``run`` ends when ``stop`` is set, or when the site must be opened anew: when its policy or
    its configuration is no longer the edition that the site was ``opened_with``.
    """
    folder = site.folder.path
    opened_with = opened_with or _editions(folder)
    connection = functools.partial(load_connection, site.folder)
    return Daemon(
        SiteService(site),
        Inbox(folder),
        StateFile(folder),
        connection,
        outdated=lambda: _editions(folder) != opened_with,
        stop=stop,
        on_session=functools.partial(_log_heads, site),
    )


def _log_heads(site: Site) -> None:
    """Put the ends of both chains where the site's own disk is not: the journal may be sent on."""
    for name, head in (("log", site.audit.head()), ("ledger", site.ledger.head())):
        log.info("%s: %d entries, head %s", name, head.length, head.hash.hex())


def _editions(folder: Path) -> list[Edition | None]:
    """What changes when an operator edits a file that is read once."""
    return [_edition(folder / name) for name in (POLICY, "config.toml")]


def _edition(path: Path) -> Edition | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _set_on_signals(stop: Stop) -> None:
    def handle(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
