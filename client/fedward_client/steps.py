"""The four steps of a private sum at a site, each made durable before it is answered (A3, B6)."""

from __future__ import annotations

import logging

from fedward_client import evidence
from fedward_client.addend import addend, warm_up
from fedward_client.round_state import Beside, Following
from fedward_client.running import Running
from fedward_client.site import Site
from fedward_common.errors import FedwardError, PeerError, PolicyRefusalError
from fedward_common.messages import AgreeOrder, MaskOrder, ShareOrder, StepReply, UnmaskOrder
from fedward_common.secagg.messages import AgreeRequest, MaskRequest, ShareMessage, UnmaskRequest
from fedward_common.secagg.site import Agreed, Masked, Sharing, SiteState, start
from fedward_common.secagg.site_store import decode_state, encode_state

log = logging.getLogger(__name__)


def share(site: Site, running: Running, order: ShareOrder, data: bytes) -> StepReply:
    """A3.1: fresh seeds for this e, and their shares."""
    state, message = _begin(site, running, order.e)
    reply = StepReply(message.encode(), b"")
    sealed = encode_state(state)
    site.rounds.begin(order.study, order.e, order.TAG, data, reply.encode(), sealed)
    return reply


def mask(site: Site, running: Running, order: MaskOrder, data: bytes) -> StepReply:
    """A3.2: check, debit, compute, noise, mask."""
    sharing = _state(site, running, order.e)
    if not isinstance(sharing, Sharing):
        raise PeerError(f"attempt {order.e} is past its masking step")
    folded = running.fold(order.position, order.sums)
    running.check_new(folded)  # A2: no repeated public input
    task, round_number = running.study.at(folded.position)
    request = MaskRequest.decode(order.request)
    checked = sharing.check(request, task.name, round_number, folded.public_digest(task))
    subject = evidence.subject_of(site, running, order.position, order.sums)
    members, own = running.group, running.keys.index
    others = {members.identity(i): head for i, head in checked.heads.items() if i != own}
    site.heads.saw(order.study, order.e, others)  # B6: what this site will bear witness to
    running.debit(order.e, task)  # B6: on the disk before a patient is sampled
    vector = addend(
        running.study,
        task,
        folded,
        running.cohort(task.split),
        site.randomness("addend", running.digest, order.e),
        site.runtime,
    )
    masked, message = sharing.mask(checked, vector, site.runtime.threads)
    wish = evidence.ask(site, running, folded.position, subject)  # A3.5
    reply = StepReply(message.encode(), b"", wish)
    return _advance(site, order, data, masked, reply, running.holding(order.e, folded))


def agree(site: Site, running: Running, order: AgreeOrder, data: bytes) -> StepReply:
    """A3.3: sign one survivor set, once."""
    masked = _state(site, running, order.e)
    if not isinstance(masked, Masked):
        raise PeerError(f"attempt {order.e} is not at its agreement step")
    request = AgreeRequest.decode(order.request)
    agreed, message = masked.agree(request)
    contributors = [running.group.identity(item.index) for item in request.hashes]
    site.heads.debited(order.study, order.e, contributors)  # B6: their heads have grown since
    return _advance(site, order, data, agreed, StepReply(message.encode(), b""))


def unmask(site: Site, running: Running, order: UnmaskOrder, data: bytes) -> StepReply:
    """A3.4: release one kind of share for each peer; the reply may carry step 1 of the next e.

    The t signatures also confirm the public input that this site folded for e: it is committed,
    and used up, in the transaction that stores the released shares (A2).
    """
    agreed = _state(site, running, order.e)
    if not isinstance(agreed, Agreed):
        raise PeerError(f"attempt {order.e} is not at its unmasking step")
    _, message = agreed.unmask(UnmaskRequest.decode(order.request))
    following, share_message = _following(site, running, order)
    reply = StepReply(message.encode(), share_message)

    def store(beside: Beside) -> None:
        site.rounds.finish(order.study, order.e, order.TAG, data, reply.encode(), following, beside)

    running.release(order.e, store)
    return reply


def _following(site: Site, running: Running, order: UnmaskOrder) -> tuple[Following | None, bytes]:
    """Step 1 of the next e, if it is asked for, and the message that rides on this reply.

    Where that cannot begin, this e is finished without it (A3.4): others wait for these shares.
    """
    if not order.next_e:
        return None, b""
    try:
        state, message = _begin(site, running, order.next_e)
    except FedwardError as error:
        log.warning("attempt %d does not begin yet: %s", order.next_e, error)
        return None, b""
    asked = ShareOrder(order.study, order.next_e)  # may be asked for again on its own
    reply = StepReply(message.encode(), b"")
    following = Following(
        order.next_e, encode_state(state), asked.TAG, asked.encode(), reply.encode()
    )
    return following, message.encode()


def get_ready(site: Site, running: Running) -> None:
    """Open the cohorts, and load whatever a first step loads.

    A process' first addend must not be late for the plan's fixed delay (B2).

    Raises:
        OperatorError: as of :meth:`Running.open_cohorts`.
    """
    running.open_cohorts()
    if not running.is_warm and running.study.plan.schedule.reply_delay_seconds > 0:
        warm_up(running.study, running.progress, site.runtime)
    running.is_warm = True


def _begin(site: Site, running: Running, e: int) -> tuple[Sharing, ShareMessage]:
    limit = running.study.plan.schedule.maximum_attempts
    if not 0 < e <= limit:
        raise PolicyRefusalError(f"attempt {e}: the plan allows {limit} attempts")
    get_ready(site, running)  # a site that cannot answer stays out before anyone debits
    random = site.randomness("share", running.digest, e)
    return start(running.group, running.keys, e, site.ledger.head(), random)


def _state(site: Site, running: Running, e: int) -> SiteState:
    sealed = site.rounds.load(running.digest, e)
    return decode_state(sealed, running.group, running.keys)


def _advance(
    site: Site,
    order: MaskOrder | AgreeOrder,
    data: bytes,
    state: SiteState,
    reply: StepReply,
    beside: Beside = lambda _: None,
) -> StepReply:
    sealed = encode_state(state)
    site.rounds.advance(order.study, order.e, order.TAG, data, reply.encode(), sealed, beside)
    return reply
