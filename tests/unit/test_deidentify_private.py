"""Retain Safe Private, and lookup tables: numbers that are kept because they cannot be text."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian
from tests.dicom_cases import TOKEN, clean, ct, encoded, image, noise
from tests.dicom_options import profile

from fedward_client.deidentify import private
from fedward_client.deidentify.outcome import Action


def with_private(*blocks):
    ds = ct()
    for elem in [e.tag for e in ds if e.tag.is_private]:
        del ds[elem]
    for group, creator, element, vr, value in blocks:
        ds.private_block(group, creator, create=True).add_new(element, vr, value)
    return ds


def test_safe_private_attributes_are_kept_in_new_blocks():
    ds = with_private(
        (0x0019, TOKEN, 0x0C, "LO", TOKEN),
        (0x0019, "SIEMENS MR HEADER", 0x0C, "IS", "1000"),
        (0x0019, "SIEMENS MR HEADER", 0x0E, "FD", [0.0, 0.6, 0.8]),
        (0x0019, "SIEMENS MR HEADER", 0x08, "CS", TOKEN),
        (0x7053, "Philips PET Private Group", 0x00, "DS", "0.25"),
    )
    outcome, cleaned = clean(encoded(ds), profile(safe_private=True))
    assert TOKEN.encode() not in outcome.data
    block = cleaned.private_block(0x0019, "SIEMENS MR HEADER")
    assert block.block_start == 0x1000  # the foreign block before it is gone
    assert (block[0x0C].value, list(block[0x0E].value)) == (1000, [0.0, 0.6, 0.8])
    assert cleaned.private_block(0x7053, "Philips PET Private Group")[0].value == 0.25
    assert len([e for e in cleaned if e.tag.is_private]) == 5
    declared = cleaned.PrivateDataElementCharacteristicsSequence
    assert {item.BlockIdentifyingInformationStatus for item in declared} == {"SAFE"}
    assert [item.PrivateGroupReference for item in declared] == [0x0019, 0x7053]
    assert not [e for e in clean(encoded(ds))[1] if e.tag.is_private]


@pytest.mark.parametrize(
    ("element", "vr", "value"),
    [
        (0x0C, "IS", "700482913"), (0x0C, "LO", TOKEN), (0x0D, "CS", TOKEN),
        (0x0E, "FD", [0.0, 0.6, 7.0]), (0x0E, "FD", [0.0] * 4),
        (0x0E, "FD", [struct.unpack("<d", b"DOE JO00")[0]] * 3), (0x0E, "LO", "DOE JO00"),
    ],
)  # fmt: skip
def test_implausible_values_of_safe_private_attributes_are_removed(element, vr, value):
    ds = with_private((0x0019, "SIEMENS MR HEADER", element, vr, value))
    outcome, cleaned = clean(encoded(ds), profile(safe_private=True))
    assert not [e for e in cleaned if e.tag.is_private]
    assert outcome.counts[Action.INVALID] >= 1


@pytest.mark.parametrize(("status", "kept"), [("SAFE", True), ("UNSAFE", False), ("MIXED", False)])
def test_a_block_that_the_file_calls_unsafe_is_removed(status, kept):
    ds = with_private((0x0019, "SIEMENS MR HEADER", 0x0C, "IS", "1000"))
    item = Dataset()
    item.PrivateGroupReference, item.PrivateCreatorReference = 0x0019, "SIEMENS MR HEADER"
    item.BlockIdentifyingInformationStatus = status
    ds.PrivateDataElementCharacteristicsSequence = Sequence([item])
    _, cleaned = clean(encoded(ds), profile(safe_private=True))
    assert bool([e for e in cleaned if e.tag.is_private]) == kept


def test_the_private_list_is_numbers_and_codes():
    listed = private.safe_attributes()
    assert len(listed) == 28
    assert {safe.vr for safe in listed.values()} <= {"DS", "IS", "CS", "FD", "FL", "SL", "SS", "US"}
    assert all(group & 1 for _, group, _ in listed)


def table(values, *, bits=12, explanation=TOKEN, kind="HU", count=None):
    item = Dataset()
    item.add_new(0x00283002, "US", [len(values) if count is None else count, 0, bits])
    item.LUTExplanation, item.ModalityLUTType = explanation, kind
    item.add_new(0x00283006, "OW", np.asarray(values, "<u2").tobytes())
    return item


def test_valid_lookup_tables_are_kept_if_nothing_else_says_the_same():
    ds = image(noise((16, 16), dtype=np.uint16))
    ds.ModalityLUTSequence = Sequence([table(range(0, 4000, 10))])
    ds.VOILUTSequence = Sequence([table(range(4000, 0, -10), kind="UNSPECIFIED")])
    outcome, cleaned = clean(encoded(ds))
    assert TOKEN.encode() not in outcome.data
    (modality,), (voi,) = cleaned.ModalityLUTSequence, cleaned.VOILUTSequence
    assert (modality.ModalityLUTType, list(modality.LUTDescriptor)) == ("HU", [400, 0, 12])
    assert np.array_equal(np.frombuffer(modality.LUTData, "<u2"), range(0, 4000, 10))
    assert "ModalityLUTType" not in voi
    ds.RescaleSlope, ds.RescaleIntercept, ds.WindowCenter, ds.WindowWidth = 1, 0, 100, 200
    _, cleaned = clean(encoded(ds))
    assert "ModalityLUTSequence" not in cleaned
    assert "VOILUTSequence" not in cleaned


def test_a_lookup_table_of_signed_pixels_has_a_signed_descriptor():
    ds = ct()
    del ds.RescaleSlope, ds.RescaleIntercept
    item = table(range(100))
    item.add_new(0x00283002, "SS", [100, -1000, 12])
    ds.ModalityLUTSequence = Sequence([item])
    _, cleaned = clean(encoded(ds))
    assert list(cleaned.ModalityLUTSequence[0].LUTDescriptor) == [100, -1000, 12]


@pytest.mark.parametrize(
    "bad",
    [
        table(range(100), count=99), table(range(100), bits=4), table([9000, *range(99)]),
        table(range(5000)), table([7] * 100), table(np.frombuffer(b"DOE^JOHN 1970 MRN", "u1")),
    ],
)  # fmt: skip
def test_what_is_no_lookup_table_is_removed(bad):
    ds = image(noise((16, 16), dtype=np.uint16))
    ds.ModalityLUTSequence = Sequence([bad])
    assert "ModalityLUTSequence" not in clean(encoded(ds))[1]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_safe_private_attributes_are_found_in_sequences_and_other_syntaxes(syntax):
    inner = with_private((0x0019, "SIEMENS MR HEADER", 0x0E, "FD", [0.0, 0.6, 0.8]))
    group = Dataset()
    for element in inner:
        if element.tag.is_private:
            group.add(element)
    ds = image(noise((16, 16)))
    ds.SharedFunctionalGroupsSequence = Sequence([group])
    ds.file_meta.TransferSyntaxUID = syntax
    _, cleaned = clean(encoded(ds), profile(safe_private=True))
    (kept,) = cleaned.SharedFunctionalGroupsSequence
    assert list(kept.private_block(0x0019, "SIEMENS MR HEADER")[0x0E].value) == [0.0, 0.6, 0.8]
    assert len(kept.PrivateDataElementCharacteristicsSequence) == 1
