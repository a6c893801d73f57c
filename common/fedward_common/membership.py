"""Who forms the group of a study: the plan's roster with the keys of everyone's approval (A1)."""

from __future__ import annotations

from collections.abc import Sequence

from fedward_common.identity import Approval
from fedward_common.plan.document import Plan
from fedward_common.secagg.parameters import Group, Member


def group_of(plan: Plan, approvals: Sequence[Approval], digest: bytes) -> Group:
    """The pinned roster with the encryption keys of the approvals, in roster order.

    ``digest`` is H over plan and approvals (:func:`~fedward_common.identity.approved_digest`).

    Raises:
        PlanError: the members cannot form a group.
    """
    members = tuple(
        Member(site.name, approval.identity, approval.encryption)
        for site, approval in zip(plan.roster.sites, approvals, strict=True)
    )
    return Group(members, plan.secagg.t_min, plan.secagg.colluding, digest)
