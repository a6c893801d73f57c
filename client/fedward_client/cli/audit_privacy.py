"""The command by which a site checks that its addends are as private as a plan claims (B8)."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fedward_client.cli.options import (
    DEFAULT_SITE,
    JsonOption,
    SiteOption,
    find_study,
    tell,
    tell_json,
)

if TYPE_CHECKING:
    from fedward_client.privacy_audit.finding import Finding


def privacy(
    plan: Annotated[
        str, typer.Option("--plan", help="Part of the plan's digest, if the site knows several.")
    ] = "",
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Check this site's noise, sampling and ledger on invented patients.

    Canaries, not patients, go through this site's own code with the plan's numbers. Nothing leaves
    and nothing is debited. The exit code is 1 if a check failed.

    Example: fedward-client audit privacy --plan 3f9c
    """
    from fedward_client.privacy_audit.site_audit import audit_site, terms_of
    from fedward_client.site import open_site
    from fedward_common.plan.document import plan_from_canonical
    from fedward_common.study import Study

    with open_site(site) as opened:
        study = Study(plan_from_canonical(find_study(opened.studies.all(), plan).plan))
        terms = terms_of(study)
        findings = []
        with Console(stderr=True).status("", spinner="line") as status:
            for finding in audit_site(opened, study, lambda *told: status.update(_words(*told))):
                findings.append(finding)
                if not as_json:
                    tell((_line(finding),))
    passed = all(finding.passed for finding in findings)
    if as_json:
        tell_json(
            {
                "study": study.plan.study.name,
                "rounds_rehearsed": terms.rounds,
                "passed": passed,
                "checks": [_record(finding) for finding in findings],
            }
        )
    if not passed:
        raise typer.Exit(1)


def _words(name: str, done: int, total: int) -> str:
    return f"{name}: {done}/{total}" if total else name


def _line(finding: Finding) -> str:
    return f"{'ok' if finding.passed else 'FAILED':8}{finding.name:10}{finding.verdict}"


def _record(finding: Finding) -> dict[str, Any]:
    return asdict(finding)
