"""A cohort: the labelled patients of one split, ready to be asked one at a time.

Images are opened only when a query asks for a patient: preprocessed once, sealed in the vault under
a name that binds the preprocessing and the patient's images, and kept in memory up to a limit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedward_client.catalogue import Catalogue, Instance, instance_object
from fedward_client.preprocess.pipeline import preprocess_file
from fedward_client.preprocess.spec import PreprocessSpec, spec_digest
from fedward_client.split import SplitRule
from fedward_client.vault import Vault
from fedward_common.codec import digest
from fedward_common.errors import IntegrityError, OperatorError, StorageError
from fedward_common.plan.sections import Column

Inputs = NDArray[np.float32]
DEFAULT_CACHE_BYTES = 1 << 30
_TENSOR = "inputs"


class Cohort(Protocol):
    """Patients of one split in a fixed order. ``labels``: class indices, int64, shape (N,)."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of every patient."""
        ...

    def __len__(self) -> int:
        """Return the number of patients, N."""
        ...

    def patient(self, index: int) -> tuple[Inputs, int]:
        """Return a patient's inputs, float32 of shape (m, ...) with m >= 1, and class."""
        ...


@dataclass(frozen=True)
class FeatureMap:
    """A fixed map from images (m, C, H, W) to features (m, F), float32; ``name`` identifies it."""

    name: str
    function: Callable[[Inputs], Inputs]


class ImageCohort:
    """A cohort of images: inputs are (m, C, size, size), or (m, F) behind a feature map.

    ``patients``: pseudonyms, each with those of its instances.
    """

    def __init__(
        self,
        vault: Vault,
        patients: Sequence[tuple[str, tuple[str, ...]]],
        labels: Sequence[int],
        spec: PreprocessSpec,
        features: FeatureMap | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        self._vault, self._patients, self._spec = vault, tuple(patients), spec
        self._features = features
        self._labels = np.array(labels, dtype=np.int64)
        self._labels.flags.writeable = False
        self._cache = _Cache(cache_bytes)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of every patient, shape (N,), read-only."""
        return self._labels

    def __len__(self) -> int:
        return len(self._patients)

    def patient(self, index: int) -> tuple[Inputs, int]:
        """Return all images of a patient, one input each, and the class.

        Raises:
            IntegrityError: an object of the vault was altered or is missing.
        """
        inputs = self._cache.get(index)
        if inputs is None:
            inputs = self._stored(index)
            inputs.flags.writeable = False
            self._cache.put(index, inputs)
        return inputs, int(self._labels[index])

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Fill the vault's cache now, so that a later query only reads (B2: at approval)."""
        for index in range(len(self)):
            self.patient(index)
            if progress is not None:
                progress(index + 1, len(self))
        self._vault.flush()

    def _stored(self, index: int) -> Inputs:
        name = self._object_name(index)
        if name in self._vault:
            try:
                return load(self._vault.get(name))[_TENSOR]
            except (IntegrityError, SafetensorError, KeyError):
                self._vault.remove(name)  # a cache: rebuild it from the sealed instances
        inputs = self._computed(index)
        try:
            self._vault.put(name, save({_TENSOR: inputs}))
        except StorageError:
            return inputs  # a full disk costs time, never a round
        return inputs

    def _computed(self, index: int) -> Inputs:
        instances = self._patients[index][1]
        objects = [self._vault.get(instance_object(instance)) for instance in instances]
        images = [preprocess_file(data, self._spec) for data in objects]
        stacked = np.concatenate(images)
        mapped = stacked if self._features is None else self._features.function(stacked)
        return np.ascontiguousarray(mapped, dtype=np.float32)

    def _object_name(self, index: int) -> str:
        patient, instances = self._patients[index]
        feature = self._features.name if self._features else ""
        return f"tensor/{digest(spec_digest(self._spec), feature, instances).hex()}/{patient}"


@dataclass(frozen=True)
class TableCohort:
    """A cohort of table rows: inputs are (1, F), each column scaled to [-1, 1] by public bounds."""

    rows: Inputs
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.labels.size)

    def patient(self, index: int) -> tuple[Inputs, int]:
        """Return a patient's scaled row, shape (1, F), and class."""
        return self.rows[index : index + 1], int(self.labels[index])


def image_cohort(
    catalogue: Catalogue,
    vault: Vault,
    rule: SplitRule,
    *,
    split: Literal["train", "holdout"],
    classes: Sequence[str],
    spec: PreprocessSpec,
    features: FeatureMap | None = None,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
) -> ImageCohort:
    """Return the labelled patients of ``split`` that have images.

    Raises:
        OperatorError: a label is not a class of the plan.
    """
    chosen, covered = _labelled(catalogue, rule, split, classes)
    patients = [
        (patient, held)
        for patient, group in groupby(catalogue.each_instance(), attrgetter("patient"))
        if patient in chosen and (held := tuple(i.instance for i in group if _covers(covered, i)))
    ]
    labels = [chosen[patient] for patient, _ in patients]
    return ImageCohort(vault, patients, labels, spec, features, cache_bytes)


def table_cohort(
    catalogue: Catalogue,
    rule: SplitRule,
    *,
    split: Literal["train", "holdout"],
    classes: Sequence[str],
    columns: Sequence[Column],
) -> TableCohort:
    """Return the table patients of ``split``, their columns in the plan's order and scale.

    Raises:
        OperatorError: a label is not a class of the plan, or the table lacks a column.
    """
    chosen, _ = _labelled(catalogue, rule, split, classes)
    present = catalogue.table_patients()
    patients = [patient for patient in chosen if patient in present]
    rows = np.zeros((len(patients), len(columns)), dtype=np.float32)
    for index, patient in enumerate(patients):
        rows[index] = scaled_rows(*catalogue.features(patient), columns)
    labels = np.array([chosen[patient] for patient in patients], dtype=np.int64)
    return TableCohort(rows, labels)


def _labelled(
    catalogue: Catalogue, rule: SplitRule, split: str, classes: Sequence[str]
) -> tuple[dict[str, int], set[tuple[str, str]]]:
    """The class of every patient of the split, by pseudonym, and what is labelled of it.

    That is a set of (patient, target); a target is the patient, a study or an instance.
    """
    index_of = {name: index for index, name in enumerate(classes)}
    index_of |= {str(index): index for index in range(len(classes)) if str(index) not in index_of}
    chosen: dict[str, int] = {}
    covered: set[tuple[str, str]] = set()
    unknown = 0
    for label in catalogue.labels():
        if (label.split or rule.split_of(label.patient)) != split:
            continue
        if label.value not in index_of:
            unknown += 1
            continue
        chosen.setdefault(label.patient, index_of[label.value])
        covered.add((label.patient, label.target))
    if unknown:
        raise OperatorError(
            f"labels: {unknown} are not a class of the plan ({', '.join(classes)}); "
            "correct the labels file and add it again"
        )
    return chosen, covered


def _covers(covered: set[tuple[str, str]], instance: Instance) -> bool:
    """A label of a patient covers all its images; one of a study or an instance covers those."""
    of = instance.patient
    return any((of, target) in covered for target in (of, instance.study, instance.instance))


def scaled_rows(
    names: Sequence[str], values: NDArray[np.float64], columns: Sequence[Column]
) -> NDArray[np.float64]:
    """Pick the plan's columns of ``values`` (..., names) and scale them to [-1, 1], clamped.

    Raises:
        OperatorError: a column of the plan is not among ``names``.
    """
    position = {name: index for index, name in enumerate(names)}
    missing = [column.name for column in columns if column.name not in position]
    if missing:
        raise OperatorError(f"table: column {missing[0]!r} of the plan is missing; add it")
    picked = values[..., [position[column.name] for column in columns]]
    lower = np.array([column.lower for column in columns])
    upper = np.array([column.upper for column in columns])
    scaled: NDArray[np.float64] = np.clip(2 * (picked - lower) / (upper - lower) - 1, -1, 1)
    return scaled


class _Cache:
    """Arrays by index, the least recently used dropped beyond a number of bytes."""

    def __init__(self, limit: int) -> None:
        self._limit, self._used = limit, 0
        self._held: OrderedDict[int, Inputs] = OrderedDict()

    def get(self, index: int) -> Inputs | None:
        if index not in self._held:
            return None
        self._held.move_to_end(index)
        return self._held[index]

    def put(self, index: int, inputs: Inputs) -> None:
        self._held[index] = inputs
        self._used += inputs.nbytes
        while self._used > self._limit and self._held:
            _, dropped = self._held.popitem(last=False)
            self._used -= dropped.nbytes
