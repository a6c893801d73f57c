"""Commands on the log of what was decided and what left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedward_client.cli.options import DEFAULT_SITE, JsonOption, SiteOption, tell, tell_json
from fedward_common.errors import OperatorError


def verify(
    site: SiteOption = DEFAULT_SITE,
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", help="Heads that `audit head` signed before; may be repeated."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Recompute the chains of ledger and log, without the network.

    Edits, deletions and reordering show by themselves; a log that was cut or forked and mended
    shows against heads that were signed before and kept elsewhere.

    Example: fedward-client audit verify --against /mnt/archive/2026-11.heads
    """
    from fedward_client.signed_heads import check_heads, parse_heads
    from fedward_client.site import open_site
    from fedward_client.witness import check_log

    with open_site(site) as opened:
        heads = {"ledger": opened.ledger.verify(), "audit": opened.audit.verify()}
        check_log(opened)
        opened.audit.check_covers(heads["ledger"])
        for path in against or ():
            check_heads(opened, parse_heads(_read(path), str(path)), str(path))
    if as_json:
        tell_json({n: {"entries": h.length, "head": h.hash.hex()} for n, h in heads.items()})
        return
    tell(f"{name}: {head.length} entries, head {head.hash.hex()}" for name, head in heads.items())
    tell(f"{path}: both chains go on from there" for path in against or ())
    if not against:
        tell(("a log that was cut and mended shows only with --against; see `audit head`",))


def head(
    site: SiteOption = DEFAULT_SITE,
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write; standard output without it.")
    ] = None,
) -> None:
    """Sign where the log and the ledger end now.

    Keep the file away from this site's disk: later it proves that nothing was cut off. The daemon
    writes the same heads into its journal.

    Example: fedward-client audit head --out /mnt/archive/2026-11.heads
    """
    from fedward_client.signed_heads import sign_heads
    from fedward_client.site import open_site
    from fedward_common.files import write_atomic

    with open_site(site) as opened:
        signed = sign_heads(opened)
    if out is None:
        tell((signed.to_text().rstrip(),))
        return
    if out.exists():
        raise OperatorError(f"{out}: already exists; choose another file")
    write_atomic(out, signed.to_text().encode())
    tell((f"heads of {signed.audit.length} and {signed.ledger.length} entries signed: {out}",))


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path}: cannot be read; give a file of `audit head`") from error
