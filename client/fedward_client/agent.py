"""The edge to Flower at a site: one ClientApp that hands every message to the site's service.

The app knows nothing of rounds, models or keys; it carries bytes in and bytes out. The message's
type is fixed, and nothing that a server puts into a bundle or a run configuration is read (G2).
"""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedward_client.processes import forbid_core_dumps
from fedward_client.round import SiteService
from fedward_client.site import open_site
from fedward_common.errors import OperatorError, PeerError, StorageError

RECORD, FIELD = "fedward", "message"
ACTION = "fedward"
SITE_FOLDER = "site-folder"

Resolve = Callable[[Context], SiteService]


def make_app(resolve: Resolve) -> ClientApp:
    """A ClientApp whose messages go to the service that ``resolve`` finds for their context."""
    forbid_core_dumps()
    app = ClientApp()

    @app.query(ACTION)
    def handle(message: Message, context: Context) -> Message:
        record = message.content.config_records.get(RECORD)
        data = None if record is None else record.get(FIELD)
        if not isinstance(data, bytes):
            raise PeerError("a message without the fedward record")
        reply = resolve(context).handle(data)
        return Message(RecordDict({RECORD: ConfigRecord({FIELD: reply})}), reply_to=message)

    return app


class Services:
    """The services of this process: one for each site folder, which no other process serves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[Path, tuple[TextIO, SiteService]] = {}

    def of(self, folder: Path) -> SiteService:
        """The service of this folder, opened at its first message.

        Raises:
            OperatorError: not a site, or another process serves it.
            StorageError, IntegrityError: as of :func:`~fedward_client.site.open_site`.
        """
        path = folder.resolve()
        with self._lock:  # two first messages at once must not make two
            if path not in self._open:
                site = open_site(path)
                try:
                    self._open[path] = _claim(path), SiteService(site)
                except BaseException:
                    site.close()
                    raise
            return self._open[path][1]


def _claim(path: Path) -> TextIO:
    """Lock the folder for serving, for as long as the returned file is open.

    Commands that read it or add to it do not ask for this lock.
    """
    try:
        lock = (path / "serving.lock").open("a", encoding="ascii")
    except OSError as error:
        raise StorageError(f"{path}: cannot lock the site; check rights and space") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise OperatorError(f"{path}: another process serves this site; stop it first") from error
    return lock


_services = Services()


def _from_node_config(context: Context) -> SiteService:
    """The production composition: the site's folder is named by the node's own configuration."""
    return _services.of(Path(str(context.node_config[SITE_FOLDER])))


app = make_app(_from_node_config)
