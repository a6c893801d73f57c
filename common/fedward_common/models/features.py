"""Fixed feature maps: computed once per image, cached by the caller.

Every constant here is public and the same for all data (B2), so a feature vector costs no
privacy. Scattering's paths differ in magnitude; fixed constants centre and scale them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.feature import hog
from torch import Tensor
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
    """Return the shape of one input as the model sees it: an image, maps (C, S, S) or (F,)."""
    if spec.features is None:
        return spec.input_shape
    if spec.kind == "svm":
        return (feature_count(spec),)
    side = spec.input_shape[1] // _pool(spec.input_shape[1])
    grid = -(-side // 2**scattering.SCALES)
    return (spec.channels * scattering.PATHS, grid, grid)


def feature_map(spec: ModelSpec) -> FeatureMap:
    """Return the map from raw inputs to model inputs; the identity for images and columns."""
    if spec.features == "scattering":
        return _scattering if spec.kind == "svm" else _scattering_maps
    if spec.features == "hog":
        return _hog
    return _identity


def _identity(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(inputs, dtype=np.float32)


def _scattering(images: NDArray[np.float32]) -> NDArray[np.float32]:
    scale = math.sqrt(images.shape[1] * scattering.PATHS * SCATTERING_GRID**2)
    vectors = [
        functional.adaptive_avg_pool2d(maps / scale, SCATTERING_GRID) for maps in _scattered(images)
    ]
    result: NDArray[np.float32] = torch.cat(vectors).reshape(len(images), -1).numpy()
    return result


def _scattering_maps(images: NDArray[np.float32]) -> NDArray[np.float32]:
    planes = torch.cat(list(_scattered(images)))
    result: NDArray[np.float32] = planes.reshape(len(images), -1, *planes.shape[2:]).numpy()
    return result


def _scattered(images: NDArray[np.float32]) -> Iterator[Tensor]:
    """Every plane's paths (PATHS, grid, grid), centred and scaled, in chunks of planes."""
    side = images.shape[2]
    paths = torch.tensor([row[0] for row in REFERENCE])
    mean, deviation = (
        torch.repeat_interleave(torch.tensor([row[i] for row in REFERENCE]), paths).view(-1, 1, 1)
        for i in (1, 2)
    )
    planes = torch.from_numpy(_identity(images)).view(-1, 1, side, side)
    for chunk in torch.split(planes, CHUNK):
        pooled = functional.avg_pool2d(chunk, _pool(side))[:, 0]
        yield (scattering.scatter(pooled) - mean) / deviation


def _pool(side: int) -> int:
    """The whole factor by which an image of ``side`` pixels is first averaged."""
    return max(1, side // WORKING_SIDE)


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
