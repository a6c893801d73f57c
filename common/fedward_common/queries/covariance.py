"""Second moments of the inputs, and the principal components that follow from them.

A patient's vector is the upper triangle of the mean over images of x x^T, off-diagonal entries
times sqrt(2): its L2 norm then is the matrix's Frobenius norm, which one clip bounds by C^2. One
noised sum is the "Analyze Gauss" algorithm of Dwork, Talwar, Thakurta and Zhang 2014. What follows
is post-processing, and every member computes it to the same bits (docs/adr/0021).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fedward_common.eigen import principal

Matrix = NDArray[np.float64]

MINIMUM_SPREAD = 1e-6
"""Least squared length of a typical projected input: noise may leave eigenvalues below zero."""


def dimension(columns: int) -> int:
    """Entries of the upper triangle, diagonal included."""
    return columns * (columns + 1) // 2


def clip(norm: float) -> float:
    """Largest L2 norm of a patient's vector, for inputs of norm ``norm``."""
    return norm * norm


def moment(inputs: NDArray[np.float32], mean: Matrix, scale: Matrix, norm: float) -> Matrix:
    """One patient's second moment: float64 (F, F), clipped once to Frobenius norm ``norm**2``.

    Args:
        inputs: float32 (images, F); an entry that is not finite counts as zero.
        mean: public centre, (F,).
        scale: public scale, (F,).
        norm: C, the norm of an input up to which nothing is clipped.
    """
    rows = (np.nan_to_num(inputs.astype(np.float64), posinf=0.0, neginf=0.0) - mean) / scale
    second: Matrix = rows.T @ rows / len(rows)
    length = float(np.linalg.norm(second))
    return second * min(1.0, clip(norm) / length) if length > 0.0 else second


def flatten(matrix: Matrix) -> Matrix:
    """A symmetric (F, F) matrix as a vector (F (F + 1) / 2,) of the same norm."""
    rows, columns = np.triu_indices(len(matrix))
    return np.asarray(matrix[rows, columns] * np.where(rows == columns, 1.0, math.sqrt(2.0)))


def unflatten(vector: Matrix, columns: int) -> Matrix:
    """The symmetric (F, F) matrix of :func:`flatten`."""
    down, right = np.triu_indices(columns)
    matrix = np.zeros((columns, columns))
    matrix[down, right] = vector / np.where(down == right, 1.0, math.sqrt(2.0))
    matrix[right, down] = matrix[down, right]
    return matrix


def total(
    patients: Iterable[NDArray[np.float32]], mean: Matrix, scale: Matrix, norm: float
) -> Matrix:
    """The sum of the patients' vectors, float64 (F (F + 1) / 2,)."""
    summed = np.zeros((len(mean), len(mean)))
    for inputs in patients:
        summed += moment(inputs, mean, scale, norm)
    return flatten(summed)


def interpret(summed: Matrix, divisor: float, columns: int, components: int) -> Matrix:
    """The projection (F, k) onto the leading directions, from the noised sum.

    It is scaled so that a typical projected input has length one, whatever the inputs' units.
    """
    vectors, values = principal(unflatten(summed / divisor, columns), components)
    spread = 0.0
    for value in values:  # in this order everywhere: the same bits
        spread += max(float(value), 0.0)
    return np.asarray(vectors / math.sqrt(max(spread, MINIMUM_SPREAD)))


def project(
    inputs: NDArray[np.float32], mean: Matrix, scale: Matrix, projection: Matrix
) -> NDArray[np.float32]:
    """Inputs (m, F) as components (m, k), float32; not-a-number in, not-a-number out."""
    with np.errstate(all="ignore"):  # whatever a patient's data or a hostile sum holds (B2)
        rows = (inputs.astype(np.float64) - mean) / scale
        return np.asarray((rows @ projection).astype(np.float32))
