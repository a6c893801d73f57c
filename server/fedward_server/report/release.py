"""The files that a run leaves, each written whole or not at all.

A crash between two files leaves an older file beside a newer one, never half a file; the model card
holds the digest of its weights, so that a mismatch shows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from fedward_common.errors import MisuseError
from fedward_common.files import write_atomic
from fedward_server.report.model import RunReport
from fedward_server.report.model_card import ModelCard
from fedward_server.report.page import render_run
from fedward_server.report.summary import run_summary, to_json

WEIGHTS, CARD, CARD_JSON = "model.safetensors", "MODEL_CARD.md", "model_card.json"
SUMMARY, REPORT = "summary.json", "report.html"


def write_release(
    folder: Path,
    tensors: Mapping[str, NDArray[Any]],
    card: ModelCard,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write the model (safetensors) and its card into ``folder``; returns the model's path.

    Args:
        folder: made if it is not there.
        tensors: finite numbers by name, any shape.
        card: its digest of the weights is filled in here.
        metadata: goes into the safetensors header beside the plan's digest and both epsilons.

    Raises:
        MisuseError: a tensor is not finite: such a model must not be released.
        StorageError: the folder cannot be written.
    """
    for name, tensor in tensors.items():
        if not np.all(np.isfinite(tensor)):
            raise MisuseError(f"release: tensor {name!r} holds a number that is not finite")
    privacy = card.run.privacy
    header = {
        **(metadata or {}),
        "plan_digest": card.run.plan_digest,
        "epsilon": repr(privacy.epsilon),
        "epsilon_worst_case": repr(privacy.epsilon_worst_case),
        "delta": repr(privacy.delta),
    }
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    weights = save(arrays, metadata=header)
    final = card.with_weights(hashlib.sha256(weights).hexdigest())
    path = folder / WEIGHTS
    write_atomic(path, weights)
    write_atomic(folder / CARD_JSON, to_json(final.as_dict()))
    write_atomic(folder / CARD, final.markdown().encode())
    return path


def write_run(folder: Path, run: RunReport) -> Path:
    """Write ``summary.json`` and ``report.html`` of a deployment; returns the report's path.

    Raises:
        StorageError: the folder cannot be written.
    """
    return write_pages(folder, run_summary(run), render_run(run))


def write_pages(folder: Path, summary: Mapping[str, Any], page: str) -> Path:
    """Write a summary and a rendered page; returns the page's path.

    Raises:
        StorageError: the folder cannot be written.
    """
    write_atomic(folder / SUMMARY, to_json(summary))
    write_atomic(folder / REPORT, page.encode())
    return folder / REPORT
