"""Score histogram: what AUC, accuracy, F1 and calibration are computed from.

For each scored class (the second alone when there are two) a patient falls in one bin of the
histogram of its own side: [class absent, class present] x bins. With more than two classes it also
falls in one cell of the confusion matrix. Its L2 norm is therefore a public constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Layout:
    """Where each number stands in the vector."""

    classes: int
    bins: int

    @property
    def scored(self) -> int:
        """Classes that have a histogram of their own."""
        return 1 if self.classes == 2 else self.classes

    @property
    def confusion_cells(self) -> int:
        """Cells of the confusion matrix: none for two classes, where a threshold gives it."""
        return 0 if self.classes == 2 else self.classes**2

    @property
    def dimension(self) -> int:
        """Length of the vector."""
        return self.scored * 2 * self.bins + self.confusion_cells

    @property
    def clip(self) -> float:
        """L2 norm of every patient's vector: one cell a histogram, one in the matrix."""
        return math.sqrt(self.scored + (self.confusion_cells > 0))

    def vector(self, scores: NDArray[np.float32], label: int) -> NDArray[np.float64]:
        """One patient's vector from its class scores ``(classes,)`` in [0, 1].

        A non-finite score counts as 0, so that a hostile model changes nothing observable (B1).
        """
        clean = np.clip(np.nan_to_num(scores.astype(np.float64), posinf=0.0, neginf=0.0), 0.0, 1.0)
        out = np.zeros(self.dimension)
        for row in range(self.scored):
            cls = 1 if self.classes == 2 else row
            cell = min(int(clean[cls] * self.bins), self.bins - 1)
            out[(2 * row + int(label == cls)) * self.bins + cell] = 1.0
        if self.confusion_cells:
            start = self.scored * 2 * self.bins
            out[start + label * self.classes + int(np.argmax(clean))] = 1.0
        return out

    def histograms(self, total: NDArray[np.float64]) -> NDArray[np.float64]:
        """The noised histograms: ``(scored, 2, bins)``, axis 1 = [class absent, present]."""
        return total[: self.scored * 2 * self.bins].reshape(self.scored, 2, self.bins)

    def confusion(self, total: NDArray[np.float64]) -> NDArray[np.float64]:
        """The noised confusion matrix ``(classes, classes)``: true class by predicted class."""
        if self.confusion_cells:
            return total[self.scored * 2 * self.bins :].reshape(self.classes, self.classes)
        absent, present = self.histograms(total)[0]
        middle = self.bins // 2
        return np.array(
            [
                [absent[:middle].sum(), absent[middle:].sum()],
                [present[:middle].sum(), present[middle:].sum()],
            ]
        )
