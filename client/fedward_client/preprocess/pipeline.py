"""The pipeline: choose frames, crop, scale by modality, set channels, enhance, segment, resize.

An 8-bit grey image that already has the plan's size comes out as exactly value / 255.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from skimage import exposure, restoration, transform

from fedward_client.preprocess.foreground import keep_foreground
from fedward_client.preprocess.grey import scaling_for
from fedward_client.preprocess.spec import PreprocessSpec
from fedward_client.preprocess.values import Grey, clipped, number
from fedward_common.errors import OperatorError

Images = NDArray[np.float32]
_ENDS = tuple(f"RegionLocation{end}" for end in ("MinX0", "MinY0", "MaxX1", "MaxY1"))
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def preprocess_file(data: bytes, spec: PreprocessSpec) -> Images:
    """Preprocess a cleaned DICOM file, as the vault holds it."""
    return preprocess(dcmread(BytesIO(data)), spec)


def preprocess(instance: Dataset, spec: PreprocessSpec) -> Images:
    """Return a cleaned instance as float32 images (frames, channels, size, size) in [0, 1].

    The de-identifier wrote it, so its pixels are native grey or interleaved RGB.
    """
    stored = _stored(instance)
    numbers = _chosen(stored.shape[0], spec.max_frames)
    stored = _region(stored[list(numbers)], instance)
    if stored.shape[-1] == 1:
        grey = Grey(stored[..., 0].astype(np.float32), instance, numbers)
        scaled = scaling_for(instance)(grey, spec)[..., None]
    else:
        scaled = stored.astype(np.float32) / np.float32((1 << int(instance.BitsStored)) - 1)
    return _finished(scaled, spec)


def preprocess_array(images: NDArray[np.uint8], spec: PreprocessSpec) -> Images:
    """Preprocess an array of 8-bit images (N, H, W) or (N, H, W, 3), each an image of its own.

    Gives what :func:`preprocess` gives for the same image in a plain 8-bit instance.

    Raises:
        OperatorError: not uint8, or another shape.
    """
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] not in ((), (3,)):
        raise OperatorError("image array: it must be uint8 of shape (N, H, W) or (N, H, W, 3)")
    stacked = images[..., None] if images.ndim == 3 else images
    return _finished(stacked.astype(np.float32) / np.float32(255), spec)


def _stored(instance: Dataset) -> NDArray[Any]:
    bits = int(instance.BitsAllocated)
    kind = np.dtype(f"<{'i' if instance.PixelRepresentation == 1 else 'u'}{bits // 8}")
    shape = (
        int(instance.get("NumberOfFrames") or 1),
        int(instance.Rows),
        int(instance.Columns),
        int(instance.SamplesPerPixel),
    )
    return np.frombuffer(instance.PixelData, kind, int(np.prod(shape))).reshape(shape)


def _chosen(frames: int, limit: int) -> tuple[int, ...]:
    """At most ``limit`` frame numbers, evenly spaced, the first and the last among them."""
    if frames <= limit:
        return tuple(range(frames))
    return tuple(np.round(np.linspace(0, frames - 1, limit)).astype(int).tolist())


def _region(frames: NDArray[Any], instance: Dataset) -> NDArray[Any]:
    """Crop an ultrasound image to its largest declared region (PS3.3 C.8.5.5).

    A region without all four ends, or with ends in reverse, is none.
    """
    regions = instance.get("SequenceOfUltrasoundRegions") or []
    boxes = [[int(number(item, end, -1)) for end in _ENDS] for item in regions]
    boxes = [box for box in boxes if 0 <= box[0] <= box[2] and 0 <= box[1] <= box[3]]
    if not boxes:
        return frames
    x0, y0, x1, y1 = max(boxes, key=lambda box: (box[2] + 1 - box[0]) * (box[3] + 1 - box[1]))
    cropped = frames[:, y0 : y1 + 1, x0 : x1 + 1]
    return cropped if cropped.size else frames


def _finished(images: Images, spec: PreprocessSpec) -> Images:
    """Set channels, enhance, resize: (N, H, W, samples) to (N, channels, size, size)."""
    coloured = _with_channels(images, spec.channels)
    out = np.empty((images.shape[0], spec.size, spec.size, spec.channels), dtype=np.float32)
    for index, image in enumerate(coloured):
        out[index] = _resized(_enhanced(image, spec), spec.size)
    return np.ascontiguousarray(out.transpose(0, 3, 1, 2))


def _with_channels(images: Images, channels: int) -> Images:
    if images.shape[-1] == channels:
        return images
    if channels == 1:
        return cast("Images", (images @ _LUMINANCE)[..., None])
    return np.repeat(images, channels, axis=-1)


def _noise(image: Images) -> float:
    """Standard deviation of the noise (Immerkaer 1996): a Laplacian mask that images pass through.

    The mask is the difference of two Laplacians, so edges and slopes largely cancel.
    """
    d = np.diff(np.diff(image, n=2, axis=0), n=2, axis=1)
    return float(np.sqrt(np.pi / 2) * np.abs(d).mean() / 6) if d.size else 0.0


def _enhanced(image: Images, spec: PreprocessSpec) -> Images:
    """Denoise (non-local means, Buades 2005), segment, equalise (CLAHE, Zuiderveld 1994)."""
    if spec.denoise:
        sigma = _noise(image)
        options = {"h": spec.denoise_strength * sigma, "sigma": sigma, "channel_axis": -1}
        image = restoration.denoise_nl_means(image, **options).reshape(image.shape)
    image = keep_foreground(image, spec)
    if spec.clahe:
        layers = [
            exposure.equalize_adapthist(image[..., c], clip_limit=spec.clahe_clip)
            for c in range(image.shape[-1])
        ]
        image = np.stack(layers, axis=-1)
    return clipped(image)


def _resized(image: Images, size: int) -> Images:
    """Bilinear with an anti-aliasing filter; an image that has the size keeps every value."""
    if image.shape[:2] == (size, size):
        return image
    shrinks = max(image.shape[:2]) > size
    resized = transform.resize(  # type: ignore[no-untyped-call]
        image, (size, size), order=1, anti_aliasing=shrinks
    )
    return clipped(resized)
