"""Two-dimensional Morlet scattering: fixed features that are stable to small deformations.

Mallat 2012, "Group invariant scattering"; Bruna and Mallat 2013, "Invariant scattering
convolution networks". Orders 0 to 2: averages of x, of |x * psi_1| and of ||x * psi_1| * psi_2|
over windows of 2**J pixels, with psi_2 coarser than psi_1. The filters are those of the papers
(slant 4 / L, xi 3 pi / 4, sigma 0.8); nothing is learned and nothing depends on data (B2).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

SCALES = 2
"""J: the coarsest averaging is over 2**J pixels."""

ANGLES = 8
"""L: orientations of the wavelets."""

PATHS = 1 + SCALES * ANGLES + ANGLES**2 * SCALES * (SCALES - 1) // 2
"""Scattering paths: 1 of order 0, J L of order 1 and L^2 J (J - 1) / 2 of order 2."""

MARGIN = 2 ** (SCALES + 1)
"""Pixels of reflection around the image, so that its opposite edges do not meet."""


@dataclass(frozen=True, slots=True)
class _Bank:
    """The filters for one padded size S.

    ``wavelets`` are real Fourier transforms (J, L, S, S). ``low`` (grid, S) is the Gaussian
    low-pass of one axis at every 2**J-th pixel inside the margin: it is separable, so two small
    matrix products replace two Fourier transforms for each of the many averages.
    """

    low: Tensor
    wavelets: Tensor


def scatter(images: Tensor) -> Tensor:
    """Return the scattering of float32 (N, side, side) as float32 (N, PATHS, grid, grid).

    ``grid`` is ``ceil(side / 2**J)``. Paths are in the order 0, then 1 by (j, angle), then 2 by
    (j1, angle1, j2, angle2). The wavelets' frame bound is at most one, so the transform does not
    expand distances between padded images.
    """
    padded = functional.pad(images[:, None], (MARGIN,) * 4, mode="reflect")[:, 0]
    bank = _bank(padded.shape[-1])
    spectrum = torch.fft.fft2(padded)
    paths = [_average(padded, bank)[:, None]]
    deeper: list[Tensor] = []
    for j1 in range(SCALES):
        first = _modulus(spectrum, bank.wavelets[j1])
        paths.append(_average(first, bank))
        for j2 in range(j1 + 1, SCALES):
            second = _modulus(torch.fft.fft2(first), bank.wavelets[j2])
            deeper.append(_average(second, bank).flatten(1, 2))
    return torch.cat([*paths, *deeper], dim=1)


def _modulus(spectrum: Tensor, wavelets: Tensor) -> Tensor:
    """|x * psi| for each angle: (..., S, S) with (L, S, S) gives real (..., L, S, S)."""
    result: Tensor = torch.fft.ifft2(spectrum.unsqueeze(-3) * wavelets).abs()
    return result


def _average(maps: Tensor, bank: _Bank) -> Tensor:
    """The low-pass of each map (..., S, S), without the margin: (..., grid, grid)."""
    return bank.low @ maps @ bank.low.T


@functools.lru_cache(maxsize=8)
def _bank(size: int) -> _Bank:
    axis = _gaussian_axis(size)
    low = np.fft.fft(axis).real
    wavelets = np.stack(
        [
            [_morlet(size, scale, math.pi * angle / ANGLES) for angle in range(ANGLES)]
            for scale in range(SCALES)
        ]
    )
    # Littlewood-Paley sum: for real images psi covers w and -w, hence the half.
    mirrored = np.roll(wavelets[..., ::-1, ::-1], (1, 1), (-2, -1))
    energy = np.outer(low, low) ** 2 + 0.5 * (wavelets**2 + mirrored**2).sum(axis=(0, 1))
    wavelets /= math.sqrt(float(energy.max()))
    step = 2**SCALES
    centres = range(MARGIN + step // 2, size - MARGIN + step // 2, step)
    rows = np.stack([np.roll(axis, centre) for centre in centres])
    return _Bank(
        torch.from_numpy(rows.astype(np.float32)),
        torch.from_numpy(wavelets.astype(np.float32)),
    )


def _gaussian_axis(size: int) -> NDArray[np.float64]:
    """The low-pass along one axis: a Gaussian of sigma 0.8 * 2**(J-1), L1 norm one."""
    axis = np.fft.fftfreq(size, 1 / size)
    weights = np.exp(-(axis**2) / (2 * (0.8 * 2 ** (SCALES - 1)) ** 2))
    result: NDArray[np.float64] = weights / weights.sum()
    return result


def _morlet(size: int, scale: int, angle: float) -> NDArray[np.float64]:
    """Transform of a Gabor wave minus the Gaussian that makes its mean zero."""
    sigma, frequency = 0.8 * 2**scale, 0.75 * math.pi / 2**scale
    wave = np.fft.fft2(_gabor(size, sigma, angle, frequency, 4.0 / ANGLES)).real
    envelope = np.fft.fft2(_gabor(size, sigma, angle, 0.0, 4.0 / ANGLES)).real
    result: NDArray[np.float64] = wave - wave[0, 0] / envelope[0, 0] * envelope
    return result


def _gabor(
    size: int, sigma: float, angle: float, frequency: float, slant: float
) -> NDArray[np.complex128]:
    """A Gaussian of L1 norm one times a plane wave, centred at (0, 0) on a periodic grid."""
    axis = np.fft.fftfreq(size, 1 / size)
    rows, columns = np.meshgrid(axis, axis, indexing="ij")
    along = columns * math.cos(angle) + rows * math.sin(angle)
    across = rows * math.cos(angle) - columns * math.sin(angle)
    envelope = np.exp(-(along**2 + (slant * across) ** 2) / (2 * sigma**2))
    envelope *= slant / (2 * math.pi * sigma**2)
    result: NDArray[np.complex128] = envelope * np.exp(1j * frequency * along)
    return result
