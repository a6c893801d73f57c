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
from fedward_client.enrolment import load_connection
from fedward_client.package import package_digest
from fedward_client.processes import forbid_core_dumps
from fedward_client.round import SiteService
from fedward_client.serving import claim
from fedward_client.site import Site, open_site

log = logging.getLogger(__name__)


def serve(path: Path) -> None:
    """Serve the site in ``path`` until SIGTERM or SIGINT; a second one ends the process at once.

    Raises:
        OperatorError: not a site, not enrolled, or another process serves it.
        StorageError, IntegrityError: as of :func:`~fedward_client.site.open_site`.
    """
    forbid_core_dumps()
    log_to_stderr()
    package_digest()  # of the code as this process has loaded it
    folder = path.resolve()
    with open_site(folder) as site, claim(folder):
        load_connection(site.folder)  # a site that is not enrolled says so at once
        daemon = daemon_of(site)
        _stop_on_signals(daemon)
        daemon.run()


def daemon_of(site: Site) -> Daemon:
    """The daemon of an open site, whose folder the caller has claimed."""
    folder = site.folder.path
    connection = functools.partial(load_connection, site.folder)
    return Daemon(
        SiteService(site),
        Inbox(folder),
        StateFile(folder),
        connection,
        on_session=functools.partial(_log_heads, site),
    )


def _log_heads(site: Site) -> None:
    """Put the ends of both chains where the site's own disk is not: the journal may be sent on."""
    for name, head in (("log", site.audit.head()), ("ledger", site.ledger.head())):
        log.info("%s: %d entries, head %s", name, head.length, head.hash.hex())


def _stop_on_signals(daemon: Daemon) -> None:
    def stop(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        daemon.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
