"""Leading eigenvectors of a symmetric matrix, the same bits on every machine.

LAPACK's results differ in their last bits between builds, and in their first where eigenvalues
nearly meet, as those of noise do. Here every product is exact instead: matrices and vectors are
rounded to integers of 20 bits, so that sums of up to 2^12 products stay below 2^53 and no order of
summation, no fused instruction and no number of threads can change them, but for the sign of a
zero, which is dropped. All else is element by element, which IEEE 754 fixes.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from fedward_common.errors import MisuseError

Matrix = NDArray[np.float64]

BITS = 20
MAX_SIDE = 2 ** (52 - 2 * BITS)
"""Largest matrix: 4096 products of two 20-bit integers sum to 2^52 at most."""

ITERATIONS = 60
"""Directions a factor of 1.2 apart in eigenvalue are then separated to four digits."""

_PASSES = 2
_LARGEST = 2.0**BITS - 1.0


def principal(matrix: Matrix, count: int) -> tuple[Matrix, Matrix]:
    """The ``count`` directions of largest absolute eigenvalue, by orthogonal iteration.

    Golub and Van Loan, "Matrix computations", 8.2.4. Where ``matrix`` has a lower rank, the
    directions beyond it are zero.

    Args:
        matrix: float64 (F, F), symmetric and finite, F at most :data:`MAX_SIDE`.
        count: k, from 1 to F.

    Returns:
        Directions as columns, float64 (F, k), orthonormal to about five digits, and their Rayleigh
        quotients (k,), in the order in which the iteration finds them: the largest first.

    Raises:
        MisuseError: a size is out of range.
    """
    side = len(matrix)
    if not 1 <= count <= side <= MAX_SIDE:
        raise MisuseError(f"{count} directions of a matrix of side {side}")
    whole, unit = _rounded(matrix)
    basis = _orthogonal(_start(side, count))
    for _ in range(ITERATIONS):
        basis = _orthogonal(whole @ basis)
    squares = (basis * basis).sum(axis=0)  # of integers below 2^20: exact
    image, scale = _rounded(whole @ basis)
    safe = np.where(squares > 0.0, squares, 1.0)
    values = (basis * image).sum(axis=0) * scale * unit / safe
    return basis / np.sqrt(safe), values + 0.0


def _rounded(matrix: Matrix) -> tuple[Matrix, float]:
    """Integers of 20 bits, no zero negative, and the power of two to multiply them by."""
    largest = float(np.abs(matrix).max())
    if largest == 0.0:
        return np.zeros_like(matrix), 1.0
    unit = math.ldexp(1.0, math.frexp(largest)[1] - BITS)
    return np.clip(np.rint(matrix / unit), -_LARGEST, _LARGEST) + 0.0, unit


def _orthogonal(columns: Matrix) -> Matrix:
    """Make integer columns orthogonal in their order, integers of 20 bits again.

    Gram-Schmidt, twice, because rounding to 20 bits undoes a little of the first pass.
    """
    basis = np.zeros_like(columns)
    for place in range(columns.shape[1]):
        column = _rounded(columns[:, place])[0]
        for _ in range(_PASSES):
            inner = basis[:, :place].T @ column
            for earlier in range(place):
                square = float(basis[:, earlier] @ basis[:, earlier])
                if square > 0.0:
                    column = column - (float(inner[earlier]) / square) * basis[:, earlier]
            column = _rounded(column)[0]
        basis[:, place] = column
    return basis


def _start(side: int, count: int) -> Matrix:
    """Public directions to begin with, the same for everybody: words of SHAKE-256."""
    stream = hashlib.shake_256(b"fedward principal components").digest(8 * side * count)
    words = np.frombuffer(stream, dtype="<u8")
    signed = (words >> np.uint64(64 - BITS - 1)).astype(np.float64) - 2.0**BITS
    return signed.reshape(side, count)
