"""Every image is at exactly one patient of one site, and the sites are as asked for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward_common.errors import OperatorError
from fedward_simulations.partition import SiteShare, parse_partition, share_out


def share(
    labels: list[int], holdout: list[int], sites: int, **options: object
) -> tuple[SiteShare, ...]:
    settings: dict[str, object] = {"partition": "iid", "images_per_patient": 1, "seed": 0}
    settings |= options
    return share_out(
        np.array(labels, dtype=np.int64),
        np.array(holdout, dtype=np.int64),
        sites=sites,
        partition=parse_partition(str(settings["partition"])),
        images_per_patient=int(str(settings["images_per_patient"])),
        seed=int(str(settings["seed"])),
    )


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=60, max_size=200),
    holdout=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    sites=st.integers(1, 6),
    images=st.integers(1, 5),
    partition=st.sampled_from(["iid", "dirichlet:0.5", "dirichlet:100"]),
    seed=st.integers(0, 2**32),
)
def test_every_image_once_and_one_label_a_patient(
    labels: list[int], holdout: list[int], sites: int, images: int, partition: str, seed: int
) -> None:
    options = {"partition": partition, "images_per_patient": images, "seed": seed}
    shares = share(labels, holdout, sites, **options)
    assert len(shares) == sites
    for field, truth in (("train", labels), ("holdout", holdout)):
        patients = [patient for site in shares for patient in getattr(site, field)]
        assert sorted(i for patient in patients for i in patient.images) == list(range(len(truth)))
        assert all(1 <= len(patient.images) <= images for patient in patients)
        assert all(truth[i] == patient.label for patient in patients for i in patient.images)
    if partition == "iid":
        for field in ("train", "holdout"):
            sizes = [len(getattr(site, field)) for site in shares]
            assert max(sizes) - min(sizes) <= 1
    assert all(site.train for site in shares)
    assert share(labels, holdout, sites, **options) == shares


def test_iid_balances_the_sites_over_both_splits() -> None:
    shares = share([0, 1] * 2354, [0, 1] * 262, 8)
    assert {len(site.train) + len(site.holdout) for site in shares} == {654}


def test_another_seed_is_another_partition() -> None:
    assert share([0, 1] * 50, [0, 1], 4, seed=1) != share([0, 1] * 50, [0, 1], 4, seed=2)


def spread_of_label_one(partition: str) -> float:
    """The widest difference between sites in their share of class 1, averaged over seeds."""
    widths = []
    for seed in range(5):
        shares = share([0, 1] * 1000, [0, 1] * 50, 5, partition=partition, seed=seed)
        rates = [np.mean([patient.label for patient in site.train]) for site in shares]
        widths.append(max(rates) - min(rates))
    return float(np.mean(widths))


def test_a_small_alpha_is_a_strong_skew() -> None:
    assert spread_of_label_one("iid") < 0.12
    assert spread_of_label_one("dirichlet:1000") < 0.12
    assert spread_of_label_one("dirichlet:0.3") > 0.5


def test_a_patients_number_does_not_tell_the_label() -> None:
    for site in share([0] * 200 + [1] * 200, [0, 1] * 4, 2, images_per_patient=2):
        labels = [patient.label for patient in site.train]
        changes = sum(a != b for a, b in itertools.pairwise(labels))
        assert changes > len(labels) / 4


@pytest.mark.parametrize(
    "text", ["", "IID", "dirichlet", "dirichlet:", "dirichlet:0", "dirichlet:-1", "dirichlet:nan",
             "dirichlet:inf", "dirichlet:x", "zipf:1"],
)  # fmt: skip
def test_refuses_another_partition(text: str) -> None:
    with pytest.raises(OperatorError, match="needs iid or dirichlet:A"):
        parse_partition(text)


@pytest.mark.parametrize(
    ("sites", "options", "says"),
    [
        (0, {}, "sites 0"),
        (201, {}, "sites 201"),
        (2, {"images_per_patient": 0}, "images per patient 0"),
        (2, {"seed": -1}, "seed -1"),
        (21, {}, "too few for 21 sites"),
        (20, {"partition": "dirichlet:0.01"}, "larger A or fewer sites"),
    ],
)
def test_refuses_what_cannot_be_shared_out(
    sites: int, options: dict[str, object], says: str
) -> None:
    with pytest.raises(OperatorError, match=says):
        share([0, 1] * 10, [0, 1], sites, **options)
