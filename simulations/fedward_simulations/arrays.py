"""Image array files: the usual ``{train,val,test}_{images,labels}`` of a ``.npz``.

The train images become the hospitals' training patients, the val images their held-out patients,
and the test images stay with the simulation, outside every hospital.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedward_common.errors import OperatorError

SPLITS = ("train", "val", "test")
MIN_SIDE, MAX_SIDE = 8, 4096


@dataclass(frozen=True, eq=False)
class ImageArrays:
    """Images and labels in three splits.

    Images are uint8 (N, H, W) for grey or (N, H, W, 3) for RGB, the same H and W everywhere;
    labels are int64 (N,), class indices from zero.
    """

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    val_images: NDArray[np.uint8]
    val_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]

    @property
    def classes(self) -> int:
        """The number of classes: one more than the largest label of any split."""
        return 1 + max(int(labels.max()) for _, labels in self._splits())

    @property
    def colour(self) -> bool:
        """Whether the images are RGB."""
        return self.train_images.ndim == 4

    @property
    def side(self) -> tuple[int, int]:
        """Rows and columns of every image, in pixels."""
        return self.train_images.shape[1], self.train_images.shape[2]

    def digest(self) -> str:
        """SHA-256 (hex) over shapes, pixels and labels: names this data set."""
        state = hashlib.sha256()
        for images, labels in self._splits():
            state.update(repr(images.shape).encode())
            state.update(np.ascontiguousarray(images).data)
            state.update(labels.astype("<i8").tobytes())
        return state.hexdigest()

    def _splits(self) -> tuple[tuple[NDArray[np.uint8], NDArray[np.int64]], ...]:
        return (
            (self.train_images, self.train_labels),
            (self.val_images, self.val_labels),
            (self.test_images, self.test_labels),
        )


def load_arrays(path: Path) -> ImageArrays:
    """Read an image array file.

    The file is a ``.npz`` with ``{train,val,test}_images``, uint8 (N, H, W) or (N, H, W, 3), and
    ``{train,val,test}_labels``, integers (N, 1) or (N,). Pickled objects are never loaded.

    Raises:
        OperatorError: the file is missing, no such archive, or an array has the wrong name, type
            or shape; the message names file, array and remedy.
    """
    arrays: dict[str, NDArray[Any]] = {}
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise OperatorError(f"{path}: a single array, not an .npz archive; needs {_wanted()}")
        with archive:
            for split in SPLITS:
                for kind in ("images", "labels"):
                    arrays[f"{split}_{kind}"] = archive[f"{split}_{kind}"]
    except FileNotFoundError as error:
        raise OperatorError(f"{path}: no such file; give an .npz of image arrays") from error
    except KeyError as error:
        missing = next(
            f"{split}_{kind}"
            for split in SPLITS
            for kind in ("images", "labels")
            if f"{split}_{kind}" not in arrays
        )
        raise OperatorError(f"{path}: {missing} is missing; needs {_wanted()}") from error
    # RuntimeError: zipfile on encryption or compression that it does not know.
    except (
        OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise OperatorError(
            f"{path}: not a readable .npz archive of plain arrays; needs {_wanted()}"
        ) from error
    return _checked(path, arrays)


def _wanted() -> str:
    return "{train,val,test}_{images,labels}"


def _checked(path: Path, arrays: dict[str, NDArray[Any]]) -> ImageArrays:
    """Check all six arrays and bring the labels into their one form."""
    shape = arrays["train_images"].shape[1:]
    labels: dict[str, NDArray[np.int64]] = {}
    for split in SPLITS:
        images = arrays[f"{split}_images"]
        _check_images(path, f"{split}_images", images)
        if images.shape[1:] != shape:
            raise OperatorError(
                f"{path}: {split}_images are {images.shape[1:]}, train_images are {shape};"
                " all images need one size"
            )
        labels[split] = _labels(path, f"{split}_labels", arrays[f"{split}_labels"], len(images))
    return ImageArrays(
        arrays["train_images"],
        labels["train"],
        arrays["val_images"],
        labels["val"],
        arrays["test_images"],
        labels["test"],
    )


def _check_images(path: Path, name: str, images: NDArray[Any]) -> None:
    where = f"{path}: {name}"
    if images.dtype != np.uint8:
        raise OperatorError(f"{where} has type {images.dtype}; needs uint8, 0 to 255")
    if images.ndim not in {3, 4} or (images.ndim == 4 and images.shape[3] != 3):
        raise OperatorError(f"{where} has shape {images.shape}; needs (N, H, W) or (N, H, W, 3)")
    if len(images) == 0:
        raise OperatorError(f"{where} is empty; needs at least one image")
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in images.shape[1:3]):
        raise OperatorError(
            f"{where} has shape {images.shape}; H and W must be {MIN_SIDE} to {MAX_SIDE}"
        )


def _labels(path: Path, name: str, labels: NDArray[Any], count: int) -> NDArray[np.int64]:
    where = f"{path}: {name}"
    if labels.dtype.kind not in "iu":
        raise OperatorError(f"{where} has type {labels.dtype}; needs integer class indices")
    if labels.shape not in {(count, 1), (count,)}:
        raise OperatorError(f"{where} has shape {labels.shape}; needs ({count}, 1), one per image")
    if int(labels.min()) < 0 or int(labels.max()) > 999:
        raise OperatorError(f"{where} has a class index outside 0 to 999")
    return labels.reshape(-1).astype(np.int64)
