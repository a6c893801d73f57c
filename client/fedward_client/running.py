"""A study under way at a site: its group, its keys, its cohorts and how far it has come."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from fedward_client.cohort import Cohort
from fedward_client.ledger import Allowance, Debit
from fedward_client.site import Site
from fedward_client.studies import StudyRecord
from fedward_client.study_cohort import open_cohort
from fedward_common import progress as folding
from fedward_common.codec import decode
from fedward_common.errors import IntegrityError, PeerError
from fedward_common.identity import Approval
from fedward_common.membership import group_of
from fedward_common.plan.document import plan_from_canonical
from fedward_common.progress import Progress, decode_progress
from fedward_common.queries.task import Split, Task
from fedward_common.secagg.parameters import Group, SiteKeys
from fedward_common.secagg.ring import RingParameters
from fedward_common.study import Study

MAX_APPROVALS_BYTES = 1 << 17


class Running:
    """One study at one site. ``progress`` is what t signatures of a later ctx have confirmed."""

    def __init__(self, site: Site, record: StudyRecord, study: Study, group: Group) -> None:
        self._site = site
        self._record = record
        self.digest = group.plan_digest
        self.study = study
        self.group = group
        self.progress = _progress(record)
        self._held: tuple[int, Progress] | None = None
        self._cohorts: dict[Split, Cohort] = {}

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
        folded = self.progress
        if start > folded.position:
            raise PeerError(f"sums from {start} leave a gap: this site stands at {folded.position}")
        for data in sums[folded.position - start :]:
            folded = folding.advance(self.study, folded, self._decode(folded.position, data))
        return folded

    def hold(self, e: int, folded: Progress) -> None:
        """Keep a folded state until the signatures of attempt ``e`` confirm it (A2)."""
        self._held = (e, folded)
        self._site.studies.hold(self.digest, e, folded.encode())

    def confirm(self, e: int) -> None:
        """Adopt what was held for ``e``: t members have signed the same public input."""
        held = self._held
        if held is None or held[0] != e:
            held = (e, decode_progress(self._site.studies.held(self.digest, e)))
        self._adopt(held[1])

    def publish(self, start: int, sums: tuple[bytes, ...]) -> None:
        """Fold sums outside a round: catching up, or the last ones of the study.

        A false sum would only keep this site from agreeing with the others (A2): ctx differs.
        """
        self._adopt(self.fold(start, sums))

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

        Raises:
            OperatorError: a label is not a class of the plan, or a column is missing.
        """
        for split in {task.split for task in self.study.tasks}:
            self.cohort(split)

    def cohort(self, split: Split) -> Cohort:
        """This study's patients of one split, opened once."""
        if split not in self._cohorts:
            self._cohorts[split] = open_cohort(self._site.folder, self.study, split)
        return self._cohorts[split]

    def _adopt(self, progress: Progress) -> None:
        if progress.position < self.progress.position:
            return  # a late confirmation: this site has gone on since
        finished = self.study.finished(progress.position)
        self._site.studies.save_progress(self.digest, progress.encode(), finished=finished)
        if finished:
            self._site.destroy_encryption_key(self._record.plan_digest)  # A1
        self.progress = progress

    def _decode(self, position: int, data: bytes) -> folding.Vector:
        if self.study.finished(position):
            raise PeerError("a sum after the end of the study")
        task, _ = self.study.at(position)
        if len(data) != 4 * task.dimension:
            raise PeerError(f"sum {position} is {len(data)} bytes, not {4 * task.dimension}")
        ring = RingParameters(task.query.scale, task.query.ring_bound, task.dimension)
        return ring.decode(np.frombuffer(data, dtype="<u4"))


def open_running(site: Site, digest: bytes) -> Running:
    """The study of this digest, from the site's database.

    Raises:
        PolicyRefusalError: it has not begun at this site.
    """
    record = site.studies.running(digest)
    plan = plan_from_canonical(record.plan)
    approvals = decode_approvals(record.approvals or b"")
    return Running(site, record, Study(plan), group_of(plan, approvals, digest))


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
