"""One DICOM file: the attributes that its IOD requires (PS3.3 A.2, A.3, A.4, A.6, A.26, A.32.4).

Identities are planted wherever a real header carries them: person names, identifiers, dates,
free text, a nested request, and a private block.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.sequence import Sequence
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless, RLELossless

from fedward_simulations.identities import Identity, Institution
from fedward_simulations.scanners import (
    CT_CENTER,
    CT_INTERCEPT,
    CT_WIDTH,
    TEXT_BAND,
    Scanner,
    render,
    stored_pixels,
)

# Named, because the default for RLE, GDCM, aborts the process on odd-sized colour images.
_ENCODERS = {
    RLELossless: "pylibjpeg",
    JPEGLSLossless: "pyjpegls",
    JPEG2000Lossless: "pylibjpeg",
}
PRIVATE_GROUP = 0x0019
IMAGES_PER_STUDY = 2


@dataclass(frozen=True)
class Place:
    """Where an image belongs: patient number at the site, and image number within the patient."""

    patient: int
    image: int

    @property
    def study(self) -> int:
        """The number of its study, from 0."""
        return self.image // IMAGES_PER_STUDY


def site_template(scanner: Scanner, place: Institution, uid_root: str) -> Dataset:
    """Return what all files of a site share: equipment, institution, fixed image attributes.

    ``uid_root`` is any text that is this site's alone; UIDs derive from it.
    """
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", *_image_type(scanner.modality)]
    ds.SOPClassUID = UID(scanner.sop_class)
    ds.Modality = scanner.modality
    ds.Manufacturer = scanner.manufacturer
    ds.ManufacturerModelName = scanner.model
    ds.SoftwareVersions = "4.2.1"
    ds.DeviceSerialNumber = place.device_serial
    ds.StationName = f"{scanner.modality}-ROOM-1"
    ds.InstitutionName = place.name
    ds.InstitutionAddress = place.address
    ds.InstitutionalDepartmentName = place.department
    ds.OperatorsName = place.operator
    ds.PerformingPhysicianName = place.performing_physician
    ds.StudyDescription = "Chest"
    ds.SeriesDescription = "Chest PA"
    ds.BodyPartExamined = "CHEST"
    ds.BurnedInAnnotation = "YES" if scanner.burned_in else "NO"
    ds.PatientOrientation = ["L", "F"]
    _add_pixel_format(ds, scanner)
    _add_modality(ds, scanner, uid_root)
    return ds


def _image_type(modality: str) -> list[str]:
    return {"CT": ["AXIAL"], "MR": ["M"], "DX": [""], "XC": []}.get(modality, [])


def _add_pixel_format(ds: Dataset, scanner: Scanner) -> None:
    """Image Pixel and VOI LUT modules (PS3.3 C.7.6.3, C.11.2)."""
    colour = scanner.photometric == "RGB"
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = scanner.photometric
    if colour:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = scanner.bits_allocated
    ds.BitsStored = scanner.bits_stored
    ds.HighBit = scanner.bits_stored - 1
    ds.PixelRepresentation = 0
    ds.LossyImageCompression = "00"
    if scanner.modality == "CT":
        ds.WindowCenter, ds.WindowWidth = CT_CENTER, CT_WIDTH
    elif not colour:
        ds.WindowCenter, ds.WindowWidth = (scanner.top + 1) // 2, scanner.top + 1


def _add_modality(ds: Dataset, scanner: Scanner, uid_root: str) -> None:
    """The attributes of type 1 and 2 that only this modality's IOD has."""
    spacing = [scanner.pixel_spacing] * 2
    if scanner.modality == "CR":
        ds.ViewPosition = "PA"
        ds.ImagerPixelSpacing = spacing
    elif scanner.modality == "DX":
        ds.ViewPosition = "PA"
        ds.ImagerPixelSpacing = spacing
        ds.PresentationIntentType = "FOR PRESENTATION"
        ds.PixelIntensityRelationship = "LOG"
        ds.PixelIntensityRelationshipSign = 1 if scanner.photometric == "MONOCHROME1" else -1
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
        inverse = scanner.photometric == "MONOCHROME1"
        ds.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
        ds.ImageLaterality = "U"
        ds.DetectorType = "DIRECT"
        ds.AnatomicRegionSequence = Sequence([_code("51185008", "SCT", "Chest")])
        ds.AcquisitionContextSequence = Sequence()
    elif scanner.modality in {"CT", "MR"}:
        _add_geometry(ds, scanner, uid_root)
    elif scanner.modality == "XC":
        ds.AnatomicRegionSequence = Sequence([_code("51185008", "SCT", "Chest")])
        ds.AcquisitionContextSequence = Sequence()


def _add_geometry(ds: Dataset, scanner: Scanner, uid_root: str) -> None:
    """Frame of reference, image plane, CT image and MR image modules (PS3.3 C.7.4 to C.8.3)."""
    ds.FrameOfReferenceUID = uid_from(uid_root, "frame")
    ds.PositionReferenceIndicator = ""
    ds.PixelSpacing = [scanner.pixel_spacing] * 2
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [0, 0, 0]
    ds.SliceThickness = 5
    if scanner.modality == "CT":
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = CT_INTERCEPT, 1, "HU"
        ds.KVP = 120
        ds.AcquisitionNumber = 1
    else:
        ds.ScanningSequence = "SE"
        ds.SequenceVariant = "SK"
        ds.ScanOptions = ""
        ds.MRAcquisitionType = "2D"
        ds.EchoTime, ds.EchoTrainLength, ds.RepetitionTime = 90, 8, 4000


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def patient_template(site: Dataset, person: Identity) -> Dataset:
    """Return the site's template with what all images of one patient share."""
    ds = Dataset()
    ds.update(site)
    ds.PatientName = person.name
    ds.PatientID = person.patient_id
    ds.PatientBirthDate = f"{person.birth_date:%Y%m%d}"
    ds.PatientSex = person.sex
    ds.PatientAddress = person.address
    ds.PatientTelephoneNumbers = person.telephone
    ds.OtherPatientNames = f"{person.name}^^Alias"
    ds.ReferringPhysicianName = person.referring_physician
    ds.AdditionalPatientHistory = person.comment
    ds.PatientComments = person.comment
    ds.ImageComments = person.comment
    ds.RequestedProcedureDescription = f"Chest for {person.token}"
    request = Dataset()
    request.ScheduledProcedureStepID = person.token
    request.RequestedProcedureID = person.token
    request.ReasonForTheRequestedProcedure = f"Cough, {person.spoken_name}"
    ds.RequestAttributesSequence = Sequence([request])
    block = ds.private_block(PRIVATE_GROUP, f"{site.Manufacturer} 1.0", create=True)
    block.add_new(0x01, "LO", person.spoken_name)
    block.add_new(0x02, "SH", person.token)
    return ds


def instance(
    patient: Dataset,
    person: Identity,
    scanner: Scanner,
    place: Place,
    image: NDArray[np.uint8],
    uid_root: str,
) -> Dataset:
    """Return a complete file data set, file meta included, ready for ``dcmwrite``.

    ``image`` is uint8 (H, W) or (H, W, 3), grey or RGB as a person would see it.
    """
    ds = Dataset()
    ds.update(patient)
    key = (uid_root, place.patient)
    moment = person.study_moment(place.study)
    ds.StudyInstanceUID = uid_from(*key, "study", place.study)
    ds.SeriesInstanceUID = uid_from(*key, "series", place.study)
    ds.SOPInstanceUID = uid_from(*key, "instance", place.image)
    for name in ("Study", "Series", "Acquisition", "Content"):
        setattr(ds, f"{name}Date", f"{moment:%Y%m%d}")
        setattr(ds, f"{name}Time", f"{moment:%H%M%S}")
    years = (moment.date() - person.birth_date).days // 365
    ds.PatientAge = f"{years:03d}Y"
    ds.AccessionNumber = person.accession(place.study)
    ds.StudyID = f"{place.study + 1}"
    ds.SeriesNumber = 1
    ds.InstanceNumber = place.image % IMAGES_PER_STUDY + 1
    text = (f"{person.spoken_name}  {person.sex}", f"{person.patient_id}  {ds.PatientBirthDate}")
    _add_pixels(ds, scanner, stored_pixels(render(image, scanner, text), scanner))
    return ds


def _add_pixels(ds: Dataset, scanner: Scanner, pixels: NDArray[np.uint8 | np.uint16]) -> None:
    """Encode the pixels and write the file meta information (PS3.10 7.1)."""
    ds.Rows, ds.Columns = pixels.shape[:2]
    if scanner.modality == "US":
        ds.SequenceOfUltrasoundRegions = Sequence([_region(scanner, ds.Rows, ds.Columns)])
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    syntax = UID(scanner.transfer_syntax)
    ds.file_meta.TransferSyntaxUID = syntax
    if not syntax.is_encapsulated:
        data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
        ds.PixelData = data + b"\0" * (len(data) % 2)
        ds["PixelData"].VR = "OW" if scanner.bits_allocated == 16 or syntax.is_implicit_VR else "OB"
        return
    frame = get_encoder(syntax).encode(
        pixels,
        rows=ds.Rows,
        columns=ds.Columns,
        samples_per_pixel=ds.SamplesPerPixel,
        photometric_interpretation=scanner.photometric,
        bits_allocated=scanner.bits_allocated,
        bits_stored=scanner.bits_stored,
        pixel_representation=0,
        number_of_frames=1,
        planar_configuration=0,
        encoding_plugin=_ENCODERS[syntax],
    )
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True


def _region(scanner: Scanner, rows: int, columns: int) -> Dataset:
    """US Region Calibration (PS3.3 C.8.5.5): one tissue region, all but the text."""
    region = Dataset()
    region.RegionSpatialFormat = 1
    region.RegionDataType = 1
    region.RegionFlags = 0
    region.RegionLocationMinX0 = 0
    region.RegionLocationMinY0 = TEXT_BAND if scanner.burned_in else 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = columns - 1, rows - 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX = region.PhysicalDeltaY = 0.02
    return region


def uid_from(*key: str | int) -> UID:
    """Return a UID under 2.25 (PS3.5 B.2) that is a function of the key."""
    digest = hashlib.sha256(repr(("uid", *key)).encode()).digest()
    return UID(f"2.25.{int.from_bytes(digest[:16], 'big')}")
