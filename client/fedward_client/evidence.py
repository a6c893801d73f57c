"""Asking for the evidence of a published sum, and recomputing the sum from it (A3.5).

The evidence of a true sum always verifies, and none verifies for a false one: the members signed
the hash of every addend and commitments to every mask. What does not check proves nothing, and is
refused; a sum that checks and is not the one that this site folded is a lie, and ends the study.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from fedward_client.audits import Audit, Subject, Verdict
from fedward_client.running import Running
from fedward_client.site import Site
from fedward_common.codec import digest
from fedward_common.errors import PeerError
from fedward_common.messages import EvidenceOrder, EvidenceReply
from fedward_common.secagg.context import RoundContext
from fedward_common.secagg.prg import U32
from fedward_common.secagg.transcript import Recount, Transcript

log = logging.getLogger(__name__)

CHANCE_BYTES = 8


def subject_of(site: Site, running: Running, start: int, sums: tuple[bytes, ...]) -> Subject | None:
    """What to ask evidence for, of the sums that just came; None if this site wants none.

    The last of ``sums``, which begin at position ``start``, is chosen with the probability that
    the policy sets, or because the operator registered it.
    """
    number = start + len(sums)
    if not sums or not _wanted(site, running, number):
        return None
    before = running.fold(start, sums[:-1])
    if before.position != number - 1:
        return None  # it was folded before, and what it followed is forgotten
    e = running.released_e if running.released == before.position else 0
    about = running.context(e, before)
    return Subject(
        e,
        about.query,
        about.round_number,
        about.public_input_digest,
        len(sums[-1]) // U32.itemsize,
        digest("sum", sums[-1]),
    )


def ask(site: Site, running: Running, number: int, subject: Subject | None) -> int:
    """Note the wish, durably, and return what the reply says of it: the number, or 0."""
    if subject is None:
        return 0
    site.audits.ask(running.digest, number, subject)
    for audit in site.audits.of_study(running.digest):
        if audit.verdict is Verdict.UNSERVED and audit.number == number - 1:
            log.error("sum %d: the server did not serve the evidence asked for", audit.number)
    return number


def open_wish(site: Site, running: Running) -> int:
    """The number of the study's last sum if its evidence was asked for and has not come, or 0.

    A server that restarts after the last sum learns of the wish from here; before that, the next
    masked addend carries it.
    """
    number = running.progress.position
    audit = site.audits.find(running.digest, number) if running.finished else None
    return number if audit is not None and audit.verdict is Verdict.ASKED else 0


def _wanted(site: Site, running: Running, number: int) -> bool:
    if running.group.colluding < 1:  # an auditor sees what the server sees
        return False
    audit = site.audits.find(running.digest, number)
    if audit is not None:
        return audit.verdict in (Verdict.REGISTERED, Verdict.ASKED)
    share = site.policy.studies.audit_share
    if not share:
        return False
    drawn = site.randomness("audit", running.digest, number)(CHANCE_BYTES)
    return int.from_bytes(drawn, "big") / 2.0 ** (8 * CHANCE_BYTES) < share


@dataclass
class _Intake:
    """The evidence of one sum on its way in: the sum so far, and the addend that is arriving."""

    number: int
    recount: Recount
    addend: bytearray = field(default_factory=bytearray)


class Auditor:
    """Takes evidence piece by piece; one sum at a time for each study, in memory only."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._intakes: dict[bytes, _Intake] = {}
        self._taken: dict[bytes, bytes] = {}
        """The digest of the last piece that was taken, by study: a server may send it again."""

    def forget(self, study: bytes) -> None:
        """Drop the evidence that has come in part only."""
        self._intakes.pop(study, None)
        self._taken.pop(study, None)

    def take(self, running: Running, order: EvidenceOrder) -> EvidenceReply:
        """Take one piece; with the last one the sum is recomputed and the verdict recorded.

        The same piece again, whose reply was lost, is answered again.

        Raises:
            PeerError: it was not asked for or does not check, or the sum was false: then the
                study is stopped.
        """
        received = digest(order.encode())
        if self._taken.get(running.digest) == received:
            return EvidenceReply(running.digest, order.number)
        audit = self._site.audits.find(running.digest, order.number)
        asked = (Verdict.ASKED, Verdict.REFUSED, Verdict.UNSERVED)
        if audit is None or audit.subject is None or audit.verdict not in asked:
            raise PeerError(f"this site has not asked for the evidence of sum {order.number}")
        try:
            recomputed = self._piece(running, audit.subject, order)
        except PeerError as error:
            self.forget(running.digest)
            self._decide(audit, Verdict.REFUSED, str(error))
            raise
        if recomputed is not None:
            self.forget(running.digest)
            self._compare(running, audit, audit.subject, recomputed)
        self._taken[running.digest] = received
        return EvidenceReply(running.digest, order.number)

    def _piece(self, running: Running, subject: Subject, order: EvidenceOrder) -> bytes | None:
        """Take the piece; the hash of the recomputed sum once it is complete."""
        if order.transcript:
            recount = _recount(running, subject, order.transcript)
            self._intakes[running.digest] = _Intake(order.number, recount)
        intake = self._intakes.get(running.digest)
        if intake is None or intake.number != order.number:
            raise PeerError(f"evidence of sum {order.number} does not begin with its transcript")
        recount, addend = intake.recount, intake.addend
        if order.index != recount.awaited or order.offset != len(addend) or not order.data:
            raise PeerError(f"evidence of sum {order.number}: a piece is missing or out of order")
        if len(addend) + len(order.data) > U32.itemsize * subject.dimension:
            raise PeerError(f"the served addend of site {order.index} has a wrong length")
        addend += order.data
        if len(addend) == U32.itemsize * subject.dimension:
            recount.add(order.index, bytes(addend))
            addend.clear()
        return digest("sum", recount.total().tobytes()) if recount.complete else None

    def _compare(self, running: Running, audit: Audit, subject: Subject, recomputed: bytes) -> None:
        if recomputed == subject.sum_hash:
            self._decide(audit, Verdict.TRUE, "")
            return
        detail = (
            f"the members' addends sum to {recomputed.hex()[:16]}, the server published "
            f"{subject.sum_hash.hex()[:16]}"
        )
        about = (audit.study, audit.number, Verdict.FALSE, detail)
        running.stop(lambda db: self._site.audits.write(db, *about))
        self._log(audit, Verdict.FALSE, detail)
        running.check_going_on()

    def _decide(self, audit: Audit, verdict: Verdict, detail: str) -> None:
        """Record the verdict in the table and in the log; a repeated one is there already."""
        if audit.verdict is not verdict:
            self._log(audit, verdict, detail)
            self._site.audits.decide(audit.study, audit.number, verdict, detail)

    def _log(self, audit: Audit, verdict: Verdict, detail: str) -> None:
        """Tell the operator, and add the verdict to the hash-chained log (G7)."""
        tell = log.info if verdict is Verdict.TRUE else log.error
        tell("sum %d of study %s: %s %s", audit.number, audit.study.hex()[:16], verdict, detail)
        subject = f"{audit.number} {verdict} {detail}".encode()
        head = self._site.ledger.head()
        self._site.audit.decided(f"audit-{verdict}", audit.study, subject, head)


def _recount(running: Running, subject: Subject, data: bytes) -> Recount:
    """The verified transcript of the attempt that this site knows, ready for its addends.

    Raises:
        PeerError: it is of another attempt, study or public input, or does not verify.
    """
    transcript = Transcript.decode(data)
    e = transcript.context.e
    if subject.e not in (0, e):
        raise PeerError(f"the evidence is of attempt {e}, the sum of attempt {subject.e}")
    about = RoundContext(e, subject.query, subject.round_number, subject.public_input_digest)
    return Recount(running.group, about, transcript, subject.dimension)
