"""How a study reaches a site: a greeting, a proposal, and a beginning that all have approved (A1).

Nothing here decides: a proposal waits for the operator, and a study begins only under the exact
plan that this site approved, with valid approvals of every roster member.
"""

from __future__ import annotations

from fedward_client.enrolment import check_coordinator
from fedward_client.site import Site
from fedward_client.studies import StudyState
from fedward_common import __version__, keys
from fedward_common import progress as folding
from fedward_common.codec import encode
from fedward_common.errors import OperatorError, PeerError, PolicyRefusalError
from fedward_common.identity import Approval, approved_digest
from fedward_common.membership import group_of
from fedward_common.messages import (
    PROTOCOL_VERSION,
    Begin,
    Hello,
    HelloReply,
    Propose,
    ProposeReply,
)
from fedward_common.plan.document import Plan, plan_from_canonical
from fedward_common.plan.signing import SignedPlan
from fedward_common.study import Study

NONCE_BYTES = 32
MAX_WAITING = 32
"""Proposals that may wait for the operator at once."""


def greet(site: Site, order: Hello) -> HelloReply:
    """Say who this site is, signed over the server's nonce."""
    if len(order.nonce) != NONCE_BYTES:
        raise PeerError(f"hello: the nonce must have {NONCE_BYTES} bytes")
    signature = keys.sign(site.identity.identity, "hello", order.nonce, site.name)
    return HelloReply(site.name, PROTOCOL_VERSION, __version__, signature)


def receive_proposal(site: Site, order: Propose) -> ProposeReply:
    """Keep a validly signed plan for the operator; answer with the approval once there is one.

    Raises:
        PeerError: it is no plan, or not signed by the coordinator that it names.
        PolicyRefusalError: that is not this site's coordinator, or the operator said no.
        OperatorError: too many wait for the operator; it may be proposed again later.
    """
    plan = SignedPlan(order.plan, order.signature).open()
    _check_pinned(site, plan)
    record = site.studies.by_plan(plan.digest)
    if record is None:
        waiting = [s for s in site.studies.all() if s.state is StudyState.PROPOSED]
        if len(waiting) >= MAX_WAITING:
            raise OperatorError(f"{MAX_WAITING} proposals already wait: decide on them first")
        site.studies.propose(plan.digest, order.plan, order.signature)
        return ProposeReply(b"")
    if record.state is StudyState.REJECTED:
        raise PolicyRefusalError("this site's operator has rejected the plan")
    return ProposeReply(record.approval or b"")


def begin_study(site: Site, order: Begin) -> bytes:
    """Start an approved study under everyone's approvals; returns the digest it runs under.

    Raises:
        PolicyRefusalError: this site has not approved the plan, or is enrolled elsewhere now.
        PeerError: an approval is missing, invalid, or not by the roster's key for this plan.
    """
    record = site.studies.by_plan(order.plan_digest)
    if record is None or record.approval is None:
        raise PolicyRefusalError("this site has not approved the plan")
    plan = plan_from_canonical(record.plan)
    _check_pinned(site, plan)
    approvals = _checked_approvals(plan, order)
    if record.approval not in order.approvals:
        raise PeerError("the study is begun without this site's own approval as it was given")
    digest = approved_digest(plan.digest, approvals)
    if record.digest is not None:
        if record.digest != digest:
            raise PeerError("the study has begun under other approvals; it is not begun twice")
        return digest
    group_of(plan, approvals, digest)  # refuses what cannot form a group
    stored = encode(tuple(approval.encode() for approval in approvals))
    first = folding.begin(Study(plan))
    site.studies.begin(plan.digest, digest, stored, first.encode())
    return digest


def _check_pinned(site: Site, plan: Plan) -> None:
    """An enrolled site hears one coordinator (A1)."""
    problem = check_coordinator(site.folder.identity, plan.roster.coordinator)
    if problem is not None:
        raise PolicyRefusalError(f"{problem}; ask which of the two is meant")


def _checked_approvals(plan: Plan, order: Begin) -> tuple[Approval, ...]:
    if len(order.approvals) != len(plan.roster.sites):
        raise PeerError(f"{len(order.approvals)} approvals for {len(plan.roster.sites)} members")
    approvals = tuple(Approval.decode(data) for data in order.approvals)
    for member, approval in zip(plan.roster.sites, approvals, strict=True):
        expected = (bytes.fromhex(member.identity), plan.digest)
        if (approval.identity, approval.plan_digest) != expected:
            raise PeerError(f"the approval of {member.name} is for another plan or by another key")
    return approvals
