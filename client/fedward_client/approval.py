"""The operator's decision on a plan: checked against the site's policy and budget, then signed."""

from __future__ import annotations

from dataclasses import dataclass

from fedward_client.enrolment import check_coordinator
from fedward_client.package import too_old_for
from fedward_client.policy import PlanFacts, QueryFacts
from fedward_client.running import end_study
from fedward_client.site import Site
from fedward_client.studies import ENDED, StudyRecord, StudyState
from fedward_client.study_cohort import open_cohort, prepare_cohort
from fedward_common import keys
from fedward_common.errors import OperatorError, PolicyRefusalError
from fedward_common.guarantee import accounts_of, statement_of
from fedward_common.identity import approve
from fedward_common.plan.document import Plan, plan_from_canonical
from fedward_common.privacy.statement import PrivacyStatement
from fedward_common.queries.task import gradient_slack
from fedward_common.study import Study


@dataclass(frozen=True)
class Review:
    """What the operator is shown before deciding; ``refusals`` empty means it may be approved."""

    plan: Plan
    statement: PrivacyStatement
    unverified: tuple[str, ...]
    refusals: tuple[str, ...]


def review(site: Site, plan_digest: bytes) -> Review:
    """Put a proposed plan against the site's policy, budget, roster and cohort.

    Raises:
        OperatorError: no such plan, or a package too old or too new for it.
    """
    record = _known(site, plan_digest)
    study = Study(plan_from_canonical(record.plan))
    statement = statement_of(study)
    unverified = tuple(
        member.name
        for member in study.plan.roster.sites
        if member.name != site.name and not site.members.is_verified(member)
    )
    patients = len(open_cohort(site.folder, study, "train"))
    refusals = (
        *_seat_problems(site, study.plan),
        *_plan_problems(study, patients),
        *_policy_problems(site, study, statement, unverified, patients),
        *_budget_problems(site, study),
    )
    return Review(study.plan, statement, unverified, refusals)


def approve_plan(site: Site, plan_digest: bytes) -> Review:
    """Sign the site's consent with a fresh encryption key for this plan (A1).

    A plan that is approved already keeps its approval: others may hold it, and its key with it.
    What is noted anew is the package, if it is another than at the approval before.

    Raises:
        OperatorError: no such plan, or its study has begun with this very package.
        PolicyRefusalError: the policy or the budget forbids it; every reason is named.
    """
    record = _known(site, plan_digest)
    begun = record.state is StudyState.RUNNING
    anew = begun and not site.packages.is_approved(plan_digest)
    if record.state in ENDED or (begun and not anew):
        raise OperatorError(f"plan {plan_digest.hex()[:16]}: its study has begun; see `plan show`")
    outcome = review(site, plan_digest)
    # Of a study under way the debits are in the ledger: only the package is to be decided on.
    refusals = _package_problems(outcome.plan) if begun else outcome.refusals
    if refusals:
        raise PolicyRefusalError(f"{outcome.plan.study.name}: " + "; ".join(refusals))
    if record.approval is None:
        _consent(site, outcome.plan)
    if record.approval is None or not site.packages.is_approved(plan_digest):
        site.packages.approve(plan_digest)
        site.audit.decided("approve", plan_digest, outcome.plan.canonical, site.ledger.head())
    return outcome


def _consent(site: Site, plan: Plan) -> None:
    """Sign the approval and make the key that it names."""
    study = Study(plan)
    for split in {task.split for task in study.tasks}:
        prepare_cohort(site.folder, study, split)  # B2: a round only reads
    encryption = site.new_encryption_key(plan.digest)
    consent = approve(site.identity.identity, plan.digest, keys.encryption_public(encryption))
    site.studies.approve(plan.digest, consent.encode())


def reject_plan(site: Site, plan_digest: bytes) -> StudyState:
    """Record the operator's no, and destroy the keys of what it takes back; returns the new state.

    A study that is running ends at this site for good. A process that serves the site meanwhile
    can store no addend and no released share of it any more, so that none leaves (A2), and refuses
    its next order.

    Raises:
        OperatorError: no such plan, or its study is over here.
    """
    record = _known(site, plan_digest)
    if record.state in ENDED:
        raise OperatorError(
            f"plan {plan_digest.hex()[:16]}: its study is {record.state} here; nothing is left to "
            "decide"
        )
    if record.state is StudyState.RUNNING:
        kind, state = "leave", StudyState.WITHDRAWN
        site.studies.withdraw(plan_digest)
    else:
        kind, state = "reject", StudyState.REJECTED
        site.studies.reject(plan_digest)
    end_study(site, record)
    site.audit.decided(kind, plan_digest, record.plan, site.ledger.head())
    return state


def _known(site: Site, plan_digest: bytes) -> StudyRecord:
    record = site.studies.by_plan(plan_digest)
    if record is None:
        raise OperatorError(f"plan {plan_digest.hex()[:16]}: not known here; see `plan show`")
    return record


def _plan_problems(study: Study, patients: int) -> list[str]:
    """What only a site can check: its package, and that the slack covers its cohort."""
    plan = study.plan
    problems = []
    if plan.model.initial_sha256 is None:  # A2
        problems.append("model.initial_sha256 is missing: the plan does not pin its first model")
    problems += _package_problems(plan)
    slack = gradient_slack(study.tasks, patients)
    if plan.privacy.slack < slack:  # B3
        problems.append(
            f"privacy.slack {plan.privacy.slack:.3g} is below the {slack:.3g} that this site's "
            "cohort needs: ask for a plan with a larger one"
        )
    return problems


def _package_problems(plan: Plan) -> list[str]:
    problem = too_old_for(plan.protocol.minimum_package)
    return [problem] if problem else []


def _seat_problems(site: Site, plan: Plan) -> list[str]:
    own = site.identity.public()
    foreign = check_coordinator(site.folder.identity, plan.roster.coordinator)
    problems = [foreign] if foreign else []
    seat = (own.name, own.identity.hex(), own.transport.hex())
    if seat in {(m.name, m.identity, m.transport) for m in plan.roster.sites}:
        return problems
    return [*problems, "this site's name and keys are not on the plan's roster"]


def _policy_problems(
    site: Site,
    study: Study,
    statement: PrivacyStatement,
    unverified: tuple[str, ...],
    patients: int,
) -> list[str]:
    plan = study.plan
    facts = PlanFacts(
        queries=tuple(
            QueryFacts(
                task.query.kind,
                task.split,
                task.clip,
                task.query.noise_multiplier,
                task.sampling_rate,
            )
            for task in study.tasks
        ),
        model=plan.model.kind,
        t_min=plan.secagg.t_min,
        colluding=plan.secagg.colluding,
        unverified=len(unverified),
        cohort=patients,
        accounts=statement.by_account,
        delta=plan.privacy.delta,
        unsafe=plan.secagg.unsafe_for_simulation,
        reply_delay=plan.schedule.reply_delay_seconds,
    )
    return site.policy.refusals(facts, simulation=site.simulation)


def _budget_problems(site: Site, study: Study) -> list[str]:
    """What the ledger would refuse on the way, its filter over all plans included (B5, B6)."""
    caps = site.policy.caps
    extra = study.plan.schedule.maximum_attempts - study.total_rounds
    problems = []
    for account, queries in accounts_of(study).items():
        if queries and caps.of(account).epsilon > 0.0:  # a cap of zero is the policy's to name
            excess = site.ledger.excess(account, queries, extra, caps)
            if excess is not None:
                problems.append(f"[caps.{account}] does not last to the end of the plan: {excess}")
    return problems
