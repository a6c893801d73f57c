"""The members' approvals of a plan, gathered once and kept in the study's folder (A1).

A study runs under the approvals that it began with. A server that starts again reads them from its
disk, so that it can go on while a member is away whose absence the plan tolerates.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from fedward_common.codec import decode, encode
from fedward_common.errors import IntegrityError, OperatorError, PeerError, PolicyRefusalError
from fedward_common.files import write_atomic
from fedward_common.identity import Approval
from fedward_common.messages import Message, Propose, ProposeReply, Refusal
from fedward_common.plan.document import Plan
from fedward_common.plan.signing import SignedPlan
from fedward_server.sites import Sites

log = logging.getLogger(__name__)

ADMISSION_SECONDS = 60.0
POLL_SECONDS = 1.0
APPROVALS = "approvals.bin"
MAX_APPROVALS_BYTES = 1 << 17


def save_approvals(folder: Path, approvals: tuple[Approval, ...]) -> None:
    """Keep those of all members, in roster order; on the disk before any attempt is begun."""
    write_atomic(folder / APPROVALS, encode(tuple(approval.encode() for approval in approvals)))


def load_approvals(folder: Path, plan: Plan) -> tuple[Approval, ...] | None:
    """The approvals of all members, or None if this folder holds none for ``plan``.

    Raises:
        IntegrityError: the file is damaged.
    """
    path = folder / APPROVALS
    if not path.exists():
        return None
    try:
        items = decode(path.read_bytes(), max_bytes=MAX_APPROVALS_BYTES)
        rows = items if isinstance(items, tuple) else ()
        stored = tuple(Approval.decode(row) for row in rows if isinstance(row, bytes))
    except PeerError as error:
        raise IntegrityError(f"{path}: damaged; restore it from a backup") from error
    found = [(approval.identity, approval.plan_digest) for approval in stored]
    members = [(bytes.fromhex(site.identity), plan.digest) for site in plan.roster.sites]
    return stored if found == members else None


def gather_approvals(signed: SignedPlan, sites: Sites) -> tuple[Approval, ...]:
    """Propose the plan until every roster member has approved it; returns them in roster order.

    Raises:
        OperatorError: a member refuses the plan: other studies need not wait for this one.
    """
    plan = signed.open()
    found: dict[str, Approval] = {}
    names = [site.name for site in plan.roster.sites]
    order = Propose(signed.canonical, signed.signature)
    awaited: list[str] = []
    while True:
        asked = {name: order for name in sites.present() if name not in found}
        for name, reply in sites.exchange(asked, ADMISSION_SECONDS):
            if isinstance(reply, Refusal) and reply.kind == PolicyRefusalError.__name__:
                raise OperatorError(
                    f"{name} refuses the plan: its operator has rejected it, or it is enrolled "
                    "elsewhere; ask there, then `plan resume` proposes it again"
                )
            approval = _approval(plan, name, reply)
            if approval is None:
                continue
            if any(approval.encryption == other.encryption for other in found.values()):
                log.warning("%s: its encryption key is another member's: approval refused", name)
                continue
            found[name] = approval
        if len(found) == len(names):
            return tuple(found[name] for name in names)
        missing = [name for name in names if name not in found]
        if missing != awaited:
            awaited = missing
            log.info("waiting for the approval of %s", ", ".join(awaited))
        time.sleep(POLL_SECONDS)


def _approval(plan: Plan, name: str, reply: Message) -> Approval | None:
    if not isinstance(reply, ProposeReply) or not reply.approval:
        return None
    member = next(site for site in plan.roster.sites if site.name == name)
    try:
        approval = Approval.decode(reply.approval)
    except PeerError as error:
        log.warning("%s: approval refused: %s", name, error)
        return None
    expected = (bytes.fromhex(member.identity), plan.digest)
    if (approval.identity, approval.plan_digest) != expected:
        log.warning("%s: its approval is for another plan or by another key", name)
        return None
    return approval
