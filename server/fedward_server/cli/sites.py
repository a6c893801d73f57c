"""The coordinator's folder and the hospitals in it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from fedward_common import keys
from fedward_common.enrolment import address_problem, coordinator_fingerprint
from fedward_common.errors import OperatorError
from fedward_common.identity import spell
from fedward_common.randomness import os_random
from fedward_common.text import printable
from fedward_server.cli.options import DEFAULT_SERVER, JsonOption, ServerOption, tell
from fedward_server.server_folder import ServerFolder, create_server, has_server, open_server

ANYWHERE = "0.0.0.0"  # noqa: S104  (hospitals are outside; they need a certificate)


MOST = 65535
"""Ports that there are."""


def register(app: typer.Typer) -> None:
    """Add these commands to ``app``."""
    for command in (init, enrol, revoke):
        app.command()(command)


def init(
    address: Annotated[
        str | None,
        typer.Option("--address", help="HOST:PORT where hospitals connect; needed to `run`."),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option("--listen", help="HOST:PORT to listen on, if it is not the address's port."),
    ] = None,
    admin_port: Annotated[
        int | None,
        typer.Option(
            "--admin-port",
            help="Loopback port of /health and /metrics; the listening port + 1 without it.",
            min=1,
            max=MOST,
        ),
    ] = None,
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Make the coordinator's folder with a fresh key, and the consortium's certificate authority.

    A folder that was made without --address gets its address and authority later.

    Example: fedward-server init --address fed.example.org:9443 --server /srv/coordinator
    """
    if address is None and (listen is not None or admin_port is not None):
        raise OperatorError("--listen and --admin-port: give --address too")
    for option, text in (("--address", address), ("--listen", listen)):
        if text is not None and (problem := address_problem(text)):
            raise OperatorError(f"{option} {text}: {problem}")
    port = admin_port or _port(listen or address or ":0") + 1
    if port > MOST:
        raise OperatorError(f"--address {address}: no port comes after it; give --admin-port")
    old = address is not None and has_server(server)
    folder = open_server(server) if old else create_server(server)
    if address is not None:
        _found(folder, address, listen, port)
    key = keys.signing_public(folder.coordinator)
    spelt = spell(coordinator_fingerprint(key))
    lines = (
        f"coordinator is ready in {server}",
        f"public key: {key.hex()}",
        f"fingerprint: {spelt}",
        "  hospitals compare it with you when they enrol",
    )
    record = {"folder": str(server), "coordinator": key.hex(), "fingerprint": spelt}
    tell(record | {"address": address}, lines, as_json=as_json)


def enrol(
    public: Annotated[Path, typer.Argument(help="The SITE.pub that a hospital sent.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Another key under the name of an enrolled site.")
    ] = False,
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Add a hospital to those that plans are drafted for, or renew its certificate.

    Example: fedward-server enrol north/SITE.pub
    """
    from fedward_server.consortium import enrol_site

    try:
        text = public.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(
            f"{public}: cannot be read; give a site's SITE.pub that this user may read"
        ) from error
    now, folder = datetime.now(UTC), open_server(server)
    enrolled = enrol_site(folder, text, str(public), now, os_random, replace=replace)
    site, welcome = enrolled.site, enrolled.welcome
    send = () if welcome is None else (f"send this file to the hospital: {welcome}",)
    lines = (
        f"{printable(site.name)} is enrolled",
        f"fingerprint: {spell(site.fingerprint)}",
        "  compare it with the hospital by telephone before you send the welcome; hospitals",
        "  confirm it with each other too, not through you",
        *send,
    )
    record = {"site": site.name, "fingerprint": site.fingerprint.hex()}
    tell(record | {"welcome": str(welcome) if welcome else None}, lines, as_json=as_json)


def revoke(
    name: Annotated[str, typer.Argument(help="The name of an enrolled site.")],
    identity: Annotated[
        bool,
        typer.Option(
            "--identity", help="Its identity was stolen: refuse that too, with whatever key."
        ),
    ] = False,
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Shut a hospital out: its key is refused at once and for good.

    Example: fedward-server revoke north
    """
    from fedward_server.consortium import revoke_site

    site = revoke_site(open_server(server).path, name, datetime.now(UTC), identity=identity)
    lines = (
        f"{printable(name)} is revoked: a running gateway refuses it within a second",
        "  studies that name it go on only while enough others take part",
    )
    fingerprint = None if site is None else site.fingerprint.hex()
    tell({"site": name, "revoked": fingerprint}, lines, as_json=as_json)


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def _found(folder: ServerFolder, address: str, listen: str | None, admin_port: int) -> None:
    from fedward_server.consortium import Gateway, found_consortium

    bind = listen or f"{ANYWHERE}:{_port(address)}"
    found_consortium(folder, Gateway(address, bind, admin_port), datetime.now(UTC), os_random)
