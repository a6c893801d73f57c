"""Running studies, watching them, and their results."""

from __future__ import annotations

import logging
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from fedward_common.errors import FedwardError, OperatorError
from fedward_common.randomness import os_random
from fedward_common.text import printable
from fedward_server.cli.options import DEFAULT_SERVER, JsonOption, ServerOption, tell
from fedward_server.server_folder import open_server

STOP_SECONDS = 90.0


def register(app: typer.Typer) -> None:
    """Add these commands to ``app``."""
    for command in (run, nginx, status, stop, report):
        app.command()(command)


def run(
    studies: Annotated[
        list[str] | None,
        typer.Argument(help="Run these and end; all signed ones, now and later, without it."),
    ] = None,
    nginx: Annotated[
        int | None,
        typer.Option(
            "--nginx",
            help="Leave the gateway to nginx, before a SuperLink on this loopback port.",
            min=1,
            max=65535,
        ),
    ] = None,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Serve hospitals and run studies, in the foreground, until SIGTERM or `stop`.

    Example: fedward-server run --server /srv/coordinator
    """
    from fedward_server.supervisor import supervise

    logging.getLogger("fedward_server").setLevel(logging.INFO)
    failed = supervise(open_server(server).path, studies or (), nginx)
    if failed:
        raise FedwardError(f"studies that cannot go on: {', '.join(failed)}; see `status`")


def nginx(
    port: Annotated[
        int, typer.Option("--port", help="The loopback port of `run --nginx`.", min=1, max=65535)
    ],
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Print a configuration for nginx in the gateway's place.

    Example: fedward-server nginx --port 9400 > /etc/nginx/conf.d/fedward.conf
    """
    from fedward_server.consortium import gateway_certificate
    from fedward_server.nginx import nginx_configuration
    from fedward_server.superlink import LINK_FOLDER, SuperLink, make_tls

    folder, now = open_server(server), datetime.now(UTC)
    gateway_certificate(folder.path, now, os_random)
    link = SuperLink(folder.path / LINK_FOLDER, port)
    if not link.tls.exists():  # nginx reads them; afterwards they are `run`'s to renew
        make_tls(link, now, os_random)
    typer.echo(nginx_configuration(folder.path, port, now), nl=False)


def status(server: ServerOption = DEFAULT_SERVER, as_json: JsonOption = False) -> None:
    """Studies, rounds and attempts; who is late and why.

    Example: fedward-server status
    """
    from fedward_server.status import server_lines, server_status

    found = server_status(open_server(server).path)
    tell(asdict(found), tuple(map(printable, server_lines(found))), as_json=as_json)


def stop(server: ServerOption = DEFAULT_SERVER) -> None:
    """End the running server after the round in hand; `run` goes on from there.

    Example: fedward-server stop --server /srv/coordinator
    """
    from fedward_server.supervisor import stop as stop_server

    stop_server(open_server(server).path, STOP_SECONDS)
    typer.echo("the server has ended; studies go on when it runs again")


def report(
    study: Annotated[str, typer.Argument(help="The name of a study that has run.")],
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Write the model, its card and the report of a finished study again.

    Example: fedward-server report pneumonia
    """
    from fedward_common.study import Study
    from fedward_server.checkpoints import load_checkpoint
    from fedward_server.run_record import finish_run

    stored = open_server(server).study(study)
    rounds = Study(stored.signed.open()).total_rounds
    checkpoint = load_checkpoint(stored.folder)
    done = 0 if checkpoint is None else checkpoint.progress.position
    if checkpoint is None or done < rounds:
        raise OperatorError(
            f"study {study}: {done} of {rounds} sums are done; wait until it has finished"
        )
    typer.echo(f"report: {finish_run(stored, checkpoint)}")
