"""Second net for burned-in text: the trained detector in rapidocr-onnxruntime's wheel (extra ocr).

The model (PP-OCR v4, a DB network: Liao et al. 2020) is read from the installed wheel; nothing is
downloaded and nothing is recognised, only located. The wheel itself is not imported, so neither
OpenCV nor its system libraries are needed. What it finds in one file depends on that file alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fedward_client.deidentify.text_lines import Box
from fedward_common.errors import OperatorError

WHEEL = "rapidocr_onnxruntime"
MODEL = Path("models", "ch_PP-OCRv4_det_infer.onnx")

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""(1, 3, rows, columns) in [-1, 1], sides multiples of 32, to probabilities (rows, columns)."""

_STRIDE = 32
_SMALL_SIDE = 300
_LARGE_SIDE = 1600
_LEVEL = 0.3
_SCORE = 0.7
_HEIGHTS = (4, 96)
_LEAST_WIDTH = 10
_UNCLIP = 0.5
_CRISP = 0.5


def is_installed() -> bool:
    """Return True if the extra's model and its runtime are here."""
    return _model() is not None and find_spec("onnxruntime") is not None


def find_text_by_model(image: NDArray[Any]) -> list[Box]:
    """Return the boxes of text in a grey image of shape (rows, columns), any dtype.

    Raises:
        OperatorError: the extra is not installed.
    """
    picture, scale = _prepared(image)
    rows, columns = picture.shape
    padded = np.pad(picture, ((0, -rows % _STRIDE), (0, -columns % _STRIDE)), mode="edge")
    probabilities = _network()(np.repeat(padded[None, None], 3, axis=1))[:rows, :columns]
    labels, _ = ndimage.label(probabilities > _LEVEL, structure=np.ones((3, 3), dtype=int))
    boxes = []
    for index, where in enumerate(ndimage.find_objects(labels), 1):
        if probabilities[where][labels[where] == index].mean() < _SCORE:
            continue
        box = _unclipped(where, scale, image.shape)
        if box is not None and _is_crisp(image, box):
            boxes.append(box)
    return boxes


@cache
def _network() -> Network:
    """Load the model once a process, on one thread: files are the unit of parallelism."""
    model = _model()
    try:
        import onnxruntime  # type: ignore[import-untyped]  # noqa: PLC0415  the extra
    except ImportError as error:
        raise _missing() from error
    if model is None:
        raise _missing()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = session.run(None, {name: batch})[0][0, 0]
        return result

    return run


def _missing() -> OperatorError:
    return OperatorError(
        "pixels.ocr: the text detector is not installed; run pip install 'fedward[ocr]', "
        "or set it to 'auto'"
    )


def _model() -> Path | None:
    spec = find_spec(WHEEL)
    folders = spec.submodule_search_locations if spec else None
    paths = [Path(folder, MODEL) for folder in folders or ()]
    return next((path for path in paths if path.is_file()), None)


def _prepared(image: NDArray[Any]) -> tuple[NDArray[np.float32], float]:
    """Scale values to [-1, 1] and small or large images to a size the network was trained for."""
    low, high = float(image.min()), float(image.max())
    grey = (image.astype(np.float32) - low) * np.float32(2 / max(high - low, 1e-9)) - 1
    side = max(image.shape)
    if side <= _SMALL_SIDE:
        return np.kron(grey, np.ones((2, 2), np.float32)), 2.0
    step = -(-side // _LARGE_SIDE)
    if step == 1:
        return grey, 1.0
    rows, columns = (-(-n // step) * step for n in grey.shape)
    padded = np.pad(grey, ((0, rows - grey.shape[0]), (0, columns - grey.shape[1])), mode="edge")
    blocks = padded.reshape(rows // step, step, columns // step, step)
    return blocks.mean(axis=(1, 3)), 1 / step


def _is_crisp(image: NDArray[Any], box: Box) -> bool:
    """Painted text rises to half of its contrast between two pixels; anatomy does not.

    The network was trained on photographs of paper: it takes anatomy for blurred writing.
    """
    inside = image[box[1] : box[3], box[0] : box[2]].astype(np.float32)
    rises = [np.abs(np.diff(inside, axis=axis)).ravel() for axis in (0, 1)]
    low, high = np.percentile(inside, [2, 98])
    return bool(np.percentile(np.concatenate(rises), 97) >= _CRISP * (high - low) > 0)


def _unclipped(where: tuple[slice, slice], scale: float, shape: tuple[int, ...]) -> Box | None:
    """The box in the image's own pixels, widened: the network shrinks what it was shown."""
    y0, y1, x0, x1 = (n / scale for s in where for n in (s.start, s.stop))
    high, wide = sorted((y1 - y0, x1 - x0))
    if not _HEIGHTS[0] / 2 <= high <= _HEIGHTS[1] or wide < _LEAST_WIDTH:
        return None
    margin = 1 + _UNCLIP * high
    return (
        max(0, int(x0 - margin)), max(0, int(y0 - margin)),
        min(shape[1], int(x1 + margin) + 1), min(shape[0], int(y1 + margin) + 1),
    )  # fmt: skip
