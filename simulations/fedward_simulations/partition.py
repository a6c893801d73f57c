"""Who goes where: images into patients, patients into hospitals.

Two partitions. ``iid``: uniformly at random over equal sites, whose sizes differ by at most one.
``dirichlet:A``: for each class the sites' shares are drawn from a symmetric Dirichlet(A), the
usual label skew (Hsu, Qi & Brown 2019, arXiv:1909.06335); a small A is a strong skew. Held-out
patients follow the same shares as training patients, so that a site's held-out set is of its kind.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedward_common.errors import OperatorError

MAX_SITES = 200
MAX_IMAGES_PER_PATIENT = 100
MAX_REDRAWS = 1000


@dataclass(frozen=True)
class Partition:
    """How patients are spread. ``alpha`` is Dirichlet's A, infinite for ``iid``."""

    alpha: float

    @property
    def iid(self) -> bool:
        """Whether sites are equal and without label skew."""
        return math.isinf(self.alpha)


@dataclass(frozen=True)
class PatientImages:
    """One patient to be: a label and the indices of the images, at least one."""

    label: int
    images: tuple[int, ...]


@dataclass(frozen=True)
class SiteShare:
    """The patients of one site; indices refer to train and val images respectively."""

    train: tuple[PatientImages, ...]
    holdout: tuple[PatientImages, ...]


def parse_partition(text: str) -> Partition:
    """Read ``iid`` or ``dirichlet:A`` with A > 0, else raise OperatorError."""
    if text == "iid":
        return Partition(math.inf)
    kind, _, number = text.partition(":")
    try:
        alpha = float(number) if kind == "dirichlet" else math.nan
    except ValueError:
        alpha = math.nan
    if not 0.01 <= alpha <= 1e6:
        raise OperatorError(
            f"partition {text!r}: needs iid or dirichlet:A with A from 0.01 to 1e6,"
            " for example dirichlet:0.5"
        )
    return Partition(alpha)


def share_out(
    train_labels: NDArray[np.int64],
    val_labels: NDArray[np.int64],
    *,
    sites: int,
    partition: Partition,
    images_per_patient: int,
    seed: int,
) -> tuple[SiteShare, ...]:
    """Spread every train and every val image over the sites, each exactly once.

    Labels are int64 (N,). Patients hold 1 to ``images_per_patient`` images of one label, the
    number drawn uniformly. The result is a function of the arguments.

    Raises:
        OperatorError: an argument is out of range, or there are too few patients for the sites.
    """
    _check(sites, images_per_patient, seed)
    rng = np.random.default_rng(seed)
    train = group_patients(train_labels, images_per_patient, rng)
    holdout = group_patients(val_labels, images_per_patient, rng)
    if len(train) < sites:
        raise OperatorError(f"{len(train)} training patients are too few for {sites} sites")
    if partition.iid:
        train_sites = deal(len(train), sites, rng)
        # From the last site on, so that who got one training patient more gets none more here.
        holdout_sites = sites - 1 - deal(len(holdout), sites, rng)
    else:
        train_sites, holdout_sites = _skewed(train, holdout, sites, partition.alpha, rng)
    return tuple(
        SiteShare(_of_site(train, train_sites, site), _of_site(holdout, holdout_sites, site))
        for site in range(sites)
    )


def _check(sites: int, images_per_patient: int, seed: int) -> None:
    if not 1 <= sites <= MAX_SITES:
        raise OperatorError(f"sites {sites}: needs 1 to {MAX_SITES}")
    if not 1 <= images_per_patient <= MAX_IMAGES_PER_PATIENT:
        raise OperatorError(
            f"images per patient {images_per_patient}: needs 1 to {MAX_IMAGES_PER_PATIENT}"
        )
    if seed < 0:
        raise OperatorError(f"seed {seed}: needs a whole number from 0")


def group_patients(
    labels: NDArray[np.int64], images_per_patient: int, rng: np.random.Generator
) -> tuple[PatientImages, ...]:
    """Group images of equal label, at random, into patients of 1 to K images."""
    patients: list[PatientImages] = []
    for label in np.unique(labels):
        left = rng.permutation(np.flatnonzero(labels == label)).tolist()
        while left:
            count = int(rng.integers(1, images_per_patient + 1))
            patients.append(PatientImages(int(label), tuple(sorted(left[:count]))))
            left = left[count:]
    # In random order: a patient's number must not tell the label.
    return tuple(patients[index] for index in rng.permutation(len(patients)))


def deal(count: int, sites: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the site of each of ``count`` patients, int64 (count,): a shuffled deal of cards."""
    return rng.permutation(np.arange(count, dtype=np.int64) % sites)


def _skewed(
    train: Sequence[PatientImages],
    holdout: Sequence[PatientImages],
    sites: int,
    alpha: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw shares per class until no site is left with hardly a training patient."""
    train_labels = np.array([patient.label for patient in train], dtype=np.int64)
    holdout_labels = np.array([patient.label for patient in holdout], dtype=np.int64)
    classes = np.union1d(train_labels, holdout_labels)
    least = max(1, min(10, len(train) // (4 * sites)))
    for _ in range(MAX_REDRAWS):
        shares = rng.dirichlet(np.full(sites, alpha), size=len(classes))
        train_sites = _apportion(train_labels, classes, shares, rng)
        if np.bincount(train_sites, minlength=sites).min() >= least:
            return train_sites, _apportion(holdout_labels, classes, shares, rng)
    raise OperatorError(
        f"partition dirichlet:{alpha:g}: some site stays without {least} training patients;"
        " take a larger A or fewer sites"
    )


def _apportion(
    labels: NDArray[np.int64],
    classes: NDArray[np.int64],
    shares: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Give each class's patients to the sites in its shares, (classes, sites), rounded."""
    site_of = np.empty(len(labels), dtype=np.int64)
    for row, label in enumerate(classes):
        members = rng.permutation(np.flatnonzero(labels == label))
        ends = np.rint(np.cumsum(shares[row]) * len(members)).astype(np.int64)
        ends[-1] = len(members)
        for site, (start, end) in enumerate(itertools.pairwise([0, *ends.tolist()])):
            site_of[members[start:end]] = site
    return site_of


def _of_site(
    patients: Sequence[PatientImages], sites: NDArray[np.int64], site: int
) -> tuple[PatientImages, ...]:
    return tuple(patients[index] for index in np.flatnonzero(sites == site).tolist())
