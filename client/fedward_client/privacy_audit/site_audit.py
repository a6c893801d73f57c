"""What a site can check by itself on invented patients: nothing leaves or is debited (B8)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from fedward_client.addend import addend
from fedward_client.cohort import Cohort
from fedward_client.privacy_audit.canaries import observe_canaries
from fedward_client.privacy_audit.finding import Finding
from fedward_client.privacy_audit.lengths import asks_for_gradients, observe_clip
from fedward_client.privacy_audit.noise import observe_noise, observe_repeats
from fedward_client.privacy_audit.replay import attempts_in_log, replay
from fedward_client.privacy_audit.sampling import observe_sampling, record_sampling
from fedward_client.privacy_audit.trial import (
    AXES,
    BLANKS,
    Addends,
    Door,
    Randomness,
    Terms,
    flip_coins,
    record,
)
from fedward_client.site import Site
from fedward_client.training.runtime import RuntimeOptions
from fedward_common.plan.sections import TRAINING
from fedward_common.progress import Progress
from fedward_common.queries.task import Task
from fedward_common.randomness import RandomBytes
from fedward_common.study import Study

MOST_ADDENDS = 1600
"""Addends that the trial of a site computes, at most: a minute or so."""

SAMPLED = 400
"""Canaries of the trial of sampling."""

REPEATED_ROUNDS = 2

Told = Callable[[str, int, int], None]
"""Told (what is being done, done, total)."""


def audit_site(site: Site, study: Study, stage: Told) -> Iterator[Finding]:
    """Check this site's own code with the numbers of ``study``, then its ledger.

    Raises:
        IntegrityError: the ledger's chain does not hold.
    """

    def door(
        trial: Study,
        task: Task,
        before: Progress,
        cohort: Cohort,
        random: RandomBytes,
        runtime: RuntimeOptions,
    ) -> Addends:
        """The site's own door with its own engine and device."""
        own = replace(site.runtime, micro_batch=runtime.micro_batch)
        return addend(trial, task, before, cohort, random, own)

    coins = site.randomness("audit", study.plan.digest)
    yield from audit_door(terms_of(study), door, site.randomness, coins, stage)
    if asks_for_gradients(study):
        stage("measuring the plan's own model", 0, 0)
        yield observe_clip(study, door, site.randomness, coins).finding
    stage("going through the ledger", 0, 0)
    yield replay(site, attempts_in_log(site)).finding


def terms_of(study: Study) -> Terms:
    """The numbers to audit: of the first query that trains, or of the first query without one.

    Local steps are rehearsed as rounds with their sigma, q and C. A long study is rehearsed in
    part: the claim is then that of as many rounds.
    """
    gradients = [task for task in study.tasks if isinstance(task.query, TRAINING)]
    terms = Terms.of(study, (gradients or list(study.tasks))[0])
    most = max(1, MOST_ADDENDS // (terms.t_min - terms.colluding))
    return replace(terms, rounds=min(terms.rounds, most))


def audit_door(
    terms: Terms, door: Door, randomness: Randomness, coins: RandomBytes, stage: Told
) -> Iterator[Finding]:
    """Check one site's ``door``: its noise, repetitions, sampling and the canary bound.

    Copies of the door stand in for the t_min - c honest sites whose noise the claim counts on.
    """
    copies = terms.t_min - terms.colluding
    trial = flip_coins(terms, copies, AXES - BLANKS, coins)
    doors = [door] * copies
    kept = record(trial, doors, randomness, stage=lambda done, n: stage("asking canaries", done, n))
    again = record(trial, doors, randomness, rounds=min(REPEATED_ROUNDS, trial.task.rounds))
    yield observe_canaries(kept).finding
    yield observe_noise(kept).finding
    yield observe_repeats(kept, again).finding
    sampled = record_sampling(
        terms, [door], SAMPLED, randomness, lambda done, n: stage("watching who is drawn", done, n)
    )
    yield observe_sampling(*sampled).finding
