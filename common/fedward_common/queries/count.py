"""Cohort count: how many patients of each class there are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def dimension(classes: int) -> int:
    """One coordinate per class."""
    return classes


CLIP = 1.0
"""L2 norm of a one-hot vector: what one patient can change."""


def vector(label: int, classes: int) -> NDArray[np.float64]:
    """One patient's vector: shape ``(classes,)``, 1 at the label."""
    out = np.zeros(classes)
    out[label] = 1.0
    return out
