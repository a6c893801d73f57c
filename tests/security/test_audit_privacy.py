"""The audit passes the product and refuses every build with a wrong part (B8)."""

from __future__ import annotations

import pytest
from tests import broken_builds as broken
from tests.broken_builds import CORRECT, Fresh, InTurn, SameNoise

from fedward_client.privacy_audit.lengths import observe_clip
from fedward_client.privacy_audit.site_audit import audit_door
from fedward_simulations.audit.federation import Setting, network_study, terms_of, try_doors
from fedward_simulations.audit.masked import MaskedSum
from fedward_simulations.audit.reconstruction import PATIENTS, SITES, grey, reconstruct
from fedward_simulations.phantom import phantom_arrays
from fedward_simulations.randomness import SeededStream

SMALL = Setting(sites=4, t_min=4, rounds=6, sampled=400)


def audited(doors, randomness=None, setting=SMALL):
    """What each check finds of a federation with these doors: name -> finding."""
    source = randomness or Fresh(5)
    coins = SeededStream(5, "coins")
    trials = try_doors(terms_of(setting), doors, source, coins, setting, lambda *_: None)
    return {finding.name: finding for finding in trials.findings}


def caught(found):
    return {name for name, finding in found.items() if not finding.passed}


def test_the_product_passes_and_its_bound_lies_between_half_and_the_claim():
    found = audited([CORRECT] * 4)
    assert not caught(found)
    figures = found["canaries"].figures
    assert 0.5 < figures["epsilon_lower_bound"] < figures["epsilon_claimed"] <= 2.0
    assert 0 < figures["epsilon_lower_bound_any_shape"] <= figures["epsilon_lower_bound"]


BUILDS = {
    "noise / sqrt 8": ([broken.weak_noise] * 4, {"canaries", "noise"}),
    "clip x 4": ([broken.long_clip] * 4, {"canaries"}),
    "one silent site": ([CORRECT, broken.silent, CORRECT, CORRECT], {"noise"}),
    "one site repeats": ([SameNoise(), CORRECT, CORRECT, CORRECT], {"repeats"}),
    "everybody in every step": ([broken.everybody] * 4, {"sampling"}),
    "batches of one size": ([broken.fixed_batches] * 4, {"sampling"}),
    "batches in turn": ([CORRECT, CORRECT, CORRECT, InTurn()], {"sampling"}),
}


@pytest.mark.parametrize("build", BUILDS)
def test_a_broken_build_is_caught(build):
    doors, by = BUILDS[build]
    found = audited(doors)
    assert by <= caught(found)
    assert any(mark in found[min(by)].verdict for mark in ("NOT", "MORE", "TWICE"))


def test_a_known_seed_is_caught():
    """Rounds and sites differ, but whoever knows the seed can draw it all again."""
    assert {"repeats", "sampling"} <= caught(audited([CORRECT] * 4, broken.known))


def test_the_verdict_names_the_silent_site():
    found = audited([CORRECT, CORRECT, broken.silent, CORRECT])
    assert "site 3 (0.000)" in found["noise"].verdict


@pytest.mark.parametrize("present", [5, 4])
def test_noise_is_what_it_must_be_where_fewer_sites_carry_the_claim(present):
    """|U2| / (t_min - c) times the claim: all five sites or four of them, where 4 - 1 would do."""
    setting = Setting(sites=5, t_min=4, colluding=1, rounds=4, sampled=200, canaries=400)
    found = audited([CORRECT] * present, setting=setting)
    assert not caught(found)
    assert found["noise"].figures["least_variance_needed"] == pytest.approx(3 / present)


@pytest.mark.parametrize(
    ("door", "by"),
    [
        (CORRECT, set()),
        (broken.weak_noise, {"canaries", "noise"}),
        (broken.long_clip, {"canaries"}),
        (broken.everybody, {"sampling"}),
    ],
)
def test_a_site_catches_its_own_door(door, by):
    coins = SeededStream(6, "coins")
    found = audit_door(terms_of(SMALL), door, Fresh(6), coins, lambda *_: None)
    assert {finding.name for finding in found if not finding.passed} >= by
    if not by:
        assert not caught({f.name: f for f in found})


@pytest.fixture(scope="module")
def images():
    return grey(phantom_arrays(SITES * PATIENTS + 100, 32, seed=3).train_images)


def test_an_imprint_reads_patients_from_a_plain_sum_and_nothing_from_the_private_one(images):
    noise = terms_of(SMALL).noise_multiplier
    found = reconstruct(images, noise, Fresh(7), MaskedSum(SITES))
    from_plain, from_private = found.recovered
    assert from_plain >= SITES * PATIENTS // 3
    assert from_private == 0
    assert found.finding.passed


def test_the_same_attack_sees_patients_who_are_clipped_and_not_noised(images):
    noise = terms_of(SMALL).noise_multiplier
    found = reconstruct(images, noise, Fresh(8), MaskedSum(SITES), broken.silent)
    assert found.recovered[1] >= SITES * PATIENTS // 3
    assert not found.finding.passed
    assert "SHOWS" in found.finding.verdict


@pytest.fixture(scope="module")
def network():
    return network_study(terms_of(SMALL))


def test_a_networks_longest_vector_has_the_length_of_the_clip(network):
    found = observe_clip(network, CORRECT, Fresh(9), SeededStream(9, "pixels"))
    assert found.finding.passed
    assert 0.99 < found.longest <= found.allowed < 1.05


@pytest.mark.parametrize("excess", [1.1, 4.0])
def test_a_network_that_is_not_clipped_is_caught(network, excess):
    def door(study, task, *arguments):
        return broken.door(study, task, *arguments, clipped={"clip": excess * task.clip})

    found = observe_clip(network, door, Fresh(9), SeededStream(9, "pixels"))
    assert not found.finding.passed
    assert found.longest == pytest.approx(excess, rel=0.05)
