"""Fixed feature maps of the linear models: computed once per image, cached by the caller.

Every constant here is public and the same for all data (B2), so a feature vector costs no
privacy. Scattering's paths differ in magnitude; fixed constants centre and scale them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.feature import hog
from torch.nn import functional

from fedward_common.models import scattering
from fedward_common.models.spec import ModelSpec

FeatureMap = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""float32 (N, *spec.input_shape) -> float32 (N, *model_input_shape(spec))."""

WORKING_SIDE = 28
"""Images are first averaged by a whole factor to between this and about twice this many pixels."""

SCATTERING_GRID = 4
"""Side of the grid that each scattering path is averaged to."""

REFERENCE = ((1, 0.5, 0.11), (8, 0.024, 0.006), (8, 0.023, 0.0086), (64, 0.0021, 0.0009))
"""Paths, mean and deviation of orders 0, 1 (fine), 1 (coarse) and 2 of scattering, measured on
random textures of 1/f spectrum, the statistics of natural images (Field 1987): no image of any
patient was used."""

HOG_BLOCK = 2
HOG_CELL_DIVISIONS = 7
HOG_ANGLES = 8
"""HOG: 7 x 7 cells, blocks of 2 x 2, 8 unsigned angles (Dalal and Triggs 2005, L2-Hys)."""

CHUNK = 64
"""Images transformed at a time: bounds memory."""


def feature_count(spec: ModelSpec) -> int:
    """Return F, the length of the vector that an ``svm`` sees."""
    if spec.features == "columns":
        return spec.channels
    if spec.features == "hog":
        blocks = HOG_CELL_DIVISIONS - HOG_BLOCK + 1
        return spec.channels * blocks**2 * HOG_BLOCK**2 * HOG_ANGLES
    return spec.channels * scattering.PATHS * SCATTERING_GRID**2


def model_input_shape(spec: ModelSpec) -> tuple[int, ...]:
    """Return the shape of one input as the model and training see it: an image or (F,)."""
    return spec.input_shape if spec.kind != "svm" else (feature_count(spec),)


def feature_map(spec: ModelSpec) -> FeatureMap:
    """Return the map from raw inputs to model inputs; the identity for networks and columns."""
    if spec.features == "scattering":
        return _scattering
    if spec.features == "hog":
        return _hog
    return _identity


def _identity(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(inputs, dtype=np.float32)


def _scattering(images: NDArray[np.float32]) -> NDArray[np.float32]:
    count, channels, side, _ = images.shape
    paths = torch.tensor([row[0] for row in REFERENCE])
    mean, deviation = (
        torch.repeat_interleave(torch.tensor([row[i] for row in REFERENCE]), paths).view(-1, 1, 1)
        for i in (1, 2)
    )
    scale = deviation * math.sqrt(channels * scattering.PATHS * SCATTERING_GRID**2)
    pool = max(1, side // WORKING_SIDE)
    planes = torch.from_numpy(_identity(images)).view(count * channels, 1, side, side)
    vectors = [
        functional.adaptive_avg_pool2d(
            (scattering.scatter(functional.avg_pool2d(chunk, pool)[:, 0]) - mean) / scale,
            SCATTERING_GRID,
        )
        for chunk in torch.split(planes, CHUNK)
    ]
    result: NDArray[np.float32] = torch.cat(vectors).reshape(count, -1).numpy()
    return result


def _hog(images: NDArray[np.float32]) -> NDArray[np.float32]:
    side = images.shape[2]
    cell = side // HOG_CELL_DIVISIONS
    kept = cell * HOG_CELL_DIVISIONS
    start = (side - kept) // 2
    inner = images[:, :, start : start + kept, start : start + kept]
    blocks = (HOG_CELL_DIVISIONS - HOG_BLOCK + 1) ** 2
    scale = 1.0 / math.sqrt(images.shape[1] * blocks)  # every block has norm one at most
    rows = [np.concatenate([_hog_plane(plane, cell) for plane in image]) for image in inner]
    return np.stack(rows).astype(np.float32) * np.float32(scale)


def _hog_plane(plane: NDArray[np.float32], cell: int) -> NDArray[np.float64]:
    result: NDArray[np.float64] = hog(
        plane,
        orientations=HOG_ANGLES,
        pixels_per_cell=(cell, cell),
        cells_per_block=(HOG_BLOCK, HOG_BLOCK),
        block_norm="L2-Hys",
    )
    return result
