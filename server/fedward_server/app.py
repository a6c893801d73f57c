"""The edge to Flower at the server: one ServerApp that runs a coordinator over its grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedward_server.coordinator import Coordinator
from fedward_server.run_record import finish_run
from fedward_server.server_folder import open_server
from fedward_server.sites import GridSites

SERVER_FOLDER = "server-folder"
STUDY = "study"

Run = Callable[[Grid, Context], None]


def make_app(run: Run) -> ServerApp:
    """A ServerApp whose main function is ``run``."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        run(grid, context)

    return app


def _run_from_folder(grid: Grid, context: Context) -> None:
    """The production composition: folder and study are named by the run's configuration."""
    folder = Path(str(context.run_config[SERVER_FOLDER]))
    stored = open_server(folder).study(str(context.run_config[STUDY]))
    sites = GridSites(grid, stored.signed.open().roster.sites)
    checkpoint = Coordinator(stored.signed, sites, stored.folder).run()
    finish_run(stored, checkpoint)


app = make_app(_run_from_folder)
