"""Properties of the de-identifier: dates, pseudonyms, and hostile bytes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from io import BytesIO

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.dicom_cases import OTHER_SECRET, SECRET, TOKEN, ct, encoded, image, lenient, noise

from fedward_client.deidentify import checks, dates, descriptors, retained
from fedward_client.deidentify.engine import Deidentifier
from fedward_client.deidentify.outcome import Cleaned, Quarantined
from fedward_client.deidentify.pseudonyms import Pseudonyms

moments = st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31, 23)).map(  # noqa: DTZ001
    lambda moment: moment.replace(tzinfo=UTC, microsecond=0)
)
MIDDLE = datetime(2000, 1, 1, tzinfo=UTC)
FIRST = (datetime(1000, 1, 1, tzinfo=UTC) - MIDDLE).total_seconds()
LAST = (datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - MIDDLE).total_seconds()
shifts = st.integers(-(10**9), 10**10)
identifiers = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=64).filter(
    lambda text: text.strip(" \0")
)


@given(moments, shifts)
def test_date_and_time_move_together_by_exactly_the_shift(moment, shift):
    date = dates.shift_date(f"{moment:%Y%m%d}", f"{moment:%H%M%S}", shift)
    time = dates.shift_time(f"{moment:%H%M%S}", shift)
    both = dates.shift_datetime(f"{moment:%Y%m%d%H%M%S}", shift)
    if not FIRST <= (moment - MIDDLE).total_seconds() + shift <= LAST:
        assert date is None
        assert both is None
        return
    assert both == date + time
    assert datetime.strptime(both, "%Y%m%d%H%M%S").replace(tzinfo=UTC) == moment + timedelta(
        seconds=shift
    )


digits = st.from_regex(r"(0001|1000|9999|[0-9]{4})[01][0-9][0-3][0-9][0-9]{0,6}", fullmatch=True)


@given(st.text(max_size=30) | digits, st.sampled_from(["DA", "TM", "DT"]), shifts)
def test_what_is_no_date_or_time_never_passes(text, vr, shift):
    shifted = {
        "DA": lambda: dates.shift_date(text, None, shift),
        "TM": lambda: dates.shift_time(text, shift),
        "DT": lambda: dates.shift_datetime(text, shift),
    }[vr]()
    assert shifted is None or set(shifted) <= set("0123456789.")


@given(identifiers, identifiers)
def test_pseudonyms_are_injective_keyed_and_stable(one, other):
    ours, theirs = Pseudonyms(SECRET), Pseudonyms(OTHER_SECRET)
    same = one.strip(" \0") == other.strip(" \0")
    for name in ("patient", "uid", "shift_seconds"):
        assert (getattr(ours, name)(one) == getattr(ours, name)(other)) == same
        assert getattr(ours, name)(one) != getattr(theirs, name)(one)


DATES = st.dates(datetime(1900, 1, 1).date(), datetime(2100, 1, 1).date())  # noqa: DTZ001
DATE_FORMS = ["%d.%m.%Y", "%Y-%m-%d", "%d/%m/%y", "%Y%m%d", "%d %m %Y", "%m-%d-%Y", "%d%m%y"]
vocabulary = sorted(descriptors.vocabulary())
phrases = st.lists(st.sampled_from(vocabulary), max_size=4).map(" ".join)


@given(phrases, DATES, st.sampled_from(DATE_FORMS), phrases)
def test_no_date_passes_for_a_descriptor(before, date, form, after):
    text = f"{before} {date.strftime(form)} {after}".strip()
    assert descriptors.public_words(text.encode()) is None


@given(phrases, st.integers(1000, 10**12), st.sampled_from(["", "#", "ID:", "x", "no "]))
def test_no_number_of_four_digits_passes_for_a_descriptor(phrase, number, prefix):
    assert not descriptors.is_public_text(f"{phrase} {prefix}{number}")


@given(phrases, st.text(st.characters(categories=["L"]), min_size=3, max_size=12))
def test_a_word_that_is_not_public_takes_its_text_along(phrase, word):
    is_public = word.casefold() in vocabulary
    assert descriptors.is_public_text(f"{phrase} {word}") in (is_public, False)


@given(st.sampled_from(["US", "SS", "UL", "SL", "FL", "FD"]), st.integers(8, 64), st.data())
def test_no_letters_pass_for_binary_numbers(vr, length, data):
    letters = data.draw(st.text(st.characters(min_codepoint=32, max_codepoint=126),
                                min_size=length, max_size=length))  # fmt: skip
    assert checks.numbers(vr, -1e300, 1e300)(letters.encode()) is None


@given(st.integers(0, 999), st.sampled_from("DWMY"))
def test_no_age_beyond_ninety_is_kept(count, unit):
    kept = retained.age(f"{count:03}{unit}".encode()).decode()
    years = int(kept[:3]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[kept[3]]
    assert years <= 90
    assert kept in (f"{count:03}{unit}", "090Y")


@pytest.mark.parametrize("source", ["ct", "cr"])
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(edits=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=6)), min_size=1, max_size=8))
def test_mutated_files_are_cleaned_or_quarantined(source, edits):
    """No crash, and no planted token in what is written."""
    if source == "ct":
        ds = ct()
        ds.PatientName, ds.PatientComments = TOKEN, TOKEN
        header = 6000
    else:
        ds, header = image(noise((16, 16))), 700
    data = bytearray(encoded(ds))
    for where, patch in edits:
        at = int(where * header)
        data[at : at + len(patch)] = patch
    outcome = Deidentifier(SECRET, lenient()).deidentify(bytes(data))
    assert isinstance(outcome, Cleaned | Quarantined)
    if isinstance(outcome, Cleaned):
        assert TOKEN.encode() not in outcome.data
        assert pydicom.dcmread(BytesIO(outcome.data)).PatientID == outcome.identifiers.patient
