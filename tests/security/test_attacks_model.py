"""A7: crafted and repeated models, a false sum; what is left to the noise is left to the noise."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
from tests.privacy_samples import seeded
from tests.secagg_world import PUBLIC_INPUT, QUERY, Round
from tests.secagg_world import World as Group
from tests.security import flower_secaggplus as flower
from tests.security.attack_world import HostileServer, without, words
from tests.security.flower_secaggplus import FlowerClients
from tests.world import RUNTIME

from fedward_client.addend import addend, site_noise
from fedward_client.study_cohort import open_cohort
from fedward_client.training.augmentation import Augmentation
from fedward_client.training.gradients import Patient, clipped_sum
from fedward_common.errors import PeerError
from fedward_common.models.prediction import Standardisation
from fedward_common.progress import begin
from fedward_common.randomness import os_random
from fedward_common.secagg.context import RoundContext, addend_hash, sign_addend
from fedward_common.secagg.messages import UnmaskReply
from fedward_common.secagg.transcript import Transcript, verify_transcript

CRAFTED = {
    "not a number": lambda p: np.full_like(p, np.nan),
    "infinite": lambda p: np.full_like(p, np.inf),
    "overflowing": lambda p: np.full_like(p, 1.7e308),
    "mixed": lambda p: np.resize([np.nan, -np.inf, 1e308, 0.0], p.shape),
    "dominating": lambda p: np.resize([1e9, -1e9], p.shape),
}


@pytest.fixture
def hospital(federation, tmp_path):
    """One real site's study, gradient task and training patients."""
    with federation.copy(tmp_path / "world").open("site-1") as site:
        study = federation.study
        yield study, study.at(1)[0], open_cohort(site.folder, study, "train")


def _crafted(study, kind):
    progress = begin(study)
    state = progress.state
    parameters = CRAFTED[kind](state.parameters)
    return dataclasses.replace(
        progress, position=1, state=dataclasses.replace(state, parameters=parameters)
    )


@pytest.mark.parametrize("kind", CRAFTED)
def test_a_crafted_model_changes_nothing_that_shows(hospital, caplog, kind):
    """'crafted model that makes a site crash, refuse or answer late if a patient has a property'.

    B1's non-finite rule and the clip: no exception, no line in the log, no other size or type.
    """
    study, task, cohort = hospital
    with caplog.at_level(logging.DEBUG):
        honest = addend(study, task, begin(study), cohort, os_random, RUNTIME)
        sent = addend(study, task, _crafted(study, kind), cohort, os_random, RUNTIME)
    assert caplog.records == []
    assert (sent.shape, sent.dtype) == (honest.shape, honest.dtype)
    assert len({word.tobytes() for word in sent}) > 1  # the noise is in it


@pytest.mark.parametrize("kind", CRAFTED)
def test_under_a_crafted_model_no_patient_weighs_more_than_the_clip(hospital, kind):
    """'imprint or dominating-gradient model': clipped once to C, whatever the gradient was."""
    study, task, cohort = hospital
    for index in range(len(cohort)):
        vector = _gradient(study, task, _crafted(study, kind), cohort, [index])
        assert np.isfinite(vector).all()
        assert np.linalg.norm(vector) <= task.clip * (1 + 2**-18)


def _gradient(study, task, progress, cohort, indices):
    return clipped_sum(
        study.spec,
        progress.state.parameters,
        (Patient(*cohort.patient(index)) for index in indices),
        clip=task.clip,
        images_per_patient=1,
        augmentation=Augmentation(**task.query.augmentation.model_dump()),
        standardisation=Standardisation(progress.mean, progress.scale),
        random=os_random,
        runtime=RUNTIME,
    )


def test_a_model_that_singles_out_one_patient_reads_it_from_a_plain_sum_only(hospital):
    """'imprint or dominating-gradient model': clip and noise.

    The server knows every patient but one, and the sum of all sites but this. From the sum without
    noise it reads whether the one is there, always. With the noise of t_min - c sites of a plan
    with sigma = 5 it is right in Phi(1 / (2 sigma)) = 54 % of the cases.
    """
    study, task, cohort = hospital
    progress = begin(study)
    rest = _gradient(study, task, progress, cohort, range(1, len(cohort)))
    everyone = _gradient(study, task, progress, cohort, range(len(cohort)))
    one = (everyone - rest) * task.query.scale
    assert np.linalg.norm(one) == pytest.approx(task.clip * task.query.scale, rel=1e-3)
    direction = one / np.linalg.norm(one)
    middle = np.linalg.norm(one) / 2
    random, right, draws = seeded(7), 0, 600
    honest = study.plan.secagg.t_min - study.plan.secagg.colluding
    for draw in range(draws):
        there = bool(draw % 2)
        noise = sum(site_noise(study, task, random) for _ in range(honest))
        seen = (one if there else 0 * one) @ direction
        assert (seen > middle) == there
        right += ((seen + noise @ direction) > middle) == there
    assert 0.46 < right / draws < 0.62  # 0.54, standard deviation 0.02


def test_a_published_sum_of_extremes_is_answered_like_any_other(federation, tmp_path):
    """The same at a real site: the server publishes the largest sum there is, and asks on."""
    with federation.copy(tmp_path / "world").sites() as sites:
        server = HostileServer(sites)
        server.adopt(server.run(1))
        server.adopt(server.run(2))
        _, requests = server.mask_orders(server.share(3))
        honest = server.answered(0, server.mask_order(requests[0]))
        for i, value in ((1, 0x7FFFFFFF), (2, 0x80000000)):
            extreme = np.full(len(server.sums[1]) // 4, value, dtype="<u4").tobytes()
            order = server.mask_order(requests[i], sums=(server.sums[0], extreme))
            assert len(server.answered(i, order).reply) == len(honest.reply)


def test_a_model_whose_sum_was_opened_is_never_computed_on_again(federation, tmp_path):
    """'server repeats a model with U2 and U2 minus i': no repeated public input (A2).

    The server has the sum of all four, calls the attempt failed, and asks the same again without
    site 3, at once and after every process has been killed. Nobody computes, nobody pays. A site
    that released nothing may still be asked: the others are not there to sum with.
    """
    with federation.copy(tmp_path / "world").sites() as sites:
        server = HostileServer(sites)
        masked = server.mask(*server.mask_orders(server.share(1)))
        agreed = server.agree(*masked.close())
        revealing, last = agreed.close()
        for i in (0, 1, 2):  # t: enough to open the sum
            data = server.answered(i, server.unmask_order(last[i])).reply
            revealing = revealing.receive(i, UnmaskReply.decode(data))
        opened, _ = revealing.close()
        assert opened.transcript.survivors == (0, 1, 2, 3)
        for e, restart in ((2, False), (3, True)):
            _, requests = server.mask_orders(server.share(e))
            for i in (0, 1, 2):
                if restart:
                    sites.restart(server.names[i])
                order = server.mask_order(without(requests[i], 3))
                assert "no public input twice" in server.refused(i, order).reason
        server.addend(3, server.mask_order(requests[3]))
        server.adopt(opened)  # the next model is computed on as ever
        _, requests = server.mask_orders(server.share(4))
        for i in server.everyone:
            server.addend(i, server.mask_order(requests[i]))
        assert [server.debits(i) for i in server.everyone] == [[1, 4]] * 3 + [[1, 3, 4]]


def test_a_repeated_model_brings_new_noise_a_debit_each_and_soon_a_refusal(federation, tmp_path):
    """'server repeats a model with U2 and U2 minus i': before a release, DP bounds what remains.

    The server claims that attempts fail before step 4. That is what happens to an honest one, so it
    is served: each time as a new attempt with new noise, a debit, and none of the masks opened.
    """
    with federation.copy(tmp_path / "world").sites() as sites:
        server = HostileServer(sites)
        plan = server.definition.plan
        extra = plan.schedule.maximum_attempts - server.definition.total_rounds
        for e in range(1, extra + 2):  # one round and the plan's spare attempts: no more
            _, requests = server.mask_orders(server.share(e, among=(0, 1, 2)))
            server.addend(0, server.mask_order(requests[0]))
        for e in range(2, extra + 2):
            assert (words(server.seen[e, 0]) != words(server.seen[e - 1, 0])).all()
        _, requests = server.mask_orders(server.share(extra + 2, among=(0, 1, 2)))
        server.refused(0, server.mask_order(requests[0]))
        assert server.debits(0) == list(range(1, extra + 2))


def test_a_model_that_was_passed_is_never_computed_on_again(federation, tmp_path):
    """'no repeated public input': nor is an earlier one, whatever sums the server leaves out."""
    with federation.copy(tmp_path / "world").sites() as sites:
        server = HostileServer(sites)
        server.adopt(server.run(1))
        server.adopt(server.run(2))
        _, requests = server.mask_orders(server.share(3))
        for i in server.everyone:
            for known in ((), server.sums[:1]):
                server.refused(i, server.mask_order(requests[i], sums=known))
            server.addend(i, server.mask_order(requests[i]))
            assert server.debits(i) == [1, 2, 3]


def test_flower_works_two_rounds_on_one_model_differ_by_one_client():
    """Flower: works. It has no noise: the difference of two honest sums is one client's vector."""
    rng = np.random.default_rng(5)
    clients = FlowerClients({nid: rng.uniform(-1, 1, 16) for nid in (1, 2, 3, 4)})
    totals = []
    for among in ((1, 2, 3, 4), (1, 2, 3)):
        keys, masked = clients.until_masked(3, among)
        replies = [clients.unmask(nid, list(keys), [])[0] for nid in keys]
        total = sum(masked.values())
        for nid in keys:
            total = total - flower.stream(flower.rebuild(reply[nid] for reply in replies), 17)
        totals.append(flower.decode(total, contributors=len(among)))
    difference = totals[0] - totals[1]
    assert difference == pytest.approx(clients.vectors[4], abs=8 * flower.RESOLUTION)


@pytest.fixture(scope="module")
def finished():
    group = Group.make(4, os_random, c=1)
    attempt = Round(group, [np.arange(8, dtype=np.uint32) + i for i in range(4)])
    return group, attempt, attempt.run()


CONTEXT = RoundContext(1, QUERY, 0, PUBLIC_INPUT)


def test_a_false_sum_is_found_by_whoever_recomputes_it(finished):
    """'server publishes a false sum': commitments, served y_j, audit.

    The server serves anything it likes in place of any addend, and has a colluding member sign a
    second hash for it: the agreements bind the first.
    """
    group, attempt, summed = finished
    ys = {i: attempt.ys[i] for i in range(4)}
    published = Transcript.decode(summed.transcript.encode())
    true = verify_transcript(group.group, CONTEXT, published, ys)
    assert (true == summed.total).all()
    false = summed.total + np.uint32(1)
    assert (true != false).all()
    changed = (words(ys[2]) + np.uint32(1)).tobytes()
    with pytest.raises(PeerError, match="not the one it signed"):
        verify_transcript(group.group, CONTEXT, published, {**ys, 2: changed})
    resigned = sign_addend(group.keys[2].identity, attempt.masked[0].ctx, 2, addend_hash(changed))
    hashes = (*published.hashes[:2], resigned, published.hashes[3])
    other = dataclasses.replace(published, hashes=hashes)
    with pytest.raises(PeerError, match="'agree'"):
        verify_transcript(group.group, CONTEXT, other, {**ys, 2: changed})


def test_a_false_sum_by_a_false_seed_or_a_smaller_set_is_found(finished):
    """'server publishes a false sum': another self-mask seed, or one site less."""
    group, attempt, summed = finished
    ys = {i: attempt.ys[i] for i in range(4)}
    seeds = (bytes(16), *summed.transcript.seeds[1:])
    with pytest.raises(PeerError, match="seed of site 0"):
        verify_transcript(
            group.group, CONTEXT, dataclasses.replace(summed.transcript, seeds=seeds), ys
        )
    fewer = dataclasses.replace(summed.transcript, hashes=summed.transcript.hashes[:3])
    with pytest.raises(PeerError):
        verify_transcript(group.group, CONTEXT, fewer, {i: ys[i] for i in range(3)})
