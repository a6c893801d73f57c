"""Damaged DICOM files: each is written clean or quarantined; nothing crashes, hangs or leaks.

FEDWARD_FUZZ_DICOM=10000 is the acceptance run; without it a few hundred files are mutated.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from contextlib import contextmanager
from io import BytesIO

import pydicom
import pytest
from tests.dicom_cases import SECRET, TOKEN, ct, encoded, lenient
from tests.dicom_mutations import DicomMutator, planted, sources

from fedward_client.deidentify.engine import Deidentifier
from fedward_client.deidentify.outcome import Cleaned, Quarantined
from fedward_client.deidentify.profile import Profile

WANTED = int(os.environ.get("FEDWARD_FUZZ_DICOM", "0")) or 600
SECONDS = 60
"""A watchdog only, of CPU: a file takes milliseconds, a damaged one no more."""

WAITED = 600
"""The same of the clock, for what waits and does not work."""

GENEROUS = {
    "missing_patient_id": "study",
    "retain": {"uids": True, "patient_characteristics": True, "safe_private": True,
               "dates": "full"},
    "clean": {"descriptors": True, "structured_content": True, "graphics": "geometry"},
    "pixels": {"text": "off", "secondary_capture": "mask", "head_ct_mr": "keep",
               "ultrasound_without_regions": "mask"},
}  # fmt: skip
"""All that keeps more, but for the options that keep a device's or institution's own text."""


def disguises():
    """The token as it stands, and as numbers of another byte order would show it."""
    token = TOKEN.encode()
    yield token
    for width in (2, 4, 8):
        parts = (token[i : i + width][::-1] for i in range(0, len(token), width))
        yield b"".join(parts)


@contextmanager
def watchdog(what):
    def bark(*_):
        raise TimeoutError(what)

    before = [signal.signal(number, bark) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(WAITED)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for number, handler in zip((signal.SIGPROF, signal.SIGALRM), before, strict=True):
            signal.signal(number, handler)


def header_of(data):
    """Return a written file without its pixel data, which is numbers whatever they look like."""
    ds = pydicom.dcmread(BytesIO(data))
    pixels = ds["PixelData"].value
    at = data.rindex(pixels)
    return data[:at] + data[at + len(pixels) :], ds


def test_damaged_files_are_cleaned_or_quarantined(tmp_path):
    engines = [
        Deidentifier(SECRET, lenient(text="off")),
        Deidentifier(SECRET, Profile.model_validate(GENEROUS)),
        Deidentifier(SECRET),
    ]
    mutator = DicomMutator(sources(), seed=WANTED)
    outcomes = Counter()
    for number in range(WANTED):
        name, data = mutator.file()
        engine = engines[(0, 1, 0, 1, 0, 1, 0, 2)[number % 8]]
        (tmp_path / "last.dcm").write_bytes(data)  # what to look at when this test fails
        with watchdog(f"{name}, file {number} of seed {WANTED}"):
            outcome = engine.deidentify(data)
        assert isinstance(outcome, Cleaned | Quarantined)
        outcomes[type(outcome)] += 1
        if isinstance(outcome, Cleaned):
            header, ds = header_of(outcome.data)
            shown = [form for form in disguises() if form in header]
            assert not shown, (name, number, shown)
            assert ds.PatientID == outcome.identifiers.patient
    assert outcomes[Cleaned] > WANTED // 10
    assert outcomes[Quarantined] > WANTED // 10


def test_the_planted_files_do_hold_the_token():
    """The campaign above would otherwise find nothing to find."""
    files = sources()
    assert len(files) > 100
    assert sum(data.count(TOKEN.encode()) >= 15 for data in files.values()) > 50
    assert set(disguises()) > {TOKEN.encode(), TOKEN.encode()[::-1]}


@pytest.mark.parametrize("profile", [None, GENEROUS])
def test_an_undamaged_planted_file_is_cleaned(profile):
    chosen = None if profile is None else Profile.model_validate(profile)
    outcome = Deidentifier(SECRET, chosen).deidentify(planted(ct()))
    assert isinstance(outcome, Cleaned)
    assert not [form for form in disguises() if form in outcome.data]


@pytest.mark.parametrize("depth", [10, 200, 5000])
def test_endless_nesting_is_refused_or_cut(depth):
    body = b"\x10\x00\x10\x00PN\x08\x00" + TOKEN.encode()
    for _ in range(depth):
        item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + body + b"\xfe\xff\x0d\xe0\0\0\0\0"
        body = b"\x00\x52\x29\x92SQ\0\0\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    data = encoded(ct())
    at = data.index(b"\xe0\x7f\x10\x00")
    with watchdog(depth):
        outcome = Deidentifier(SECRET).deidentify(data[:at] + body + data[at:])
    assert isinstance(outcome, Quarantined) or TOKEN.encode() not in outcome.data
