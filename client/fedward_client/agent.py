"""The edge to Flower at a site: one ClientApp that hands every message to the site's service.

The app knows nothing of rounds, models or keys; it carries bytes in and bytes out. The message's
type is fixed, and nothing that a server puts into a bundle or a run configuration is read (G2).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedward_client.processes import forbid_core_dumps
from fedward_client.round import SiteService
from fedward_client.serving import claim
from fedward_client.site import open_site
from fedward_common.errors import PeerError

RECORD, FIELD, ORDER = "fedward", "message", "order"
ACTION = "fedward"
MESSAGE_TYPE = f"query.{ACTION}"
SITE_FOLDER = "site-folder"

Resolve = Callable[[Context], SiteService]


def make_app(resolve: Resolve) -> ClientApp:
    """A ClientApp whose messages go to the service that ``resolve`` finds for their context."""
    forbid_core_dumps()
    app = ClientApp()

    @app.query(ACTION)
    def handle(message: Message, context: Context) -> Message:
        reply = resolve(context).handle(order_content(message))
        return Message(answer_content(reply, message.metadata.message_id), reply_to=message)

    return app


def order_content(message: Message) -> bytes:
    """The order's bytes in a message of Flower's; what else lies beside them is left.

    Raises:
        PeerError: it holds none.
    """
    content = message.content if message.has_content() else RecordDict()
    record = content.config_records.get(RECORD)
    data = None if record is None else record.get(FIELD)
    if not isinstance(data, bytes):
        raise PeerError("a message without the fedward record")
    return data


def answer_content(reply: bytes, order: str) -> RecordDict:
    """A reply's bytes as the content of a message of Flower's, with the id of the order's message.

    The server knows the parts of a message by their hashes. An answer that others can foretell is
    one whose parts they can register as theirs; the order's id is known to no other site.
    """
    return RecordDict({RECORD: ConfigRecord({FIELD: reply, ORDER: order})})


class Services:
    """The services of this process: one for each site folder, which no other process serves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[Path, tuple[TextIO, SiteService]] = {}

    def of(self, folder: Path) -> SiteService:
        """The service of this folder, opened at its first message.

        The folder stays locked and open for the life of the process.

        Raises:
            OperatorError: not a site, or another process serves it.
            StorageError, IntegrityError: as of :func:`~fedward_client.site.open_site`.
        """
        path = folder.resolve()
        with self._lock:  # two first messages at once must not make two
            if path not in self._open:
                site = open_site(path)
                try:
                    self._open[path] = claim(path), SiteService(site)
                except BaseException:
                    site.close()
                    raise
            return self._open[path][1]


_services = Services()


def _from_node_config(context: Context) -> SiteService:
    """The production composition: the site's folder is named by the node's own configuration."""
    return _services.of(Path(str(context.node_config[SITE_FOLDER])))


app = make_app(_from_node_config)
