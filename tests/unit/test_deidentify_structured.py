"""Clean Structured Content and Clean Graphics: what stays of content items and annotations."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from tests.dicom_cases import TOKEN, clean, ct, encoded
from tests.dicom_options import coded, profile


def content(kind, concept=("111031", "DCM"), **values):
    item = Dataset()
    item.ValueType = kind
    item.ConceptNameCodeSequence = Sequence([coded(*concept, TOKEN)])
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def acquisition_context(*items):
    ds = ct()
    ds.AcquisitionContextSequence = Sequence(list(items))
    outcome, cleaned = clean(encoded(ds), profile(clean={"structured_content": True}))
    assert TOKEN.encode() not in outcome.data
    return cleaned.AcquisitionContextSequence


def test_content_items_are_kept_with_public_codes_numbers_and_words():
    units = Sequence([coded("mm", "UCUM", TOKEN)])
    kept = acquisition_context(
        content("CODE", ConceptCodeSequence=Sequence([coded("51185008", "SCT", TOKEN)])),
        content("NUMERIC", NumericValue="12.5", MeasurementUnitsCodeSequence=units),
        content("TEXT", TextValue="CT chest"),
        content("DATE", Date="20040119"),
    )
    assert [item.ValueType for item in kept] == ["CODE", "NUMERIC", "TEXT", "DATE"]
    names = {item.ConceptNameCodeSequence[0].CodeMeaning for item in kept}
    assert names == {"Image View"}
    assert kept[0].ConceptCodeSequence[0].CodeMeaning.startswith("Thoracic")
    assert (kept[1].NumericValue, kept[2].TextValue) == (12.5, "CT chest")
    assert kept[3].Date > "2100"


@pytest.mark.parametrize(
    "item",
    [
        content("PNAME", PersonName=TOKEN),
        content("TEXT", TextValue=TOKEN),
        content("TEXT", concept=("4711", "99LOCAL"), TextValue="chest"),
        content("TEXT", concept=("4711", "DCM"), TextValue="chest"),
        content("UIDREF", UID="1.2.3"),
        content("CODE", ConceptCodeSequence=Sequence([coded("4711", "99LOCAL", TOKEN)])),
        content("NUMERIC", NumericValue="482913",
                MeasurementUnitsCodeSequence=Sequence([coded("mm", "UCUM", "")])),
        content("NUMERIC", NumericValue="1"),
        content("NUMERIC", concept=("121033", "DCM"), NumericValue="93",
                MeasurementUnitsCodeSequence=Sequence([coded("a", "UCUM", "year")])),
        content("WAVEFORM"),
        Dataset(),
    ],
)  # fmt: skip
def test_other_content_items_are_removed(item):
    assert not acquisition_context(item)


def test_specimen_steps_are_cleaned_too():
    step = Dataset()
    step.SpecimenPreparationStepContentItemSequence = Sequence(
        [content("TEXT", TextValue="biopsy"), content("TEXT", TextValue=TOKEN)]
    )
    specimen = Dataset()
    specimen.SpecimenIdentifier = TOKEN
    specimen.SpecimenPreparationSequence = Sequence([step])
    ds = ct()
    ds.SpecimenDescriptionSequence = Sequence([specimen])
    outcome, cleaned = clean(encoded(ds), profile(clean={"structured_content": True}))
    assert TOKEN.encode() not in outcome.data
    (kept,) = cleaned.SpecimenDescriptionSequence
    (only,) = kept.SpecimenPreparationSequence[0].SpecimenPreparationStepContentItemSequence
    assert (only.TextValue, kept.SpecimenIdentifier) == ("biopsy", "REMOVED")


def test_without_the_option_structured_content_is_emptied():
    ds = ct()
    ds.AcquisitionContextSequence = Sequence([content("TEXT", TextValue="chest")])
    _, cleaned = clean(encoded(ds))
    assert not cleaned.AcquisitionContextSequence


def shape(kind, *points, units="PIXEL"):
    item = Dataset()
    item.GraphicAnnotationUnits, item.GraphicType, item.GraphicFilled = units, kind, "N"
    item.GraphicDimensions, item.NumberOfGraphicPoints = 2, len(points)
    item.GraphicData = [float(number) for point in points for number in point]
    return item


def test_simple_shapes_are_kept_without_their_text():
    text = Dataset()
    text.UnformattedTextValue, text.AnchorPoint = TOKEN, [1.0, 1.0]
    annotation = Dataset()
    annotation.GraphicLayer = TOKEN
    annotation.TextObjectSequence = Sequence([text])
    letters = [(n, n % 3) for n in range(40)]
    annotation.GraphicObjectSequence = Sequence(
        [shape("CIRCLE", (5, 5), (5, 9)), shape("POLYLINE", *letters), shape("POINT", (1, 2)),
         shape("POINT", (1, 2), units=TOKEN)]
    )  # fmt: skip
    ds = ct()
    ds.GraphicAnnotationSequence = Sequence([annotation])
    outcome, cleaned = clean(encoded(ds), profile(clean={"graphics": "geometry"}))
    assert TOKEN.encode() not in outcome.data
    (kept,) = cleaned.GraphicAnnotationSequence
    assert [one.GraphicType for one in kept.GraphicObjectSequence] == ["CIRCLE", "POINT"]
    assert list(kept.GraphicObjectSequence[0].GraphicData) == [5, 5, 5, 9]
    assert "TextObjectSequence" not in kept
    annotation.GraphicObjectSequence = Sequence([shape("POINT", (n, n)) for n in range(30)])
    _, many = clean(encoded(ds), profile(clean={"graphics": "geometry"}))
    assert not many.GraphicAnnotationSequence[0].keys()  # only the dummy of the basic profile
    assert not clean(encoded(ds))[1].GraphicAnnotationSequence[0].keys()
