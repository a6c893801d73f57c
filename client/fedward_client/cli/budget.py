"""Commands on the privacy budget and on the two chains that prove what happened."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward_client.cli.options import DEFAULT_SITE, JsonOption, SiteOption, tell, tell_json
from fedward_common.errors import IntegrityError, OperatorError

if TYPE_CHECKING:
    from fedward_client.chain import Head


def show(site: SiteOption = DEFAULT_SITE, as_json: JsonOption = False) -> None:
    """Show what was spent, by whom, against the caps.

    Every attempt counts, whether or not a sum came of it: nothing is refunded.

    Example: fedward-client ledger show
    """
    from fedward_client.cli.budget_view import (
        account_lines,
        accounts_json,
        entries_json,
        entry_lines,
    )
    from fedward_client.site import open_site

    with open_site(site) as opened:
        if as_json:
            tell_json({"accounts": accounts_json(opened), "debits": entries_json(opened)})
        else:
            tell((*entry_lines(opened), *account_lines(opened)))


def verify(site: SiteOption = DEFAULT_SITE, as_json: JsonOption = False) -> None:
    """Recompute the ledger's hash chain, without the network.

    A ledger that was cut and mended is told from the site's log of what left, one that went back
    from what other hospitals have said of it.

    Example: fedward-client ledger verify
    """
    from fedward_client.site import open_site
    from fedward_client.witness import check_log, contradictions

    with open_site(site) as opened:
        head = opened.ledger.verify()
        check_log(opened)
        said = contradictions(opened)
        if said and not opened.ledger.closed:
            more = f"; {len(said) - 1} more say so" if len(said) > 1 else ""
            raise IntegrityError(said[0] + more)
        _tell_heads({"ledger": head}, as_json=as_json)


def close(
    site: SiteOption = DEFAULT_SITE,
    yes: Annotated[bool, typer.Option("--yes", help="End it without asking.")] = False,
) -> None:
    """End training on this site's patients for good, because debits were lost.

    For a site whose newest folder is gone: nobody knows what its patients have paid, so no cap can
    be kept. Both accounts count as spent without bound, in every study, and nothing undoes it.

    Example: fedward-client ledger close
    """
    from fedward_client.site import open_site
    from fedward_client.witness import contradictions

    with open_site(site) as opened:
        tell(contradictions(opened) or ("no other hospital has said that debits are missing",))
        tell(("closing ends all training and evaluation on this site's patients, for good",))
        if not yes and not (sys.stdin.isatty() and typer.confirm("Close the ledger?")):
            raise OperatorError(f"{site}: not closed; give --yes if its newest copy is lost")
        head = opened.ledger.close()
        opened.audit.decided("close", bytes(32), b"ledger", head)
    tell(("the ledger is closed",))


def forecast(
    plan: Annotated[Path, typer.Argument(help="A plan, signed or not.")],
    site: SiteOption = DEFAULT_SITE,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw it as well: FILE.png or FILE.svg.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a plan would cost, and what it would leave.

    All the attempts that the plan allows are counted, because no debit is ever refunded.

    Example: fedward-client ledger forecast study.plan --plot forecast.png
    """
    from fedward_client.cli.budget_view import outlook_json, outlook_table
    from fedward_client.outlook import outlooks
    from fedward_client.site import open_site
    from fedward_common.plan.files import read_plan
    from fedward_common.study import Study
    from fedward_common.text import printable

    if plot is not None:
        from fedward_client.cli.forecast_chart import check_picture, draw_forecast

        check_picture(plot)
    study = Study(read_plan(plan), str(plan))
    name = printable(study.plan.study.name)
    with open_site(site) as opened:
        caps = opened.policy.caps
        accounts = list(outlooks(opened.ledger, caps, study))
        if plot is not None:
            title = f"What study {name} would cost the patients of {opened.name}"
            draw_forecast(plot, title, opened.ledger, caps, accounts)
    if as_json:
        tell_json({item.account: outlook_json(item) for item in accounts})
        return
    tell(line for item in accounts for line in outlook_table(item))
    if plot is not None:
        tell((f"picture: {plot}",))


def _tell_heads(heads: dict[str, Head], *, as_json: bool) -> None:
    if as_json:
        tell_json({n: {"entries": h.length, "head": h.hash.hex()} for n, h in heads.items()})
        return
    tell(f"{name}: {head.length} entries, head {head.hash.hex()}" for name, head in heads.items())
