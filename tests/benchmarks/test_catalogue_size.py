"""A catalogue of 100,000 rows: what `status` and a cohort's selection cost."""

from __future__ import annotations

import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward_client.catalogue import Instance, Label
from fedward_client.cohort import image_cohort
from fedward_client.intake.reconcile import Tally, reconcile
from fedward_client.keyed import encode_texts
from fedward_client.preprocess.spec import PreprocessSpec
from fedward_client.site_folder import create_site, open_site
from fedward_common.codec import encode

ROWS = 100_000


def filled(path, rows):
    """A site with ``rows`` instances, four of each patient, every patient labelled."""
    create_site(path, "north")
    site = open_site(path)
    patients = rows // 4
    site.catalogue.add(
        [
            Instance(
                f"2.25.{n}", f"{n // 4:032x}", f"2.25.9{n // 4}", f"2.25.8{n}", "CT",
                n.to_bytes(32, "big"),
            )
            for n in range(rows)
        ]
    )  # fmt: skip
    labels = [Label("patient", f"{n:032x}", f"{n:032x}", str(n % 2), None) for n in range(patients)]
    site.catalogue.add_labels(labels)
    return site


def select(site):
    spec = PreprocessSpec(size=32, channels=1)
    return image_cohort(
        site.catalogue, site.vault, site.split, split="train", classes=("0", "1"), spec=spec
    )


def calls(work):
    """How many Python and C functions are called."""
    count = 0

    def tell(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(tell)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.fixture
def sites(tmp_path):
    both = [filled(tmp_path / "small", 400), filled(tmp_path / "large", 1200)]
    for site in both:
        select(site)  # caches are warm in both
    yield both
    for site in both:
        site.close()


def test_the_status_costs_the_same_for_any_number_of_rows(sites):
    small, large = (calls(site.catalogue.counts) for site in sites)
    assert small == large


def test_a_selection_costs_a_little_for_each_row(sites):
    """Per instance and per label, not per pair, and not a canonical encoding for each."""
    small, large = (calls(lambda site=site: select(site)) for site in sites)
    assert large - small < 30 * 800


def test_a_reconciliation_costs_a_little_for_each_row(sites):
    small, large = (
        calls(lambda site=site: reconcile(Tally(0, 0), site.catalogue, site.split))
        for site in sites
    )
    assert large - small < 20 * 800


@given(st.lists(st.text(max_size=40), min_size=1, max_size=3))
def test_short_cuts_of_the_encoding_are_the_encoding(fields):
    assert encode_texts(*fields) == encode(tuple(fields))


def seconds(folder):
    """CPU seconds of the status and of a cohort selection at ``ROWS`` rows."""
    with filled(folder / "site", ROWS) as site:
        spent = {}
        for name, work in (("status", site.catalogue.counts), ("cohort", lambda: select(site))):
            begun = time.process_time()
            work()
            spent[name] = time.process_time() - begun
    return spent
