"""``fedward-simulate audit``: is what leaves the sites as private as it claims?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedward_server.progress import NullObserver, make_observer

if TYPE_CHECKING:
    from fedward_simulations.audit.federation import Audit


def audit(
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the page, its pictures and audit.json.")
    ] = Path("audit"),
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Image array file (.npz) to attack; phantoms without it."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress display.")] = False,
) -> None:
    """Attack the sums of eight hospitals and measure what they give away.

    Canaries bound epsilon from below; noise, sampling and ledgers are checked; a hostile model
    tries to read patients out of a sum. The exit code is 1 if a check failed.

    Example: fedward-simulate audit --out audit
    """
    from fedward_simulations.arrays import load_arrays
    from fedward_simulations.audit.federation import Setting, audit_federation
    from fedward_simulations.audit.page import document, write_audit

    arrays = None if images is None else load_arrays(images)
    observer = (
        NullObserver()
        if quiet or as_json
        else make_observer(quiet=False, stream=typer.get_text_stream("stderr"))
    )
    try:
        found = audit_federation(arrays, Setting(), observer.stage)
    finally:
        observer.finished()
    page = write_audit(out, found)
    if as_json:
        typer.echo(json.dumps(document(found), indent=2))
    else:
        _show(found)
        typer.echo(f"page: {page}")
    if not found.passed:
        raise typer.Exit(1)


def _show(found: Audit) -> None:
    table = Table(
        title=f"Privacy audit at epsilon {found.setting.epsilon:g}, {found.seconds:.0f} s",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
    )
    for column in ("check", "", "what was found"):
        table.add_column(column)
    for finding in found.findings:
        table.add_row(finding.name, "passed" if finding.passed else "FAILED", finding.verdict)
    Console().print(table)
