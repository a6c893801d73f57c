"""Random views of an image, so that a patient's gradient averages over nuisance variation.

Views of one patient cost no privacy: they are averaged before the patient's vector is clipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedward_common.errors import OperatorError
from fedward_common.randomness import RandomBytes

DRAWS = 8
"""Uniform numbers per view, drawn whether used or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How views are drawn; part of the plan. Each amount is the half-width of a uniform law.

    Attributes:
        copies: Views per image, 1 or more; every view is augmented.
        shift: Translation along each axis, as a share of the side.
        rotation: Rotation in degrees.
        zoom: Relative change of size, for each axis.
        flip: Whether half of the views are mirrored left to right.
        intensity: Relative contrast and, in standardised units, absolute brightness.

    Raises:
        OperatorError: A value is out of range.
    """

    copies: int = 1
    shift: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0
    flip: bool = False
    intensity: float = 0.0

    def __post_init__(self) -> None:
        limits = {"shift": 0.5, "rotation": 180.0, "zoom": 0.5, "intensity": 1.0}
        defects = [
            f"augmentation.{name}: {getattr(self, name)} is not between 0 and {limit}"
            for name, limit in limits.items()
            if not 0 <= getattr(self, name) <= limit
        ]
        if not 1 <= self.copies <= 64:
            defects.append(f"augmentation.copies: {self.copies} is not between 1 and 64")
        if defects:
            raise OperatorError("; ".join(defects))

    @property
    def changes_images(self) -> bool:
        """Whether a view can differ from its image."""
        return self.flip or max(self.shift, self.rotation, self.zoom, self.intensity) > 0


def draw(count: int, random: RandomBytes) -> NDArray[np.float32]:
    """Return what ``count`` views are made from: uniform float32 (count, DRAWS) in [-1, 1)."""
    words = np.frombuffer(random(4 * count * DRAWS), dtype="<u4").reshape(count, DRAWS)
    return ((words >> 8) * 2.0**-23 - 1.0).astype(np.float32)


def views(images: Tensor, draws: Tensor, augmentation: Augmentation) -> Tensor:
    """Return float32 (N * copies, C, H, W): ``copies`` consecutive views of each image.

    Args:
        images: float32 (N, C, H, W), standardised. Vectors (N, F) pass only unchanged.
        draws: float32 (N * copies, DRAWS) from :func:`draw`.
        augmentation: What the draws mean; edges are extended, sampling is bilinear.
    """
    repeated = torch.repeat_interleave(images, augmentation.copies, dim=0)
    if not augmentation.changes_images:
        return repeated
    maps = _affine(draws, augmentation)
    grid = functional.affine_grid(maps, list(repeated.shape), align_corners=False)
    moved = functional.grid_sample(repeated, grid, padding_mode="border", align_corners=False)
    contrast, brightness = (draws[:, 6:8] * augmentation.intensity).unbind(1)
    return moved * (1 + contrast)[:, None, None, None] + brightness[:, None, None, None]


def _affine(draws: Tensor, augmentation: Augmentation) -> Tensor:
    """(N, 2, 3) maps from output to input coordinates, which run from -1 to 1."""
    angle = draws[:, 0] * (augmentation.rotation * math.pi / 180)
    wide, high = (1 + draws[:, 1:3] * augmentation.zoom).unbind(1)
    right, down = (draws[:, 3:5] * (2 * augmentation.shift)).unbind(1)
    mirror = torch.where(draws[:, 5] < 0, -1.0, 1.0) if augmentation.flip else 1.0
    cosine, sine = torch.cos(angle), torch.sin(angle)
    first = torch.stack([mirror * cosine * wide, -sine * high, right], dim=1)
    second = torch.stack([mirror * sine * wide, cosine * high, down], dim=1)
    return torch.stack([first, second], dim=1)
