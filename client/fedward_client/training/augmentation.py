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

VIEW_BYTES = 4 * DRAWS
"""Random bytes that a view takes."""


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
    return uniform(random(count * VIEW_BYTES))


def uniform(drawn: bytes) -> NDArray[np.float32]:
    """Return random bytes, ``VIEW_BYTES`` a view, as uniform float32 (views, DRAWS) in [-1, 1)."""
    words = np.frombuffer(drawn, dtype="<u4").reshape(-1, DRAWS)
    return ((words >> 8) * 2.0**-23 - 1.0).astype(np.float32)


def views(images: Tensor, draws: Tensor, augmentation: Augmentation) -> Tensor:
    """Return float32 (N * copies, C, H, W): ``copies`` consecutive views of each image.

    Args:
        images: float32 (N, C, H, W), standardised. Vectors (N, F) pass only unchanged.
        draws: float32 (N * copies, DRAWS) from :func:`draw`.
        augmentation: What the draws mean; edges are extended, sampling is bilinear.
    """
    copies = augmentation.copies
    if not augmentation.changes_images:
        return torch.repeat_interleave(images, copies, dim=0)
    count, channels, height, width = images.shape
    # An image's views are sampled as one picture, one below the other.
    places = _places(draws, height, width, augmentation).view(count, copies * height, width, 2)
    moved = functional.grid_sample(images, places, padding_mode="border", align_corners=False)
    moved = moved.view(count, channels, copies, height, width).transpose(1, 2)
    contrast, brightness = (draws[:, 6:8] * augmentation.intensity).view(count, copies, 2).unbind(2)
    shown = torch.addcmul(_spread(brightness), moved, _spread(1 + contrast))
    return shown.reshape(count * copies, channels, height, width)


def _spread(values: Tensor) -> Tensor:
    """(N, copies) -> (N, copies, 1, 1, 1)."""
    return values[:, :, None, None, None]


def _places(draws: Tensor, height: int, width: int, augmentation: Augmentation) -> Tensor:
    """Where each pixel of each view is read, float32 (views, H, W, 2): x and y from -1 to 1.

    Each is linear in the pixel's column plus linear in its row: two additions to a broadcast.
    """
    angle = draws[:, 0] * (augmentation.rotation * math.pi / 180)
    wide, high = (1 + draws[:, 1:3] * augmentation.zoom).unbind(1)
    right, down = (draws[:, 3:5] * (2 * augmentation.shift)).unbind(1)
    mirrored = torch.where(draws[:, 5] < 0, -wide, wide) if augmentation.flip else wide
    cosine, sine = torch.cos(angle), torch.sin(angle)
    columns, rows = (_centres(side, draws) for side in (width, height))
    places = draws.new_empty((len(draws), height, width, 2))
    for axis, (per_column, per_row, shift) in enumerate(
        ((cosine * mirrored, -sine * high, right), (sine * mirrored, cosine * high, down))
    ):
        across = per_column[:, None] * columns
        along = torch.addcmul(shift[:, None], per_row[:, None], rows)
        torch.add(across[:, None, :], along[:, :, None], out=places[..., axis])
    return places


def _centres(side: int, like: Tensor) -> Tensor:
    """Where the centres of ``side`` pixels lie between -1 and 1."""
    return (2 * torch.arange(side, dtype=like.dtype, device=like.device) + 1) / side - 1
