"""Drawn chest radiographs: a data set that needs no data.

Each image is a frontal chest: torso, lungs, heart, aortic arch, diaphragm, spine, ribs, clavicles,
vessels, and a film's exposure and grain. Class 0 is normal; the others carry a finding:
consolidation, nodules, effusion. Anatomy, exposure and harmless distractors (devices, soft-tissue
shadows) vary from patient to patient and independently of the class, so that no single pixel
tells it. It is a teaching phantom, not a model of disease.

Densities add up as in a radiograph: air is near 0, bone is bright.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedward_common.errors import OperatorError
from fedward_simulations.arrays import ImageArrays
from fedward_simulations.canvas import Canvas, Field, Trait, step, stripes

CLASSES = ("normal", "consolidation", "nodules", "effusion")
MIN_SIZE, MAX_SIZE = 16, 512
MAX_PATIENTS = 100_000
_PIXELS_PER_BATCH = 1 << 16  # so that the layers of a batch stay in cache


def phantom_arrays(patients: int, size: int, classes: int = 2, seed: int = 0) -> ImageArrays:
    """Draw ``patients`` training images, an eighth as many val and a third as many test images.

    Images are uint8 (N, size, size), labels int64 (N,), as many of each class as the number
    allows. One image is one patient. The result is a function of the arguments.

    Raises:
        OperatorError: an argument is out of range.
    """
    if not 2 <= classes <= len(CLASSES):
        raise OperatorError(f"phantom classes {classes}: needs 2 to {len(CLASSES)}")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise OperatorError(f"phantom size {size}: needs {MIN_SIZE} to {MAX_SIZE} pixels")
    if not 10 <= patients <= MAX_PATIENTS:
        raise OperatorError(f"phantom patients {patients}: needs 10 to {MAX_PATIENTS}")
    if seed < 0:
        raise OperatorError(f"phantom seed {seed}: needs a whole number from 0")
    images: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.int64]] = []
    counts = (patients, max(classes, patients // 8), max(classes, patients // 3))
    for split, count in enumerate(counts):
        rng = np.random.default_rng((seed, split))
        labels.append(rng.permutation(np.arange(count, dtype=np.int64) % classes))
        images.append(_draw(labels[-1], size, rng))
    return ImageArrays(images[0], labels[0], images[1], labels[1], images[2], labels[2])


def _draw(labels: NDArray[np.int64], size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one image per label, supersampled so that ribs do not alias at small sizes."""
    factor = 3 if size < 48 else 2 if size < 128 else 1
    batch = max(1, _PIXELS_PER_BATCH // (size * factor) ** 2)
    images = np.empty((len(labels), size, size), dtype=np.uint8)
    for start in range(0, len(labels), batch):
        part = labels[start : start + batch]
        film = _film(Canvas(len(part), size * factor, rng), part)
        film = film.reshape(len(part), size, factor, size, factor).mean(axis=(2, 4))
        # Grain: stronger where the film is dark.
        grain = rng.standard_normal(film.shape, dtype=np.float32)
        film += grain * (0.012 + 0.018 * np.sqrt(np.clip(1 - film, 0, 1)))
        images[start : start + batch] = np.rint(np.clip(film, 0, 1) * 255)
    return images


def _film(c: Canvas, labels: NDArray[np.int64]) -> Field:
    """Return exposed film, 0 (black) to about 1 (white)."""
    breath = c.vary(0, 0.06)  # lowers the diaphragm
    lungs = _lung(c, -1, breath) + _lung(c, 1, breath)
    heart = _heart(c, breath)
    density = _soft_tissue(c, lungs, heart) + _vessels(c, lungs) + _bones(c) + _distractors(c)
    # A finding replaces air, so that less of it shows where the heart is in front.
    aerated = lungs * (1 - 0.6 * heart)
    for label, finding in enumerate((_consolidation, _nodules, _effusion), start=1):
        present = labels == label
        if present.any():
            density += aerated * finding(c) * present[:, None, None]
    # Anatomical noise: the overlap of everything small.
    density += 0.035 * c.clouds(9) + 0.02 * c.clouds(24) * (0.4 + lungs)
    contrast, gamma = c.vary(0.92, 0.09), np.exp(c.vary(0.0, 0.13))
    exposed = 1 - np.exp(-1.7 * contrast * np.clip(density, 0, None) * _body(c))
    film: Field = 0.03 + 1.05 * exposed**gamma
    return film


def _body(c: Canvas) -> Field:
    """Torso, shoulders and neck; outside it the film is black."""
    half = 0.93 + 0.1 * step(c.y, -0.1, 0.3) - 0.5 * step(-c.y, 0.78, 0.09)
    return step(half - np.abs(c.x), 0.0, 0.02)


def _lung(c: Canvas, side: int, breath: Trait) -> Field:
    """One lung field, 0 to 1; ``side`` -1 is at the image's left."""
    flank = side * c.x
    top, base = c.vary(-0.74, 0.03), 0.50 + breath + (0.06 if side > 0 else 0.0)
    rise = np.clip((c.y - top) / (base - top), 0, 1.2)
    outer = c.vary(0.73, 0.03) * np.sqrt(np.clip(1 - (1 - np.minimum(rise, 1)) ** 2.2, 0, 1))
    dome = base + 0.16 * ((flank - 0.34) / 0.38) ** 2 - 0.05
    return (
        step(outer - flank, 0, 0.025)
        * step(flank - 0.13 - 0.05 * rise, 0, 0.03)
        * step(dome - c.y, 0, 0.025)
        * step(c.y - top, 0.02, 0.03)
    )


def _heart(c: Canvas, breath: Trait) -> Field:
    """The heart's silhouette, 0 to 1."""
    hill = c.hill(
        c.vary(0.13, 0.02), 0.27 + 0.6 * breath, c.vary(0.33, 0.04), c.vary(0.27, 0.02), 0.5
    )
    return step(hill, 0.42, 0.06)


def _soft_tissue(c: Canvas, lungs: Field, heart: Field) -> Field:
    """Chest wall and abdomen, less the air of lungs, trachea and stomach; heart and aorta."""
    wall = c.vary(0.58, 0.05) + 0.22 * step(c.y, 0.50, 0.15)
    middle = step(0.15 + 0.05 * c.y - np.abs(c.x), 0, 0.03) * step(c.y, -0.9, 0.1)
    trachea = step(0.05 - np.abs(c.x), 0, 0.012) * step(-c.y, 0.30, 0.05)
    stomach = c.chance(0.4) * c.hill(0.42, 0.78, c.vary(0.13, 0.03), 0.08, 0.2)
    air = 0.46 * c.vary(1.0, 0.09) * lungs + 0.14 * trachea + 0.3 * stomach
    tissue: Field = wall + 0.20 * middle + 0.2 * c.hill(c.vary(0.15, 0.015), -0.33, 0.1, 0.12)
    return tissue + heart * (0.05 + 0.36 * lungs) - air


def _vessels(c: Canvas, lungs: Field) -> Field:
    """Hila and the tree that leaves them: ridges of noise, denser near the hilum."""
    near = c.hill(-0.24, -0.02, 0.14, 0.18) + c.hill(0.24, -0.02, 0.14, 0.18) + 0.25
    ridges = np.clip(1 - 1.4 * np.abs(c.clouds(14)), 0, 1)
    return lungs * c.vary(0.16, 0.03) * near * ridges


def _bones(c: Canvas) -> Field:
    """Ribs behind and in front, clavicles, shoulder blades, spine."""
    y, side = c.y, np.abs(c.x)
    cage = step(0.84 - side, 0, 0.03) * step(y, -0.80, 0.04) * step(-y, -0.62, 0.06)
    gap, tilt = c.vary(0.155, 0.008), c.vary(1.0, 0.15)
    back = (y - tilt * (0.55 * side - 0.75 * side**2)) / gap + c.vary(0, 0.3)
    front = (y + tilt * (0.15 - 0.75 * side + 0.30 * side**2)) / (1.15 * gap) + c.vary(0, 0.3)
    ribs = 0.15 * stripes(back, 0.30) * step(side, 0.1, 0.02)
    ribs += 0.08 * stripes(front, 0.26) * step(side, 0.38, 0.08)
    collar = y + 0.74 + 0.22 * side - 0.10 * np.sin(side * 6) + c.vary(0, 0.02)
    clavicles = 0.26 * np.exp(-((collar / 0.035) ** 2)) * step(side, 0.1, 0.03)
    blades = 0.12 * step(side - 0.80 - 0.15 * y, 0, 0.03) * step(-y, 0.1, 0.1)
    spine = step(0.075 - side, 0, 0.02) * (0.10 + 0.05 * stripes(y / 0.13, 0.6))
    bones: Field = cage * ribs + clavicles + blades + spine
    return c.vary(1.0, 0.14) * bones


def _distractors(c: Canvas) -> Field:
    """What any class may show: soft tissue over the bases, a lead, an electrode, uneven beam."""
    over = sum(
        (c.hill(s * c.between(0.36, 0.46), c.between(0.32, 0.48), 0.30, 0.26) for s in (-1, 1)),
        start=c.zeros(),
    )
    bend = c.between(-0.6, 0.6)
    path = c.x - bend - 0.25 * np.sin(2.2 * c.y + 4 * bend)
    lead = c.chance(0.25) * np.exp(-((path / 0.012) ** 2))
    pad = c.chance(0.2) * step(0.045 - np.hypot(c.x - c.between(-0.6, 0.6), c.y + 0.55), 0, 0.008)
    beam = c.between(-0.08, 0.08) * c.x + c.between(-0.05, 0.08) * c.y
    total: Field = c.between(0.0, 0.18) * over + 0.22 * lead + 0.3 * pad + beam
    return total


def _consolidation(c: Canvas) -> Field:
    """One to three patchy opacities of varied extent and density."""
    total = c.zeros()
    for chance in (1.0, 0.6, 0.3):
        patch = c.hill(
            c.side() * c.between(0.26, 0.56),
            c.between(-0.45, 0.40),
            c.between(0.13, 0.30),
            c.between(0.13, 0.30),
            c.vary(0, 0.5),
        )
        total += c.chance(chance) * c.between(0.32, 0.60) * patch
    return total * np.clip(0.85 + 0.5 * c.clouds(10), 0, None)


def _nodules(c: Canvas) -> Field:
    """One to four round shadows with an edge."""
    total = c.zeros()
    for chance in (1.0, 0.6, 0.4, 0.2):
        radius = c.between(0.05, 0.09)
        nodule = c.hill(c.side() * c.between(0.28, 0.56), c.between(-0.5, 0.35), radius, radius)
        total += c.chance(chance) * c.between(0.25, 0.45) * step(nodule, 0.5, 0.12)
    return total


def _effusion(c: Canvas) -> Field:
    """Fluid at one base, its edge rising to the flank."""
    flank = c.side() * c.x
    level = c.between(0.05, 0.36) - 0.35 * np.clip(flank, 0, 1) ** 2
    return c.between(0.3, 0.5) * step(c.y - level, 0, 0.04) * step(flank, 0.02, 0.03)
