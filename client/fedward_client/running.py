"""A study under way at a site: its group, its keys, its cohorts and how far it has come."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from fedward_client.cohort import Cohort
from fedward_client.debit import Allowance, Debit
from fedward_client.round_state import Beside
from fedward_client.site import Site
from fedward_client.studies import ENDED, StudyRecord, StudyState
from fedward_client.study_cohort import open_cohort
from fedward_common import progress as folding
from fedward_common.codec import decode
from fedward_common.errors import IntegrityError, PeerError
from fedward_common.identity import Approval
from fedward_common.membership import group_of
from fedward_common.plan.document import plan_from_canonical
from fedward_common.progress import Progress, decode_progress
from fedward_common.queries.task import Split, Task
from fedward_common.secagg.context import RoundContext
from fedward_common.secagg.parameters import Group, SiteKeys
from fedward_common.secagg.transcript import Transcript
from fedward_common.study import Study

MAX_APPROVALS_BYTES = 1 << 17


class Running:
    """One study at one site. ``progress`` is what t signatures of a later ctx have confirmed.

    ``released`` is the position whose sum this site has helped to open last, and ``released_e``
    the attempt: it never computes on that public input, or an earlier one, again (A2). All of it
    is what the database said at the last :meth:`refresh`. ``is_warm``: a step has been tried here.
    """

    def __init__(self, site: Site, record: StudyRecord, study: Study, group: Group) -> None:
        self._site = site
        self.digest = group.plan_digest
        self.study = study
        self.group = group
        self._cohorts: dict[Split, Cohort] = {}
        self.is_warm = False
        self._take(record)

    def refresh(self) -> None:
        """Read again how far the study has come: another process may have served it since (A2)."""
        self._take(self._site.studies.running(self.digest))

    def _take(self, record: StudyRecord) -> None:
        self._record = record
        self.progress = _progress(record)
        self.released, self.released_e = record.released, record.released_e
        self._held = None if record.held is None else decode_progress(record.held)
        self._folded = None if record.folded is None else decode_progress(record.folded)
        if record.state in ENDED:  # A1, A6; again and again, as a kill may have come between
            self.__dict__.pop("keys", None)
            end_study(self._site, record)

    @cached_property
    def keys(self) -> SiteKeys:
        """This site's seat and private keys; gone when the study has ended (A1)."""
        names = [member.name for member in self.group.members]
        encryption = self._site.encryption_key(self._record.plan_digest)
        return SiteKeys(names.index(self._site.name), self._site.identity.identity, encryption)

    def fold(self, start: int, sums: tuple[bytes, ...]) -> Progress:
        """The state after ``sums``, which begin at position ``start``; changes nothing.

        Raises:
            PeerError: a gap before ``start``, too many sums, or one of a wrong length.
        """
        folded = self._base(start)
        if start > folded.position:
            raise PeerError(f"sums from {start} leave a gap: this site stands at {folded.position}")
        for data in sums[folded.position - start :]:
            folded = folding.advance(self.study, folded, self._decode(folded.position, data))
        return folded

    @property
    def finished(self) -> bool:
        """Whether this site holds the study's last sum, proven."""
        return self.study.finished(self.progress.position)

    @property
    def folded_position(self) -> int:
        """How many published sums this site has folded, confirmed or not."""
        held = self._held
        return max(self.progress.position, 0 if held is None else held.position)

    def check_new(self, folded: Progress) -> None:
        """Refuse a public input that this site has helped to open a sum of, before any debit (A2).

        Raises:
            PeerError: its shares for this sum, or a later one, have left.
        """
        if folded.position <= self.released:
            raise PeerError(
                f"this site's shares for sum {self.released + 1} have left; it computes on no "
                "public input twice"
            )

    def holding(self, e: int, folded: Progress) -> Beside:
        """What keeps, beside the masked state, the public input that ``e`` is to confirm (A2)."""
        position, encoded = folded.position, folded.encode()
        return lambda db: self._site.studies.fold(db, self.digest, e, position, encoded)

    def release(self, e: int, store: Callable[[Beside], None]) -> None:
        """Let the shares of ``e`` leave: ``store`` puts the reply on the disk (A3.4).

        In the same transaction the public input counts as used, and is adopted: t members have
        signed for the same.

        Raises:
            PeerError: nothing is held for ``e``, or it is used up or the study over by now; then
                nothing is stored.
        """
        folded = self._folded
        if folded is None or self._record.folded_e != e:
            raise PeerError(f"attempt {e} has no public input waiting to be confirmed")
        position = folded.position
        store(lambda db: self._site.studies.release(db, self.digest, e, position))
        self.refresh()

    def publish(self, start: int, sums: tuple[bytes, ...], transcript: bytes) -> None:
        """Fold sums outside a round (A2): they are held until a later attempt confirms them.

        The study's last sum comes with the transcript of its attempt, whose t signatures confirm
        every sum before it; then the study is finished.

        Raises:
            PeerError: the sums do not fit, or the evidence does not hold; nothing has changed.
        """
        if self.finished:
            return
        folded = self.fold(start, sums)
        if self.study.finished(folded.position):
            self._check_last(self.fold(start, sums[:-1]), transcript)
            self._site.studies.finish(self.digest, folded.encode())
        elif transcript:
            raise PeerError("only the last sum of a study comes with a transcript")
        else:
            self._site.studies.hold(self.digest, folded.encode())
        self.refresh()

    def _check_last(self, before: Progress, data: bytes) -> None:
        """Check the transcript of the attempt that follows the folded state ``before`` (A2).

        Raises:
            PeerError: it is about another attempt or public input, or lacks t valid signatures.
        """
        transcript = Transcript.decode(data)
        e = transcript.context.e
        if before.position == self.released and e != self.released_e:
            raise PeerError(f"the transcript is of attempt {e}, the sum of {self.released_e}")
        transcript.verify(self.group, self.context(e, before))

    def context(self, e: int, before: Progress) -> RoundContext:
        """What attempt ``e`` at the sum after ``before`` is about, as this site knows it (A2)."""
        task, round_number = self.study.at(before.position)
        return RoundContext(e, task.name, round_number, before.public_digest(task))

    def check_going_on(self) -> None:
        """Refuse every step of a study that this site has stopped (A3.5), or has left (G7), by now.

        Raises:
            PeerError: it has.
        """
        if self._site.studies.state(self.digest) is not self._record.state:
            self.refresh()
        if self._record.state is StudyState.WITHDRAWN:
            raise PeerError("this site has left the study")
        if self._record.state is StudyState.STOPPED:
            raise PeerError("this site has stopped the study: a published sum was false")

    def check_package(self) -> None:
        """Refuse to begin anything with another package than the operator has approved.

        Raises:
            PolicyRefusalError: it was exchanged since.
        """
        if not self._site.simulation:  # there, author and operator are one
            self._site.packages.check(self._record.plan_digest)

    def stop(self, beside: Beside) -> None:
        """End the study at this site: a published sum was not that of its addends (A3.5)."""
        self._site.studies.stop(self.digest, beside)
        self.refresh()

    def debit(self, e: int, task: Task) -> None:
        """Debit attempt ``e``: policy, dry-run and append in one durable transaction (B6)."""
        entry = Debit.of(self.study.mechanism(task), study=self.digest, e=e, account=task.split)
        self._site.ledger.debit(entry, self._site.policy.caps, self._allowance)

    @cached_property
    def _allowance(self) -> Allowance:
        """The attempts that the plan's stated epsilon counts, and no others."""
        rounds = {task.name: task.rounds for task in self.study.tasks}
        extra = self.study.plan.schedule.maximum_attempts - self.study.total_rounds
        return Allowance(rounds, extra)

    def open_cohorts(self) -> None:
        """Open every cohort that the plan asks for: what is wrong with one shows before a debit.

        So does a GPU that is not there.

        Raises:
            OperatorError: a label is not a class of the plan, a column or the device is missing.
        """
        _ = self._site.runtime.torch_device
        for split in {task.split for task in self.study.tasks}:
            self.cohort(split)

    def cohort(self, split: Split) -> Cohort:
        """This study's patients of one split, opened once."""
        if split not in self._cohorts:
            self._cohorts[split] = open_cohort(self._site.folder, self.study, split)
        return self._cohorts[split]

    def _base(self, start: int) -> Progress:
        """What sums from ``start`` on continue: what was held, if they leave out what it holds."""
        held = self._held
        if held is not None and self.progress.position < start <= held.position:
            return held
        return self.progress

    def _decode(self, position: int, data: bytes) -> folding.Vector:
        if self.study.finished(position):
            raise PeerError("a sum after the end of the study")
        task, _ = self.study.at(position)
        if len(data) != 4 * task.dimension:
            raise PeerError(f"sum {position} is {len(data)} bytes, not {4 * task.dimension}")
        return task.ring.decode(np.frombuffer(data, dtype="<u4"))


def open_running(site: Site, digest: bytes) -> Running:
    """The study of this digest, from the site's database.

    Raises:
        PolicyRefusalError: it has not begun at this site.
    """
    record = site.studies.running(digest)
    plan = plan_from_canonical(record.plan)
    approvals = decode_approvals(record.approvals or b"")
    return Running(site, record, Study(plan), group_of(plan, approvals, digest))


def end_study(site: Site, record: StudyRecord) -> None:
    """Destroy the keys of a study that is over, and the state of its last attempt (A1, A6)."""
    site.destroy_encryption_key(record.plan_digest)
    if record.digest is not None:
        site.rounds.end(record.digest)


def decode_approvals(data: bytes) -> tuple[Approval, ...]:
    """Read the stored approvals, in roster order."""
    items = decode(data, max_bytes=MAX_APPROVALS_BYTES)
    if not isinstance(items, tuple):
        raise IntegrityError("site database: the stored approvals are damaged")
    return tuple(Approval.decode(item) for item in items if isinstance(item, bytes))


def _progress(record: StudyRecord) -> Progress:
    if record.progress is None:
        raise IntegrityError("site database: a running study has no stored state")
    return decode_progress(record.progress)
