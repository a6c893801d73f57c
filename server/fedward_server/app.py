"""The edge to Flower at the server: one ServerApp that runs a coordinator over its grid."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedward_common.errors import IntegrityError, OperatorError
from fedward_common.text import printable
from fedward_server.bound import die_with_parent
from fedward_server.coordinator import Coordinator, StudyFailedError
from fedward_server.grid_sites import GridSites
from fedward_server.patience import bound_pulls, limit_pulls
from fedward_server.receipts import Receipts, RecordedSites, StudyStoppedError
from fedward_server.run_record import finish_run
from fedward_server.server_folder import ServerFolder, StoredStudy, open_server
from fedward_server.study_files import (
    LOG,
    exclusive,
    failure,
    is_stopping,
    note_failed,
    note_finished,
    read_nodes,
)

log = logging.getLogger(__name__)

SERVER_FOLDER = "server-folder"
STUDY = "study"

REPEAT_SECONDS = 15.0
"""For an answer, before an order is sent again."""

_PARENT = os.getppid()
"""Who started this process; later it may be gone already."""

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
    die_with_parent(_PARENT)
    bound_pulls()
    folder = open_server(Path(str(context.run_config[SERVER_FOLDER])))
    stored = folder.study(str(context.run_config[STUDY]))
    with exclusive(stored.folder):
        _log_to(stored.folder / LOG)
        try:
            run_study(grid, folder, stored)
        except StudyStoppedError as stop:
            log.info("study %s: %s", stored.folder.name, stop)
        except (StudyFailedError, OperatorError, IntegrityError) as error:
            note_failed(stored.folder, str(error))  # to begin it again would not mend it
            raise


class _OneLine(logging.Formatter):
    """A message is a line: what a hospital sent cannot add lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        return printable(super().formatMessage(record))


def _log_to(path: Path) -> None:
    """SuperExec discards what a ServerApp prints: the supervisor passes this file on."""
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(_OneLine("%(levelname)s %(name)s: %(message)s"))
    ours = logging.getLogger("fedward_server")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)


def run_study(grid: Grid, folder: ServerFolder, stored: StoredStudy) -> None:
    """Run a study to its end, with a receipt for every round, and release what its plan says.

    Raises:
        StudyStoppedError: the server is stopping, and the study goes on in the next run; or the
            study was withdrawn.
        StudyFailedError, OperatorError, IntegrityError: it cannot go on.
    """
    roster = stored.signed.open().roster.sites
    receipts = Receipts(stored.folder, [site.name for site in roster])
    receipts.reconcile()
    grid_sites = GridSites(
        grid,
        roster,
        on_problem=receipts.problem,
        repeat_seconds=REPEAT_SECONDS,
        enrolled=lambda: read_nodes(folder.path),
        patience=limit_pulls,
    )
    sites = RecordedSites(
        grid_sites,
        receipts,
        stopping=lambda: is_stopping(folder.path) or failure(stored.folder) is not None,
    )
    coordinator = Coordinator(
        stored.signed,
        sites,
        stored.folder,
        on_round=receipts.round_finished,
        on_abort=receipts.attempt_aborted,
    )
    checkpoint = coordinator.run()
    finish_run(stored, checkpoint)
    note_finished(stored.folder)


app = make_app(_run_from_folder)
