"""The command that has a published sum proven to this site, or says what came of it (A3.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fedward_client.cli.options import (
    DEFAULT_SITE,
    JsonOption,
    SiteOption,
    find_study,
    tell,
    tell_json,
)
from fedward_common.errors import OperatorError

if TYPE_CHECKING:
    from fedward_client.audits import Audit
    from fedward_client.site import Site
    from fedward_client.studies import StudyRecord


def round_(
    number: Annotated[int, typer.Argument(help="The sum, counted from 1 over the study.", min=1)],
    plan: Annotated[
        str, typer.Option("--plan", help="Part of the plan's digest, if several studies run.")
    ] = "",
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Have a published sum proven, or show what came of it.

    A sum that is still to come is registered; the site then asks the server for its evidence and
    recomputes it. The exit code is 1 if the sum was false.

    Example: fedward-client audit round 12
    """
    from fedward_client.audits import EXPLAINED, Verdict
    from fedward_client.site import open_site

    with open_site(site) as opened:
        begun = [record for record in opened.studies.all() if record.digest is not None]
        record = find_study(begun, plan, none="no such study has begun here")
        audit = _audit(opened, record, number)
    if as_json:
        tell_json(
            {
                "study": audit.study.hex(),
                "round": number,
                "verdict": str(audit.verdict),
                "detail": audit.detail,
            }
        )
    else:
        tell((f"sum {number}: {EXPLAINED[audit.verdict]}", *filter(None, [audit.detail])))
    if audit.verdict is Verdict.FALSE:
        raise typer.Exit(1)


def _audit(site: Site, record: StudyRecord, number: int) -> Audit:
    """The audit of the sum; a sum that is still to come is registered.

    Raises:
        OperatorError: the study has no such sum, forbids audits, or the sum is past.
    """
    from fedward_client.running import open_running

    running = open_running(site, record.digest or b"")
    if running.group.colluding < 1:
        raise OperatorError(
            "audit round: the plan tolerates no colluding member (c = 0), and evidence is what the "
            "server sees; only a plan with c of at least 1 allows it"
        )
    if number > running.study.total_rounds:
        raise OperatorError(f"sum {number}: the study has {running.study.total_rounds} sums")
    found = site.audits.find(running.digest, number)
    if found is None and number <= running.folded_position:
        raise OperatorError(
            f"sum {number}: was published before and not asked for; its evidence is gone: name one "
            f"after {running.folded_position}"
        )
    return found or site.audits.register(running.digest, number)
