"""A study from the server's side: propose, gather approvals, begin, sum by sum, checkpoint."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedward_common import progress as folding
from fedward_common.errors import FedwardError
from fedward_common.identity import Approval, approved_digest
from fedward_common.membership import group_of
from fedward_common.messages import (
    MAX_SUMS,
    Begin,
    Publish,
    Standing,
)
from fedward_common.plan.document import Plan
from fedward_common.plan.signing import SignedPlan
from fedward_common.progress import Progress
from fedward_common.queries.task import Task
from fedward_common.secagg.closing import RoundAbortedError
from fedward_common.secagg.parameters import Group
from fedward_common.secagg.ring import unwrap
from fedward_common.secagg.server import Summed
from fedward_common.study import Study
from fedward_server.approvals import (
    ADMISSION_SECONDS,
    gather_approvals,
    load_approvals,
    save_approvals,
)
from fedward_server.checkpoints import Checkpoint, Checkpoints
from fedward_server.evidence import Evidence, Spool
from fedward_server.pending import Pending
from fedward_server.rounds import RoundRunner, SumLostError
from fedward_server.sites import Sites, Traffic
from fedward_server.study_files import ATTEMPTS
from fedward_server.witnesses import WitnessedSites

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class RoundEvent:
    """One published sum: what the observer is told."""

    position: int
    total_rounds: int
    query: str
    e: int
    seconds: float
    contributors: tuple[str, ...]
    traffic: Mapping[str, Traffic]
    update_norm: float | None
    progress: Progress


class StudyFailedError(FedwardError):
    """The study cannot go on: its attempts are used up, or a sum can never be had."""


class Coordinator:
    """Runs one signed plan with the sites of its roster; resumes from its checkpoints."""

    def __init__(
        self,
        signed: SignedPlan,
        sites: Sites,
        folder: Path,
        *,
        on_round: Callable[[RoundEvent], None] = lambda _: None,
        on_abort: Callable[[int, str], None] = lambda _e, _reason: None,
    ) -> None:
        self._signed = signed
        self._plan: Plan = signed.open()
        self._study = Study(self._plan)
        self._sites = sites
        self._folder = folder
        self._on_round = on_round
        self._on_abort = on_abort
        self.digest = b""
        """H over plan and approvals, known once all members have approved."""

    def run(self) -> Checkpoint:
        """Run to the end of the plan, from wherever the last checkpoint stands.

        Raises:
            StudyFailedError: the plan's maximum attempts are used up, too few sites can still open
                a sum, or the sum is not one that honest sites make.
            OperatorError: a member refuses the plan.
        """
        approvals = self._approvals()
        digest = self.digest = approved_digest(self._plan.digest, approvals)
        group = group_of(self._plan, approvals, digest)
        store = Checkpoints(self._folder, digest)
        save_approvals(self._folder, approvals)
        begin = Begin(self._plan.digest, tuple(approval.encode() for approval in approvals))
        sites = WitnessedSites(self._sites, digest, [member.name for member in group.members])
        spool = Spool(self._folder / "addends")
        runner = RoundRunner(self._study, group, begin, sites, store, spool)
        checkpoint = store.load() or Checkpoint(folding.begin(self._study), ())
        pending = store.pending(group, checkpoint)
        while not self._study.finished(checkpoint.progress.position):
            checkpoint = self._next_round(runner, store, checkpoint, pending)
            pending = None
        self._publish_last(digest, store, checkpoint.progress.position, runner)
        return checkpoint

    def _next_round(
        self,
        runner: RoundRunner,
        store: Checkpoints,
        checkpoint: Checkpoint,
        pending: Pending | None,
    ) -> Checkpoint:
        started = time.monotonic()
        position = checkpoint.progress.position
        task, _ = self._study.at(position)
        summed = self._sum(runner, store, checkpoint, pending)
        self._check_sum(task, position, summed)
        decoded = task.ring.decode(summed.total)
        progress = folding.advance(self._study, checkpoint.progress, decoded)
        seconds = time.monotonic() - started
        event = RoundEvent(
            position=position + 1,
            total_rounds=self._study.total_rounds,
            query=task.query.kind,
            e=summed.transcript.context.e,
            seconds=seconds,
            contributors=_contributors(runner.group, summed),
            traffic=self._sites.drain_traffic(),
            update_norm=_step_norm(checkpoint.progress, progress),
            progress=progress,
        )
        store.save_sum(position, summed.total, summed.transcript.encode())
        self._serve(runner, store, position)  # of the sum before: its addends go now
        saved = Checkpoint(progress, (*checkpoint.history, _history(event)))
        store.save(saved)
        runner.spool.keep_only(event.e)
        self._on_round(event)
        return saved

    def _sum(
        self,
        runner: RoundRunner,
        store: Checkpoints,
        checkpoint: Checkpoint,
        pending: Pending | None,
    ) -> Summed:
        """The next sum: of the attempt that a crash left at its step 4, or of new attempts (A2)."""
        try:
            if pending is None:
                return self._attempts(runner, store, checkpoint)
            runner.admit()
            return runner.finish(pending, checkpoint.progress.position)
        except SumLostError as error:
            raise self._failed(str(error)) from error

    def _attempts(self, runner: RoundRunner, store: Checkpoints, checkpoint: Checkpoint) -> Summed:
        position = checkpoint.progress.position
        attempts = store.attempts(checkpoint)
        while True:
            self._await_members(runner)
            e = next(attempts)
            self._check_attempts(e)
            try:
                runner.catch_up(position)
                return runner.attempt(e, checkpoint.progress)
            except RoundAbortedError as error:
                log.warning("attempt %d for sum %d aborted: %s", e, position + 1, error)
                self._on_abort(e, str(error))
                runner.standing.clear()  # a site may have been restored: it is asked again
                time.sleep(POLL_SECONDS)

    def _await_members(self, runner: RoundRunner) -> None:
        """Wait until t_min members are there: an absent site must not cost the plan attempts."""
        left_out = runner.store.left_out()
        if runner.group.size - len(left_out) < runner.group.t_min:
            raise self._failed(
                f"too few sites are left without {', '.join(left_out)}, who dealt wrong shares; "
                "make a new plan without them"
            )
        while len(set(runner.admit()) - left_out.keys()) < runner.group.t_min:
            time.sleep(POLL_SECONDS)

    def _serve(self, runner: RoundRunner, store: Checkpoints, number: int) -> None:
        """Serve what proves sum ``number``, counted from 1, to those who wish for it (A3.5)."""
        names = [name for name, wish in runner.wishes.items() if wish == number > 0]
        runner.wishes.clear()
        if names:
            transcript = store.transcript(number - 1)
            evidence = Evidence(runner.digest, number, transcript, runner.spool)
            evidence.serve(runner.sites, names, self._plan.schedule.round_deadline_seconds)

    def _check_sum(self, task: Task, position: int, summed: Summed) -> None:
        """Discard a sum whose norm exceeds its public bound plus noise (A3.5).

        Raises:
            StudyFailedError: no honest sites can have produced it.
        """
        bound = self._study.sum_bound(task, len(summed.transcript.survivors))
        norm = float(np.linalg.norm(unwrap(summed.total).astype(np.float64)))
        if norm > bound:
            raise self._failed(
                f"sum {position + 1} has norm {norm:.3g}, above its bound {bound:.3g}: some member "
                "sent what no honest one sends; no site computes on one model twice: the sums so "
                "far are kept, make a new plan"
            )

    def _check_attempts(self, e: int) -> None:
        limit = self._plan.schedule.maximum_attempts
        if e > limit:
            raise self._failed(
                f"all {limit} attempts of its plan are used up; the sums so far are kept, a new "
                "plan is needed to go on"
            )

    def _failed(self, reason: str) -> StudyFailedError:
        return StudyFailedError(f"study {self._plan.study.name}: {reason}")

    def _approvals(self) -> tuple[Approval, ...]:
        """Those that the study began with, or else what its members say now (A1)."""
        begun = (self._folder / ATTEMPTS).exists()
        stored = load_approvals(self._folder, self._plan) if begun else None
        return stored or gather_approvals(self._signed, self._sites)

    def _publish_last(
        self, digest: bytes, store: Checkpoints, position: int, runner: RoundRunner
    ) -> None:
        """Give every site the sums it has not folded in, so that it holds the released model."""
        runner.admit()
        runner.catch_up(position)
        orders = {
            name: Publish(
                digest, start, store.sums(start, position), store.transcript(position - 1)
            )
            for name, start in runner.standing.items()
            if position - MAX_SUMS <= start < position
        }
        for name, reply in self._sites.exchange(orders, ADMISSION_SECONDS):
            if isinstance(reply, Standing):
                log.info("%s holds the model after %d sums", name, reply.position)
                runner.wishes[name] = reply.wish
        self._serve(runner, store, position)
        runner.spool.keep_only(0)


def _contributors(group: Group, summed: Summed) -> tuple[str, ...]:
    return tuple(group.members[item.index].name for item in summed.transcript.hashes)


def _history(event: RoundEvent) -> dict[str, Any]:
    return {
        "round": event.position,
        "query": event.query,
        "e": event.e,
        "seconds": round(event.seconds, 4),
        "sites": list(event.contributors),
        "traffic": {name: astuple(crossed) for name, crossed in event.traffic.items()},
        "update_norm": event.update_norm,
    }


def _step_norm(before: Progress, after: Progress) -> float | None:
    """Euclidean norm of the model's step; None where the sum was no gradient."""
    if after.state is before.state:
        return None
    return float(np.linalg.norm(after.state.parameters - before.state.parameters))
