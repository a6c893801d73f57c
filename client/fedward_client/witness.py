"""A ledger that goes back is found by what the others saw of it (B6).

A new process of a site serves no step of a study before enough members have answered, over a fresh
nonce, which head of this site's ledger and which debits they saw last. If the ledger lacks one,
it was restored, truncated or exchanged, and the site trains no more: what was said is kept, and
holds in every study with that witness. The server only carries the answers.
"""

from __future__ import annotations

import logging

from fedward_client.heads import Seen, attempt_digest
from fedward_client.running import Running
from fedward_client.site import Site
from fedward_common import keys
from fedward_common.codec import Value, decode, encode
from fedward_common.errors import IntegrityError, PeerError
from fedward_common.messages import (
    MAX_ANSWER_BYTES,
    Witnessed,
    WitnessesNeeded,
    WitnessOrder,
    WitnessReply,
)
from fedward_common.plan.document import plan_from_canonical
from fedward_common.secagg.parameters import Group, Member

log = logging.getLogger(__name__)

NONCE_BYTES = 32


def others_needed(group: Group) -> int:
    """How many other members must answer: t with this site, and enough to catch every rollback.

    A round that ended in step 4 was seen by at least t - 1 - c honest others, so by all but n - t
    of them. One answer more than these and c liars can give comes from an honest one that knows.
    With c at its bound (A1) that is t others, else t - 1 are as many or more (docs/adr/0012).
    """
    return max(group.threshold - 1, group.size - group.threshold + group.colluding + 1)


def testify(site: Site, running: Running, order: WitnessOrder) -> WitnessReply:
    """Answer those who ask: the last that this site saw of each one's ledger, signed.

    Raises:
        PeerError: not one nonce or empty entry for each member.
    """
    group = running.group
    if len(order.nonces) != group.size:
        raise PeerError(f"witness: {len(order.nonces)} nonces for {group.size} members")
    if any(len(nonce) not in (0, NONCE_BYTES) for nonce in order.nonces):
        raise PeerError(f"witness: a nonce has {NONCE_BYTES} bytes")
    own = _seat(site, group)

    def answer(member: int, nonce: bytes) -> bytes:
        if not nonce or member == own:
            return b""
        seen = site.heads.latest(group.identity(member))
        statement = _statement(nonce, group, member, seen, own)
        signature = keys.sign(site.identity.identity, *statement)
        return encode((seen.encode(), signature))

    return WitnessReply(group.plan_digest, tuple(map(answer, range(group.size), order.nonces)))


class Watch:
    """Which studies one process of a site may work on: those whose members have answered it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._nonces: dict[bytes, bytes] = {}
        self._assured: set[bytes] = set()

    def needed(self, running: Running) -> WitnessesNeeded | None:
        """What to answer to a step of this study: None once enough members have been heard.

        Raises:
            IntegrityError: this site's own log has seen a higher head than its ledger has, or a
                member of this study said so before.
        """
        study = running.digest
        if running.study.finished(running.progress.position):
            return None
        for member in running.group.members:
            seen = self._site.heads.ahead(member.identity)
            if seen is not None:
                _compare(self._site, member.name, seen)
        if study in self._assured:
            return None
        check_log(self._site)
        if study not in self._nonces:
            random = self._site.randomness("witness", study)
            self._nonces[study] = random(NONCE_BYTES)
        return WitnessesNeeded(study, self._nonces[study])

    def hear(self, running: Running, order: Witnessed) -> WitnessesNeeded | None:
        """Take the members' answers; None if they are enough.

        An answer that is malformed or not signed for this nonce counts as none.

        Raises:
            PeerError: not one entry for each member.
            IntegrityError: a member has seen more of this ledger than there is of it.
        """
        needed, group = self.needed(running), running.group
        if needed is None:
            return None
        if len(order.answers) != group.size:
            raise PeerError(f"witnessed: {len(order.answers)} answers for {group.size} members")
        own, heard = _seat(self._site, group), 0
        for index, data in enumerate(order.answers):
            if index == own or not data:
                continue
            name = group.members[index].name
            try:
                seen = _opened(data, needed.nonce, group, own, index)
            except PeerError as error:
                log.warning("%s: its answer as a witness is refused: %s", name, error)
                continue
            self._take(group.members[index], seen)
            heard += 1
        if heard < others_needed(group):
            log.info("%d of %d witnesses answered: waiting", heard, others_needed(group))
            return needed
        del self._nonces[running.digest]
        self._assured.add(running.digest)
        return None

    def _take(self, witness: Member, seen: Seen) -> None:
        """Hold the ledger against an answer; one that contradicts it is kept for good."""
        try:
            _compare(self._site, witness.name, seen)
        except IntegrityError:
            self._site.heads.keep_ahead(witness.identity, seen)
            raise


def contradictions(site: Site) -> list[str]:
    """What witnesses have said that this site's ledger still contradicts, one line each (B6).

    It holds in every study with that witness, and no command takes it back.
    """
    names = {
        bytes.fromhex(member.identity): member.name
        for record in site.studies.all()
        for member in plan_from_canonical(record.plan).roster.sites
    }
    lines = []
    for identity, seen in site.heads.all_ahead():
        try:
            _compare(site, names.get(identity, f"the site of key {identity.hex()[:16]}"), seen)
        except IntegrityError as error:
            lines.append(str(error))
    return lines


def check_log(site: Site) -> None:
    """Hold the ledger against the site's own log, which notes its head at every message.

    Raises:
        IntegrityError: the log knows of rows that the ledger does not hold.
    """
    head = site.audit.ledger_head()
    if head is not None and not site.ledger.holds(head):
        raise _behind(site.ledger.head().length, f"this site's own log saw row {head.length}")


def _compare(site: Site, witness: str, seen: Seen) -> None:
    """Hold the ledger against what a witness saw of it.

    Raises:
        IntegrityError: it lacks the head, or a debit whose addend the witness saw.
    """
    ledger = site.ledger
    rows = ledger.head().length
    if seen.head.hash and not ledger.holds(seen.head):
        evidence = f"{witness} saw row {seen.head.length} under this site's signature"
        raise _behind(rows, evidence)
    if seen.attempts:
        own = {attempt_digest(entry.study, entry.e) for entry in ledger.entries()}
        if not own.issuperset(seen.attempts):
            evidence = f"{witness} saw an addend under this site's signature that it does not debit"
            raise _behind(rows, evidence)


def _behind(rows: int, evidence: str) -> IntegrityError:
    return IntegrityError(
        f"this site's ledger ends at row {rows} and {evidence}: it was restored, cut or altered, "
        "and this site trains no more; put back the newest copy of the site's folder, all of it "
        "(if that is lost, `ledger close`)"
    )


def _seat(site: Site, group: Group) -> int:
    return [member.name for member in group.members].index(site.name)


def _statement(
    nonce: bytes, group: Group, asker: int, seen: Seen, witness: int
) -> tuple[Value, ...]:
    """What a witness signs about the member ``asker``."""
    about = (group.plan_digest, group.identity(asker))
    return ("witness", nonce, *about, seen.encode(), witness)


def _opened(data: bytes, nonce: bytes, group: Group, asker: int, witness: int) -> Seen:
    """The answer of ``witness``, its signature checked.

    Raises:
        PeerError: malformed, or not its signature over this nonce.
    """
    match decode(data, max_bytes=MAX_ANSWER_BYTES):
        case (bytes(encoded), bytes(signature)):
            seen = Seen.decode(encoded)
        case _:
            raise PeerError("not what was seen and a signature")
    keys.verify(group.identity(witness), signature, *_statement(nonce, group, asker, seen, witness))
    return seen
