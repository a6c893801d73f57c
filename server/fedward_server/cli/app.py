"""The whole of ``fedward-server``, put together from its groups of commands."""

from __future__ import annotations

from fedward_common.command import new_app, run_command
from fedward_server.cli import plans, running, sites

NAME = "fedward-server"

app = new_app(NAME, "The coordinator's side of fedward: sites, plans, runs, results.")
sites.register(app)
app.add_typer(plans.app)
running.register(app)


def main() -> None:
    """Entry point of the console script."""
    run_command(app, NAME)
