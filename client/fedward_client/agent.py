"""The edge to Flower at a site: one ClientApp that hands every message to the site's service.

The app knows nothing of rounds, models or keys; it carries bytes in and bytes out. The message's
type is fixed, and nothing that a server puts into a bundle or a run configuration is read (G2).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedward_client.round import SiteService
from fedward_client.site import open_site
from fedward_common.errors import PeerError

RECORD, FIELD = "fedward", "message"
ACTION = "fedward"
SITE_FOLDER = "site-folder"

Resolve = Callable[[Context], SiteService]


def make_app(resolve: Resolve) -> ClientApp:
    """A ClientApp whose messages go to the service that ``resolve`` finds for their context."""
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


@lru_cache(maxsize=4)
def _service(folder: str) -> SiteService:
    return SiteService(open_site(Path(folder)))


def _from_node_config(context: Context) -> SiteService:
    """The production composition: the site's folder is named by the node's own configuration."""
    return _service(str(context.node_config[SITE_FOLDER]))


app = make_app(_from_node_config)
