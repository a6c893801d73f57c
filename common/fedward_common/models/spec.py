"""What a study trains: the part of a plan that fixes a model's shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from fedward_common.errors import OperatorError

Kind = Literal["cnn", "cnn-classic", "svm"]
Features = Literal["scattering", "hog", "columns"]
Multiclass = Literal["ovr", "crammer-singer"]

MIN_SIDE = 28
MAX_SIDE = 224
"""Pixels on a side that the image models accept."""

MAX_CLASSES = 64
MAX_COLUMNS = 4096
MAX_WIDTH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model's shape; it holds no parameter and no choice of optimisation.

    Attributes:
        kind: ``cnn`` (small, tanh and GroupNorm), ``cnn-classic`` (Conv32-Conv64-Dense128) or
            ``svm`` (a linear hinge on fixed features).
        input_shape: (channels, side, side) of an image in [0, 1], or (columns,) of a table row.
        classes: Number of classes, two or more. Two classes share one output, the margin of
            class 1; more classes have one output each.
        features: The feature map of an ``svm``. A ``cnn`` may see scattering maps, its first
            layers then being public and fixed; None: a network sees the image.
        width: Channels of the first stage of ``cnn``, a multiple of 4; later stages have twice.
        multiclass: How an ``svm`` of three or more classes compares them.

    Raises:
        OperatorError: A field is out of range or two fields contradict; every defect is named.
    """

    kind: Kind
    input_shape: tuple[int, ...]
    classes: int = 2
    features: Features | None = None
    width: int = 16
    multiclass: Multiclass = "ovr"

    def __post_init__(self) -> None:
        defects = [*_choice_defects(self), *_shape_defects(self)]
        if defects:
            raise OperatorError("; ".join(defects))

    @property
    def outputs(self) -> int:
        """Numbers the model computes per input: 1 for two classes, else one per class."""
        return 1 if self.classes == 2 else self.classes

    @property
    def is_image(self) -> bool:
        """Whether the raw input is an image rather than a table row."""
        return len(self.input_shape) == 3

    @property
    def channels(self) -> int:
        """Channels of an image, columns of a table row: the length of a moments query."""
        return self.input_shape[0]

    @property
    def raw_values(self) -> int:
        """Numbers in one raw input."""
        return math.prod(self.input_shape)


def _choice_defects(spec: ModelSpec) -> list[str]:
    defects = [
        f"model.{name}: {value!r} is not one of {', '.join(map(repr, allowed))}"
        for name, value, allowed in (
            ("kind", spec.kind, get_args(Kind)),
            ("multiclass", spec.multiclass, get_args(Multiclass)),
        )
        if value not in allowed
    ]
    if spec.kind == "svm" and spec.features not in get_args(Features):
        defects.append("model.features: an svm needs 'scattering', 'hog' or 'columns'")
    if spec.kind == "cnn" and spec.features not in (None, "scattering"):
        defects.append("model.features: a cnn takes 'scattering', or the image: leave it out")
    if spec.kind == "cnn-classic" and spec.features is not None:
        defects.append("model.features: cnn-classic takes the image itself; leave it out")
    if not 2 <= spec.classes <= MAX_CLASSES:
        defects.append(f"model.classes: {spec.classes} is not between 2 and {MAX_CLASSES}")
    if not 4 <= spec.width <= MAX_WIDTH or spec.width % 4:
        defects.append(f"model.width: {spec.width} is not a multiple of 4 from 4 to {MAX_WIDTH}")
    return defects


def _shape_defects(spec: ModelSpec) -> list[str]:
    shape = spec.input_shape
    if spec.features == "columns":
        if len(shape) == 1 and 1 <= shape[0] <= MAX_COLUMNS:
            return []
        return [f"model.input_shape: {shape} must be (columns,), 1 to {MAX_COLUMNS} of them"]
    if len(shape) != 3:
        return [f"model.input_shape: {shape} must be (channels, side, side)"]
    channels, height, width = shape
    if channels in (1, 3) and height == width and MIN_SIDE <= height <= MAX_SIDE:
        return []
    sides = f"{MIN_SIDE} to {MAX_SIDE}"
    return [f"model.input_shape: {shape} must have 1 or 3 channels and a square side of {sides} px"]
