"""The whole audit: canaries, noise, repeats, sampling, ledger, pictures (B8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter

from fedward_client.addend import addend
from fedward_client.privacy_audit.canaries import CanaryEvidence, observe_canaries
from fedward_client.privacy_audit.finding import Finding
from fedward_client.privacy_audit.lengths import ClipEvidence, observe_clip
from fedward_client.privacy_audit.noise import (
    NoiseEvidence,
    RepeatEvidence,
    observe_noise,
    observe_repeats,
)
from fedward_client.privacy_audit.sampling import (
    SamplingEvidence,
    observe_sampling,
    record_sampling,
)
from fedward_client.privacy_audit.trial import (
    AXES,
    BLANKS,
    Door,
    Randomness,
    Terms,
    draft,
    flip_coins,
    record,
)
from fedward_common.plan.document import parse_plan
from fedward_common.privacy.accounting import Mechanism, calibrate
from fedward_common.privacy.grid import GRID_SHARE
from fedward_common.randomness import RandomBytes, os_random
from fedward_common.study import Study
from fedward_simulations.arrays import ImageArrays
from fedward_simulations.audit.masked import MaskedSum
from fedward_simulations.audit.reconstruction import (
    PATIENTS,
    SIDE,
    SITES,
    Reconstruction,
    grey,
    reconstruct,
)
from fedward_simulations.audit.recorded import RecordedStudy, record_study
from fedward_simulations.phantom import phantom_arrays

PUBLIC_IMAGES = 200
"""Images that the attacker of the reconstruction has of its own."""

REPEATED_ROUNDS = 2
IMAGES_PER_PATIENT = 2
NETWORK_CLIP = 0.1
"""C of the CNN in the packaged scenarios."""

Told = Callable[[str, int, int], None]
"""Told (what is being done, done, total)."""


@dataclass(frozen=True)
class Setting:
    """What is audited: a federation's size, and the epsilon that its plan claims.

    ``canaries`` of the trial of canaries, ``sampled`` of that of sampling.
    """

    epsilon: float = 2.0
    delta: float = 1e-5
    sites: int = 8
    t_min: int = 8
    colluding: int = 0
    rounds: int = 40
    sampling_rate: float = 0.5
    clip: float = 1.0
    canaries: int = AXES - BLANKS
    sampled: int = 1600


@dataclass(frozen=True)
class Trials:
    """What the trials of a federation's doors showed."""

    canaries: CanaryEvidence
    noise: NoiseEvidence
    repeats: RepeatEvidence
    sampling: SamplingEvidence

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every verdict."""
        return (
            self.canaries.finding,
            self.noise.finding,
            self.repeats.finding,
            self.sampling.finding,
        )


@dataclass(frozen=True)
class Audit:
    """All that an audit showed, and what it took."""

    setting: Setting
    terms: Terms
    trials: Trials
    clip: ClipEvidence
    recorded: RecordedStudy
    pictures: Reconstruction
    images: str
    seconds: float

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every verdict, in the order of the page."""
        return (
            *self.trials.findings,
            self.clip.finding,
            self.recorded.finding,
            self.pictures.finding,
        )

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return all(finding.passed for finding in self.findings)


def audit_federation(images: ImageArrays | None, setting: Setting, stage: Told) -> Audit:
    """Audit this package: the code of a deployment, its randomness, a setting's numbers.

    Args:
        images: What the reconstruction attacks; phantoms if absent.
        setting: What is claimed.
        stage: Told how far it is.

    Raises:
        OperatorError: the setting's epsilon is out of reach, or there are too few images.
    """
    began = perf_counter()
    stage("choosing the noise for the privacy claimed", 0, 0)
    terms = terms_of(setting)

    doors = [addend] * setting.sites
    trials = try_doors(terms, doors, _deployed, os_random, setting, stage)
    stage("measuring a network's vectors", 0, 0)
    clip = observe_clip(network_study(terms), addend, _deployed, os_random)
    recorded = record_study(stage)
    stage("reading patients out of sums", 0, 0)
    count = SITES * PATIENTS + PUBLIC_IMAGES
    arrays = phantom_arrays(count, SIDE) if images is None else images
    pictures = reconstruct(
        grey(arrays.train_images[:count]), terms.noise_multiplier, _deployed, MaskedSum(SITES)
    )
    name = "phantoms" if images is None else f"image array {images.digest()[:16]}"
    return Audit(setting, terms, trials, clip, recorded, pictures, name, perf_counter() - began)


def try_doors(
    terms: Terms,
    doors: Sequence[Door],
    randomness: Randomness,
    coins: RandomBytes,
    setting: Setting,
    stage: Told,
) -> Trials:
    """Put canaries through the sites' ``doors`` and look at what the server gets.

    Args:
        terms: What the plan claims.
        doors: What computes each site's addend.
        randomness: The sites' own: the source for ("addend", site, e).
        coins: Decides which canaries are in.
        setting: How many canaries.
        stage: Told how far it is.
    """
    trial = flip_coins(terms, len(doors), setting.canaries, coins)
    kept = record(
        trial,
        doors,
        randomness,
        total=MaskedSum(len(doors)),
        stage=lambda done, total: stage("asking canaries", done, total),
    )
    again = record(trial, doors, randomness, rounds=min(REPEATED_ROUNDS, terms.rounds))
    drawn = record_sampling(
        terms,
        doors,
        setting.sampled,
        randomness,
        lambda done, total: stage("watching who is drawn", done, total),
    )
    return Trials(
        canaries=observe_canaries(kept),
        noise=observe_noise(kept),
        repeats=observe_repeats(kept, again),
        sampling=observe_sampling(*drawn),
    )


def network_study(terms: Terms) -> Study:
    """A study of these terms whose model is the CNN, with views and several images a patient."""
    document = draft(terms, 1).plan.model_dump(mode="json", by_alias=True)
    document["preprocess"]["channels"] = 1
    document["cohort"]["images_per_patient"] = IMAGES_PER_PATIENT
    document["model"] |= {"kind": "cnn", "features": None}
    document["queries"][0]["clip"] = NETWORK_CLIP
    document["queries"][0]["augmentation"] |= {"copies": 2, "shift": 0.1, "rotation": 10.0}
    return Study(parse_plan(document, "privacy audit"))


@lru_cache(maxsize=4)
def terms_of(setting: Setting) -> Terms:
    """The terms of a plan that spends the setting's epsilon on its gradient steps."""
    share = setting.delta * (1 - GRID_SHARE)
    noise = calibrate(
        setting.epsilon,
        share,
        lambda sigma: [Mechanism(sigma, setting.sampling_rate, setting.rounds)],
    )
    return Terms(
        noise_multiplier=noise,
        sampling_rate=setting.sampling_rate,
        rounds=setting.rounds,
        clip=setting.clip,
        sites=setting.sites,
        t_min=setting.t_min,
        colluding=setting.colluding,
        slack=2.0**-8,
        delta=setting.delta,
    )


def _deployed(*_: object) -> RandomBytes:
    """Every purpose draws from the operating system, as at a site."""
    return os_random
