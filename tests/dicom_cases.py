"""DICOM files for tests: pydicom's own, and small ones made here with planted identities."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from fedward_client.deidentify.engine import Deidentifier
from fedward_client.deidentify.outcome import Cleaned
from fedward_client.deidentify.profile import Profile
from fedward_common.secret import SecretBytes

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
SECRET = SecretBytes(bytes(range(32)))
OTHER_SECRET = SecretBytes(bytes(range(1, 33)))
TOKEN = "QWXTOKEN"
CR = "1.2.840.10008.5.1.4.1.1.1"


def lenient(**pixels):
    """A profile that refuses as little as possible."""
    chosen = {
        "secondary_capture": "mask",
        "ultrasound_without_regions": "mask",
        "head_ct_mr": "keep",
    }
    return Profile.model_validate({"missing_patient_id": "study", "pixels": {**chosen, **pixels}})


def file_bytes(name):
    return (FILES / name).read_bytes()


def ct():
    """pydicom's small CT as a data set (128 x 128, 16 bit)."""
    return pydicom.dcmread(FILES / "CT_small.dcm")


def image(pixels, *, patient="P1", study=None, series=None, instance=None, modality="CR"):
    """A minimal image of ``pixels``: uint8 or uint16, (H, W) or (H, W, 3)."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CR
    ds.SOPInstanceUID = instance or generate_uid()
    ds.StudyInstanceUID = study or generate_uid()
    ds.SeriesInstanceUID = series or generate_uid()
    ds.PatientID, ds.PatientName = patient, f"{TOKEN}^{patient}"
    ds.StudyDate, ds.StudyTime = "20010203", "040506"
    ds.Modality = modality
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    ds.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.dtype.itemsize
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, 0
    ds.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    ds["PixelData"].VR = "OW" if pixels.dtype.itemsize == 2 else "OB"
    return ds


def encoded(ds):
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def clean(source, profile=None, secret=SECRET):
    """De-identify, insisting that it is not quarantined; return the outcome and its data set."""
    outcome = Deidentifier(secret, profile).deidentify(source)
    assert isinstance(outcome, Cleaned), outcome
    return outcome, pydicom.dcmread(BytesIO(outcome.data))


def noise(shape, seed=0, dtype=np.uint8):
    """Smooth noise, as an image might be."""
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(np.random.default_rng(seed).normal(size=shape[:2]), 3)
    field = (field - field.min()) / (field.max() - field.min()) * 200
    grey = field.astype(dtype)
    return np.repeat(grey[..., None], 3, axis=2) if len(shape) == 3 else grey
