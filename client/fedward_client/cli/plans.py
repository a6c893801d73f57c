"""Commands on plans: importing, reading in plain words, approving, rejecting."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedward_client.cli.options import (
    DEFAULT_SITE,
    JsonOption,
    SiteOption,
    find_study,
    tell,
    tell_json,
)
from fedward_client.cli.site import asked, study_name
from fedward_common.errors import OperatorError
from fedward_common.text import printable, under

if TYPE_CHECKING:
    from fedward_client.approval import Review
    from fedward_client.site import Site
    from fedward_client.studies import StudyRecord
    from fedward_common.study import Study

DigestArgument = Annotated[
    str, typer.Argument(help="The plan's digest, or as much of it as is unique.")
]

_LEAVING = (
    "this study is running: it ends at this site for good, and nothing undoes that",
    "what has left stays in the sums, and the ledger keeps what was spent",
)


def import_plan(
    file: Annotated[Path, typer.Argument(help="A plan that the coordinator has signed.")],
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Take in a signed plan, to be read and decided on.

    Example: fedward-client plan import pneumonia.plan
    """
    from fedward_client.admission import receive_proposal
    from fedward_client.site import open_site
    from fedward_common.messages import Propose
    from fedward_common.plan.files import read_signed_plan
    from fedward_common.study import Study

    signed, plan = read_signed_plan(file)
    Study(plan, str(file))  # refuses a plan that breaks a rule, before it is stored
    with open_site(site) as opened:
        receive_proposal(opened, Propose(signed.canonical, signed.signature))
    digest = plan.digest.hex()
    if as_json:
        tell_json({"study": plan.study.name, "plan": digest})
        return
    tell(
        (
            f"plan {digest} of study {plan.study.name} waits for your decision",
            f"read it with: fedward-client plan show {digest[:16]}",
        )
    )


def show(
    digest: Annotated[str, typer.Argument(help="Part of a digest; all plans without it.")] = "",
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Say in plain words what a plan does and costs.

    Without a digest, list the plans that this site knows.

    Example: fedward-client plan show 3f9c
    """
    from fedward_client.site import open_site

    with open_site(site) as opened:
        if not digest:
            _show_all(opened, as_json=as_json)
            return
        from fedward_client.approval import review

        record = find_study(opened.studies.all(), digest)
        outcome = review(opened, record.plan_digest)
        if as_json:
            tell_json(_review_json(opened, record, outcome))
        else:
            tell(_review_lines(opened, record, outcome))


def approve(
    digest: DigestArgument, site: SiteOption = DEFAULT_SITE, as_json: JsonOption = False
) -> None:
    """Sign this site's consent to a plan.

    The policy or the budget may forbid it: then every reason is named.

    Example: fedward-client plan approve 3f9c
    """
    from fedward_client.approval import approve_plan
    from fedward_client.site import open_site

    with open_site(site) as opened:
        record = find_study(opened.studies.all(), digest)
        outcome = approve_plan(opened, record.plan_digest)
    _tell_decision(outcome.plan.study.name, record, "approved", as_json=as_json)


def reject(
    digest: DigestArgument,
    site: SiteOption = DEFAULT_SITE,
    yes: Annotated[
        bool, typer.Option("--yes", help="Leave a study that is running, without asking.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Record that this site takes no part in a plan, or no further part in its study.

    A study that is running ends at this site for good; it asks before.

    Example: fedward-client plan reject 3f9c
    """
    from fedward_client.approval import reject_plan
    from fedward_client.site import open_site

    with open_site(site) as opened:
        record = find_study(opened.studies.all(), digest)
        if not yes:
            _ask_to_leave(record, quiet=as_json)
        state = reject_plan(opened, record.plan_digest)
    _tell_decision(study_name(record), record, state, as_json=as_json)


def _ask_to_leave(record: StudyRecord, *, quiet: bool) -> None:
    """Ask a person whether this site is to leave a study that is running; a script says --yes."""
    from fedward_client.studies import StudyState

    if record.state is not StudyState.RUNNING:
        return
    if not quiet:
        tell(_LEAVING)
    if quiet or not asked("Leave the study?"):
        raise OperatorError(
            f"plan {record.plan_digest.hex()[:16]}: its study is running and goes on; give --yes "
            "to leave it for good"
        )


def _show_all(site: Site, *, as_json: bool) -> None:
    records = site.studies.all()
    if as_json:
        tell_json(
            [
                {"plan": r.plan_digest.hex(), "study": study_name(r), "state": str(r.state)}
                for r in records
            ]
        )
        return
    tell(f"{r.plan_digest.hex()[:16]}  {r.state:9}  {study_name(r)}" for r in records)
    if not records:
        tell(("no plan yet; `fedward-client plan import FILE` takes one in",))


def _review_lines(site: Site, record: StudyRecord, outcome: Review) -> tuple[str, ...]:
    from fedward_common.explain import explain
    from fedward_common.study import Study

    study = Study(outcome.plan)
    members = tuple(
        f"{printable(member.name)}: {_standing(site, member.name, outcome)}"
        for member in outcome.plan.roster.sites
    )
    return (
        *explain(study).lines(),
        *under("Hospitals", members),
        *_change_lines(site, outcome),
        *(() if _has_begun(record) else _verdict_lines(site, study, outcome)),
        *_package_lines(site, record),
        f"State: {record.state}",
    )


def _change_lines(site: Site, outcome: Review) -> tuple[str, ...]:
    from fedward_client.plan_changes import changes, last_approved

    before = last_approved(site, outcome.plan)
    if before is None:
        return ("This site has approved no other plan of this coordinator yet.",)
    heading = f"What changed since {before.study.name}, the plan that it approved last"
    return under(heading, changes(before, outcome.plan) or ("nothing but the study's number",))


def _package_lines(site: Site, record: StudyRecord) -> tuple[str, ...]:
    if not _waits_for_package(site, record):
        return ()
    return ("fedward was upgraded or changed since this plan was approved: approve it again.",)


def _waits_for_package(site: Site, record: StudyRecord) -> bool:
    from fedward_client.studies import ENDED

    approved = record.approval is not None and record.state not in ENDED
    return approved and not site.packages.is_approved(record.plan_digest)


def _verdict_lines(site: Site, study: Study, outcome: Review) -> tuple[str, ...]:
    from fedward_client.cli.budget_view import forecast_lines

    budget = under("This site's budget", forecast_lines(site, study))
    if outcome.refusals:
        return (*budget, *under("This site refuses because", outcome.refusals))
    return (*budget, "This site's policy and budget allow it.")


def _has_begun(record: StudyRecord) -> bool:
    """Then its debits are in the ledger already, and there is nothing left to decide."""
    from fedward_client.studies import ENDED, StudyState

    return record.state in (StudyState.RUNNING, *ENDED)


def _review_json(site: Site, record: StudyRecord, outcome: Review) -> dict[str, Any]:
    from fedward_client.cli.budget_view import forecast_json
    from fedward_client.plan_changes import changes, last_approved
    from fedward_common.explain import explain
    from fedward_common.study import Study

    study, statement = Study(outcome.plan), outcome.statement
    before = last_approved(site, outcome.plan)
    begun = _has_begun(record)
    return {
        "plan": outcome.plan.digest.hex(),
        "study": outcome.plan.study.name,
        "state": str(record.state),
        "epsilon": statement.epsilon,
        "epsilon_worst_case": statement.epsilon_worst_case,
        "delta": statement.delta,
        "forecast": {} if begun else forecast_json(site, study),
        "unverified": outcome.unverified,
        "refusals": () if begun else outcome.refusals,
        "approve_again": _waits_for_package(site, record),
        "last_approved": None if before is None else before.digest.hex(),
        "changes": [] if before is None else changes(before, outcome.plan),
        "explanation": explain(study).to_json(),
    }


def _standing(site: Site, name: str, outcome: Review) -> str:
    if name == site.name:
        return "this site"
    return "not verified by this site" if name in outcome.unverified else "verified"


def _tell_decision(name: str, record: StudyRecord, decision: str, *, as_json: bool) -> None:
    digest = record.plan_digest.hex()
    if as_json:
        tell_json({"plan": digest, "study": name, "state": decision})
    else:
        tell((f"plan {digest[:16]} of study {name}: {decision}",))
