"""Image array files: what is read, and the one-line refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedward_common.errors import OperatorError
from fedward_simulations.arrays import load_arrays


def good(*, colour: bool = False) -> dict[str, Any]:
    tail = (8, 10, 3) if colour else (8, 10)
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, count in (("train", 6), ("val", 3), ("test", 4)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, *tail), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count, dtype=np.uint8)[:, None] % 3
    return arrays


def saved(folder: Path, arrays: dict[str, Any]) -> Path:
    path = folder / "images.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("colour", [False, True])
def test_reads_what_was_saved(tmp_path: Path, *, colour: bool) -> None:
    arrays = good(colour=colour)
    read = load_arrays(saved(tmp_path, arrays))
    assert np.array_equal(read.train_images, arrays["train_images"])
    assert np.array_equal(read.test_labels, arrays["test_labels"][:, 0])
    assert read.val_labels.dtype == np.int64
    assert (read.classes, read.colour, read.side) == (3, colour, (8, 10))


def test_digest_follows_content(tmp_path: Path) -> None:
    arrays = good()
    first = load_arrays(saved(tmp_path, arrays)).digest()
    assert load_arrays(saved(tmp_path, arrays)).digest() == first
    arrays["val_labels"][0, 0] ^= 1
    assert load_arrays(saved(tmp_path, arrays)).digest() != first


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("val_images", None, "val_images is missing"),
        ("train_images", np.zeros((6, 8, 10), np.float32), "train_images has type float32"),
        ("test_images", np.zeros((4, 8, 10, 4), np.uint8), "test_images has shape"),
        ("test_images", np.zeros((4, 80), np.uint8), "test_images has shape"),
        ("val_images", np.zeros((3, 9, 9), np.uint8), "one size"),
        ("train_images", np.zeros((0, 8, 10), np.uint8), "train_images is empty"),
        ("train_images", np.zeros((6, 2, 2), np.uint8), "H and W"),
        ("train_labels", np.zeros((5, 1), np.uint8), "train_labels has shape"),
        ("train_labels", np.zeros((6, 14), np.uint8), "one per image"),
        ("val_labels", np.zeros((3, 1)), "val_labels has type float64"),
        ("val_labels", np.full((3, 1), -1), "class index"),
        ("val_labels", np.array([{}, {}, {}], dtype=object), "not a readable"),
    ],
)
def test_refuses_in_one_line(tmp_path: Path, name: str, value: Any, says: str) -> None:
    arrays = good()
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value
    path = saved(tmp_path, arrays)
    with pytest.raises(OperatorError) as caught:
        load_arrays(path)
    message = str(caught.value)
    assert says in message
    assert str(path) in message
    assert "\n" not in message


def test_refuses_other_files(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="no such file"):
        load_arrays(tmp_path / "absent.npz")
    text = tmp_path / "text.npz"
    text.write_text("not an archive")
    with pytest.raises(OperatorError, match="not a readable"):
        load_arrays(text)
    single = tmp_path / "single.npy"
    np.save(single, np.zeros(3))
    with pytest.raises(OperatorError, match=r"\.npz archive"):
        load_arrays(single)
    whole = saved(tmp_path, good()).read_bytes()
    text.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OperatorError, match="not a readable"):
        load_arrays(text)
    text.write_bytes(b"")
    with pytest.raises(OperatorError, match="not a readable"):
        load_arrays(text)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_file_is_refused_or_read_never_a_traceback(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "images.npz"
    save(path, **good())
    whole = path.read_bytes()
    refused = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            load_arrays(path)
        except OperatorError as error:
            refused += "\n" not in str(error)
    assert refused > 200
