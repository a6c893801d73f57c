"""The four steps of a private sum at a site, each made durable before it is answered (A3, B6)."""

from __future__ import annotations

from fedward_client.addend import addend
from fedward_client.round_state import Following
from fedward_client.running import Running
from fedward_client.site import Site
from fedward_common.errors import PeerError, PolicyRefusalError
from fedward_common.messages import AgreeOrder, MaskOrder, ShareOrder, StepReply, UnmaskOrder
from fedward_common.secagg.messages import AgreeRequest, MaskRequest, ShareMessage, UnmaskRequest
from fedward_common.secagg.site import Agreed, Masked, Sharing, SiteState, start
from fedward_common.secagg.site_store import decode_state, encode_state


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
    task, round_number = running.study.at(folded.position)
    request = MaskRequest.decode(order.request)
    checked = sharing.check(request, task.name, round_number, folded.public_digest(task))
    running.hold(order.e, folded)
    running.debit(order.e, task)  # B6: on the disk before a patient is sampled
    vector = addend(
        running.study,
        task,
        folded,
        running.cohort(task.split),
        site.randomness("addend", running.digest, order.e),
        site.runtime,
    )
    masked, message = sharing.mask(checked, vector)
    return _advance(site, order, data, masked, message.encode())


def agree(site: Site, running: Running, order: AgreeOrder, data: bytes) -> StepReply:
    """A3.3: sign one survivor set, once."""
    masked = _state(site, running, order.e)
    if not isinstance(masked, Masked):
        raise PeerError(f"attempt {order.e} is not at its agreement step")
    agreed, message = masked.agree(AgreeRequest.decode(order.request))
    return _advance(site, order, data, agreed, message.encode())


def unmask(site: Site, running: Running, order: UnmaskOrder, data: bytes) -> StepReply:
    """A3.4: release one kind of share for each peer; the reply may carry step 1 of the next e.

    The t signatures also confirm the public input that this site folded for e: it is committed.
    """
    agreed = _state(site, running, order.e)
    if not isinstance(agreed, Agreed):
        raise PeerError(f"attempt {order.e} is not at its unmasking step")
    _, message = agreed.unmask(UnmaskRequest.decode(order.request))
    running.confirm(order.e)
    if not order.next_e:
        reply = StepReply(message.encode(), b"")
        site.rounds.finish(order.study, order.e, order.TAG, data, reply.encode())
        return reply
    state, share_message = _begin(site, running, order.next_e)
    asked = ShareOrder(order.study, order.next_e)  # may be asked for again on its own
    following = Following(
        order.next_e,
        encode_state(state),
        asked.TAG,
        asked.encode(),
        StepReply(share_message.encode(), b"").encode(),
    )
    reply = StepReply(message.encode(), share_message.encode())
    site.rounds.finish(order.study, order.e, order.TAG, data, reply.encode(), following)
    return reply


def _begin(site: Site, running: Running, e: int) -> tuple[Sharing, ShareMessage]:
    limit = running.study.plan.schedule.maximum_attempts
    if not 0 < e <= limit:
        raise PolicyRefusalError(f"attempt {e}: the plan allows {limit} attempts")
    running.open_cohorts()  # a site that cannot answer stays out before anyone debits
    random = site.randomness("share", running.digest, e)
    return start(running.group, running.keys, e, site.ledger.head(), random)


def _state(site: Site, running: Running, e: int) -> SiteState:
    sealed = site.rounds.load(running.digest, e)
    return decode_state(sealed, running.group, running.keys)


def _advance(
    site: Site, order: MaskOrder | AgreeOrder, data: bytes, state: SiteState, message: bytes
) -> StepReply:
    reply = StepReply(message, b"")
    sealed = encode_state(state)
    site.rounds.advance(order.study, order.e, order.TAG, data, reply.encode(), sealed)
    return reply
