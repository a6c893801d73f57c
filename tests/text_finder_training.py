"""Trains the network of the text finder and writes its weights. Run by hand, never by a build.

    python -m tests.text_finder_training PNEUMONIAMNIST.npz FONTS OUT.safetensors

FONTS is a folder with the files named in ``FAMILIES``; Debian's packages fonts-liberation,
-freefont-ttf, -roboto-unhinted, -inconsolata, -courier-prime, -open-sans, -lato, -noto-mono,
-firacode, -cantarell and -anonymous-pro put them under their font folder. A family that is missing
is a mistake, not a smaller training.

Random strings are painted into random crops of scikit-image's pictures, of a CT, an ultrasound and
chest images of the training split, and of generated shapes, masks, flow maps and grain. Every cell
is labelled: text of a height that its level is for, or none. The held-out fonts, strings and images
of ``tests/burned_in_corpus.py`` are not among them.
"""

from __future__ import annotations

import argparse
import re
import string
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.numpy import save_file
from scipy import ndimage
from tests.burned_in_corpus import pydicom_image, scaled_to_bytes

from fedward_client.deidentify import strokes

PICTURES = (
    "astronaut.png brick.png camera.png cell.png chelsea.png chessboard_GRAY.png coffee.png "
    "coins.png grass.png gravel.png hubble_deep_field.jpg ihc.png microaneurysms.png moon.png "
    "phantom.png retina.jpg horse.png"
)
FAMILIES = (
    "LiberationSans", "LiberationSansNarrow", "LiberationMono", "LiberationSerif", "FreeSans",
    "FreeSerif", "FreeMono", "Roboto", "RobotoCondensed", "Inconsolata", "Courier Prime",
    "OpenSans", "Lato", "NotoSansMono", "FiraCode", "Cantarell", "Anonymous Pro", "DejaVuSans",
    "DejaVuSansMono", "DejaVuSerif",
)  # fmt: skip
"""Each is a file's name up to its style; besides these, Pillow's own Aileron."""
STYLES = "Regular|Bold|Italic|Oblique|Light|Medium|Thin|B|I|BI"
UPRIGHT_SHARE, AILERON_SHARE = 0.8, 0.1
LETTERS = string.ascii_uppercase * 3 + string.ascii_lowercase * 2 + string.digits * 3
SMOOTH = (
    Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
)  # fmt: skip
SMALLEST, LARGEST = 3.6, 20.0
POSITIVES, NEGATIVES = 20, 50
LAYERS = (strokes.FEATURES, 128, 32, 1)
EPOCHS, BATCH = 17, 2048

Rng = np.random.Generator


@dataclass(frozen=True)
class Sources:
    """Images to paint into: photographs, chest images (n, 28, 28) and medical ones, all uint8.

    ``typefaces`` lists the font files of every family.
    """

    pictures: list[np.ndarray]
    chests: np.ndarray
    medical: list[np.ndarray]
    typefaces: dict[str, list[Path]]


def load_typefaces(fonts: Path) -> dict[str, list[Path]]:
    """Sort the files below a folder by family."""
    found = sorted({file.name: file for file in fonts.rglob("*.[ot]tf")}.items())
    families = {
        family: [
            file for name, file in found if re.fullmatch(rf"{family}([- ]?({STYLES}))*[.]...", name)
        ]
        for family in FAMILIES
    }
    missing = [family for family, files in families.items() if not files]
    if missing:
        raise SystemExit(f"{fonts}: no font file of {', '.join(missing)}")
    return families


def load_sources(arrays: Path, fonts: Path) -> Sources:
    folder = Path(skimage.__file__).parent / "data"
    pictures = [np.asarray(Image.open(folder / name).convert("L")) for name in PICTURES.split()]
    sector = pydicom_image("examples_ybr_color.dcm")[30:220, 40:290]
    medical = [pydicom_image("693_J2KI.dcm"), pydicom_image("CT_small.dcm"), sector]
    return Sources(pictures, np.load(arrays)["train_images"], medical, load_typefaces(fonts))


def log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def resized(image: np.ndarray, rows: int, columns: int, rng: Rng) -> np.ndarray:
    method = SMOOTH[rng.integers(len(SMOOTH))]
    return np.asarray(Image.fromarray(image).resize((columns, rows), method))


def crop(image: np.ndarray, rows: int, columns: int, rng: Rng) -> np.ndarray:
    rows, columns = min(image.shape[0], rows), min(image.shape[1], columns)
    y, x = rng.integers(image.shape[0] - rows + 1), rng.integers(image.shape[1] - columns + 1)
    return image[y : y + rows, x : x + columns]


def shapes(rows: int, columns: int, rng: Rng) -> np.ndarray:
    """A smooth field with ellipses, boxes, lines and rulers: crisp, and yet no text."""
    field = ndimage.gaussian_filter(rng.normal(size=(rows, columns)), log_uniform(rng, 1.2, 20))
    field = (field - field.min()) / np.ptp(field) * rng.uniform(20, 220) + rng.uniform(0, 30)
    canvas = Image.fromarray(np.clip(field, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(0, 8)):
        value, width = int(rng.integers(0, 256)), int(rng.integers(1, 4))
        x, y = int(rng.integers(-20, columns + 20)), int(rng.integers(-20, rows + 20))
        box = (x, y, x + int(rng.integers(3, 120)), y + int(rng.integers(3, 120)))
        kind = rng.integers(6)
        if kind < 2:
            draw.ellipse(box, fill=value if kind else None, outline=value, width=width)
        elif kind < 4:
            draw.rectangle(box, fill=value if kind == 2 else None, outline=value)
        elif kind == 4:
            draw.line(box, fill=value, width=width)
        else:
            for tick in range(0, rows, int(rng.integers(4, 20))):
                draw.line((x, tick, x + 2 * width, tick), fill=value)
    drawn = np.asarray(canvas).astype(np.float32)
    blurred = ndimage.gaussian_filter(drawn, rng.uniform(0.3, 1.2))
    return (drawn if rng.random() < 0.5 else blurred).astype(np.uint8)


def flow(rows: int, columns: int, rng: Rng) -> np.ndarray:
    """A mask, or a flow map with a crisp edge over a smooth field: blobs, branches and no text."""
    field = ndimage.gaussian_filter(rng.normal(size=(rows, columns)), log_uniform(rng, 1.5, 20))
    other = ndimage.gaussian_filter(rng.normal(size=(rows, columns)), log_uniform(rng, 2, 30))
    field, other = ((part - part.min()) / np.ptp(part) for part in (field, other))
    level = np.quantile(field, rng.uniform(0.5, 0.95))
    inside = field > level
    under = 0.0 if rng.random() < 0.4 else rng.uniform(20, 120) * other
    kind = rng.integers(3)
    rise = np.maximum(field - level, 0) / max(1e-6, 1 - level)
    over = 255.0 if kind == 0 else rng.uniform(60, 255) * (rise**0.5 if kind == 1 else other)
    return np.clip(np.where(inside, over, under), 0, 255).astype(np.uint8)


def checks(rows: int, columns: int, rng: Rng) -> np.ndarray:
    """A test pattern: boxes of checks of several sizes and contrasts on flat fields."""
    image = np.full((rows, columns), rng.uniform(10, 245))
    image[:, int(rng.integers(columns)) :] = rng.uniform(10, 245)
    for _ in range(rng.integers(3, 16)):
        unit, count = int(log_uniform(rng, 2, 24)), int(rng.integers(2, 5))
        grid = np.indices((count, count)).sum(axis=0) % 2 * rng.uniform(3, 60)
        box = np.kron(grid, np.ones((unit, unit))) + rng.uniform(0, 200)
        y, x = int(rng.integers(rows)), int(rng.integers(columns))
        place = image[y : y + len(box), x : x + len(box)]
        place[...] = box[: place.shape[0], : place.shape[1]]
    return np.clip(image, 0, 255).astype(np.uint8)


def coarse(sources: Sources, rng: Rng) -> np.ndarray:
    """A picture of few pixels: as crisp as text, and yet none."""
    among = sources.medical if rng.random() < 0.6 else sources.pictures
    image = among[rng.integers(len(among))]
    factor = max(1.0, min(image.shape) / log_uniform(rng, 32, 140))
    image = resized(image, *(int(side / factor) for side in image.shape), rng)
    return image[:, ::-1] if rng.random() < 0.5 else image


def background(sources: Sources, rng: Rng) -> np.ndarray:
    rows, columns = (int(log_uniform(rng, 48, 320)) for _ in range(2))
    kind = rng.integers(13)
    if kind > 9:
        image = (flow, flow, checks)[rng.integers(3)](rows, columns, rng)
    elif kind > 7:
        image = coarse(sources, rng)
    elif kind == 0:
        image = crop(sources.pictures[rng.integers(len(sources.pictures))], rows, columns, rng)
        if rng.random() < 0.6:
            image = resized(image, rows, columns, rng)
    elif kind < 3:
        image = sources.chests[rng.integers(len(sources.chests))]
        if rng.random() < 0.7:
            side = int(log_uniform(rng, 28, 360))
            image = resized(image, side, side, rng)
    elif kind < 5:
        image = sources.medical[rng.integers(len(sources.medical))]
        if image.shape[0] < 200 or rng.random() < 0.3:
            factor = rng.uniform(1, 3)
            image = resized(image, *(int(side * factor) for side in image.shape), rng)
        image = crop(image, rows + 60, columns + 60, rng)
    else:
        image = shapes(rows, columns, rng)
    if kind > 9 and rng.random() < 0.6:
        return image
    return with_grain(image.astype(np.float32), rng)


def with_grain(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Add noise, speckle or counting noise, blank boxes and sharpening, each now and then."""
    choice = rng.random()
    if choice < 0.35:
        grain = ndimage.gaussian_filter(rng.normal(size=image.shape), rng.choice([0, 0, 0.5, 0.8]))
        image = image + grain * rng.uniform(0.5, 8)
    elif choice < 0.5:
        image = image * ndimage.gaussian_filter(rng.rayleigh(1, image.shape), rng.uniform(0, 1.5))
    elif choice < 0.6:
        image = rng.poisson(np.clip(image, 0, 255) * rng.uniform(0.02, 1)).astype(np.float32)
    for _ in range(rng.binomial(2, 0.15)):
        y, x = rng.integers(image.shape[0]), rng.integers(image.shape[1])
        window = slice(y, y + rng.integers(6, 60)), slice(x, x + rng.integers(10, 200))
        image = image.copy()
        image[window] = np.median(image[window])
    if rng.random() < 0.1:
        image = image + rng.uniform(0.5, 1.5) * (image - ndimage.gaussian_filter(image, 1))
    return scaled_to_bytes(np.clip(image, *np.percentile(image, [0.01, 99.99])))


def words(rng: Rng) -> str:
    return str(rng.choice(list(" ^,"))).join(word(rng) for _ in range(rng.integers(1, 4)))


def word(rng: Rng) -> str:
    kind = rng.integers(4)
    if kind == 0:
        mark = rng.choice(list("-/. "))
        day, month, year = rng.integers(1, 32), rng.integers(1, 13), rng.integers(1900, 2030)
        return f"{day:02}{mark}{month:02}{mark}{year}"
    letters = (LETTERS, string.ascii_uppercase, string.ascii_lowercase)[kind - 1]
    made = "".join(rng.choice(list(letters), int(rng.integers(3, 9))))
    return made.capitalize() if kind == 3 else made


def typeface(sources: Sources, size: int, rng: Rng) -> ImageFont.FreeTypeFont:
    if rng.random() < AILERON_SHARE:
        return ImageFont.load_default(size)
    files = sources.typefaces[FAMILIES[rng.integers(len(FAMILIES))]]
    upright = [file for file in files if not re.search("Italic|Oblique|[ B]I[.]", file.name)]
    among = upright if rng.random() < UPRIGHT_SHARE else files
    return ImageFont.truetype(str(among[rng.integers(len(among))]), size)


def painted(
    sources: Sources, image: np.ndarray, rng: Rng
) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Paint a string; returns the image, the string's pixels and its size, or None if none fits."""
    small = rng.random() < 0.45
    size = int(log_uniform(rng, 7, 14) if small else log_uniform(rng, 7.5, 64))
    size = min(size, 12) if min(image.shape) < 40 else size
    font = typeface(sources, size, rng)
    text = words(rng)
    left, top, right, bottom = (int(side) for side in font.getbbox(text))
    canvas = Image.new("L", (right - left + 2, bottom - top + 2))
    draw = ImageDraw.Draw(canvas)
    if rng.random() < 0.2:
        draw.fontmode = "1"
    draw.text((1 - left, 1 - top), text, fill=255, font=font)
    ink = np.asarray(canvas) / 255
    if rng.random() < 0.15:
        ink = np.rot90(ink)
    if rng.random() < 0.07:
        ink = ndimage.gaussian_filter(ink, 0.5)
    ink = ink[: image.shape[0], : image.shape[1]]
    strong = ink > 0.5
    if strong.sum() < 10:
        return None
    y = rng.integers(image.shape[0] - ink.shape[0] + 1)
    x = rng.integers(image.shape[1] - ink.shape[1] + 1)
    window = slice(y, y + ink.shape[0]), slice(x, x + ink.shape[1])
    mixed = mixture(image[window].astype(np.float64), ink, rng)
    if mixed is None:
        return None
    result, marks = image.copy(), np.zeros(image.shape, dtype=bool)
    result[window], marks[window] = mixed, strong
    return result, marks, size


def mixture(under: np.ndarray, ink: np.ndarray, rng: Rng) -> np.ndarray | None:
    contrast = log_uniform(rng, 20, 230) if rng.random() < 0.7 else log_uniform(rng, 20, 45)
    median = float(np.median(under[ink > 0.5]))
    signs = [sign for sign in (1, -1) if 0 <= median + sign * contrast <= 255]
    if not signs:
        return None
    sign = int(rng.choice(signs))
    style = rng.integers(5)
    level = under + sign * contrast if style == 0 else median + sign * contrast
    if style == 1:
        halo = ndimage.maximum_filter(ink, 3)
        under = under * (1 - halo) + halo * np.clip(median - sign * contrast / 2, 0, 255)
    return np.clip(np.round(under * (1 - ink) + ink * level), 0, 255)


def examples(sources: Sources, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the features of cells (n, 41) and whether they are text (n,)."""
    rng = np.random.default_rng(seed)
    made: list[tuple[np.ndarray, bool]] = []
    for _ in range(count):
        image = background(sources, rng)
        marks, size = np.zeros(image.shape, dtype=bool), 0
        if rng.random() < 0.75 and (done := painted(sources, image, rng)) is not None:
            image, marks, size = done
        if image.min() < image.max():
            made += labelled(image, marks, size, rng)
    features = np.concatenate([cells for cells, _ in made])
    return features, np.concatenate([np.full(len(cells), is_text) for cells, is_text in made])


def labelled(
    image: np.ndarray, marks: np.ndarray, size: int, rng: Rng
) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield cells of text, and cells that are none, of every level."""
    marks = np.pad(marks, strokes.BORDER)
    for number, level in enumerate(strokes.levels(strokes.scaled(image))):
        rows, columns = level.features.shape[:2]
        inside = marks[: rows * level.unit, : columns * level.unit]
        share = inside.reshape(rows, level.unit, columns, level.unit).mean(axis=(1, 3))
        height = 0.72 * size / 2**number  # of a capital letter, in the level's pixels
        legible = 1.25 * SMALLEST <= height <= LARGEST
        text = (share > 0.04) & (ndimage.uniform_filter(share, 3) > 0.06) & legible
        none = (ndimage.maximum_filter(share, 5) == 0) | (height < SMALLEST)
        none &= level.features[..., 0] > 2.8
        for chosen, limit, is_text in ((text, POSITIVES, True), (none, NEGATIVES, False)):
            cells = level.features[chosen]
            if len(cells):
                yield rng.permutation(cells)[:limit], is_text


def trained(features: np.ndarray, is_text: np.ndarray) -> list[np.ndarray]:
    """Fit the network; returns the features' bounds, then weights and biases of its layers."""
    torch.manual_seed(0)
    low, high = np.percentile(features, [0.2, 99.8], axis=0)
    bounded = np.clip(features, low, high)
    mean, deviation = bounded.mean(axis=0), bounded.std(axis=0) + 1e-6
    inputs = torch.tensor((bounded - mean) / deviation, dtype=torch.float32)
    labels = torch.tensor(is_text, dtype=torch.float32)
    layers: list[torch.nn.Module] = []
    for before, after in pairwise(LAYERS):
        layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=1e-3)
    steps = EPOCHS * -(-len(inputs) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(inputs)).split(BATCH):
            odds = network(inputs[batch])[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(odds, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    weights = [parameter.detach().numpy() for parameter in network.parameters()]
    weights[0] = weights[0] / deviation
    weights[1] = weights[1] - weights[0] @ mean
    return [array.astype(np.float32) for array in (low, high, *weights)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arrays", type=Path)
    parser.add_argument("fonts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    parts = 16
    make = partial(examples, load_sources(chosen.arrays, chosen.fonts), chosen.images // parts)
    with ProcessPoolExecutor(chosen.jobs) as pool:
        made = list(pool.map(make, range(parts)))
    features, is_text = (np.concatenate(part) for part in zip(*made, strict=True))
    arrays = trained(features, is_text)
    named = {f"a{index}": np.ascontiguousarray(array) for index, array in enumerate(arrays)}
    save_file(named, chosen.out)


if __name__ == "__main__":
    main()
