"""How far a study has come: a pure fold over its published sums.

Server and sites run the same fold on the same sums and so hold the same bits (A2): the server needs
to send nothing but sums, and a site takes no model, no schedule and no order of queries from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedward_common import optimizer
from fedward_common.codec import Value, decode, digest, encode
from fedward_common.errors import PeerError
from fedward_common.models.prediction import Standardisation, identity_standardisation
from fedward_common.optimizer import OptimizerState
from fedward_common.plan.sections import (
    CountQuery,
    CovarianceQuery,
    FedAvgQuery,
    GradientQuery,
    MomentsQuery,
)
from fedward_common.queries import covariance, moments
from fedward_common.queries.task import Task
from fedward_common.study import Study

Vector = NDArray[np.float64]
MAX_PROGRESS_BYTES = 1 << 31


@dataclass(frozen=True)
class Progress:
    """State after ``position`` published sums.

    ``mean`` and ``scale`` standardise inputs, each ``(channels,)``; ``projection`` maps what is
    standardised to principal components, ``(channels, k)``, k = 0 without them; ``counts`` is the
    noised number of training patients per class (empty before it was asked); ``results`` holds the
    decoded sum of every finished count, moments and histogram, by task index.
    """

    position: int
    state: OptimizerState
    mean: Vector
    scale: Vector
    projection: Vector
    counts: Vector
    results: tuple[tuple[int, Vector], ...]

    @property
    def standardisation(self) -> Standardisation:
        """What the model's inputs still need: nothing once they are components."""
        if self.projection.size:
            return identity_standardisation()
        return Standardisation(self.mean, self.scale)

    def model_inputs(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """A patient's inputs ``(m, ...)`` as the model takes them: components, if there are any."""
        if self.projection.size:
            return covariance.project(inputs, self.mean, self.scale, self.projection)
        return inputs

    def public_digest(self, task: Task) -> bytes:
        """H(public input): 32 bytes. The position makes every published one distinct (A2).

        It covers the whole state: members who agree on it agree on all that follows from it.
        """
        return digest("public-input", task.name, self.encode())

    def encode(self) -> bytes:
        """The canonical encoding: what a checkpoint holds."""
        state = self.state
        model = (state.parameters, state.velocity, state.average)
        arrays = (*model, self.mean, self.scale, self.projection)
        results: tuple[Value, ...] = tuple((i, _to_bytes(a)) for i, a in self.results)
        return encode(
            (
                "progress",
                self.position,
                state.step,
                tuple(_to_bytes(a) for a in arrays),
                _to_bytes(self.counts),
                results,
            )
        )


def begin(study: Study) -> Progress:
    """The state before the first round: the plan's initial model, no standardisation."""
    channels = study.channels
    return Progress(
        position=0,
        state=optimizer.begin(study.initial_parameters),
        mean=np.zeros(channels),
        scale=np.ones(channels),
        projection=np.zeros((channels, 0)),
        counts=np.zeros(0),
        results=(),
    )


def advance(study: Study, progress: Progress, total: Vector) -> Progress:
    """Fold one published, decoded sum of shape ``(task.dimension,)`` into the state."""
    task, _ = study.at(progress.position)
    if total.shape != (task.dimension,):
        raise PeerError(f"{task.name}: a sum of {total.shape} instead of ({task.dimension},)")
    after = replace(progress, position=progress.position + 1)
    if isinstance(task.query, GradientQuery):
        divisor = task.clip * task.sampling_rate * study.divisor(progress.counts)
        state = optimizer.advance(progress.state, total / divisor, study.hyperparameters)
        return replace(after, state=state)
    if isinstance(task.query, FedAvgQuery):
        change = -total / len(study.plan.roster.sites)
        return replace(
            after, state=optimizer.advance(progress.state, change, study.hyperparameters)
        )
    if isinstance(task.query, CovarianceQuery):
        return replace(after, projection=_projection(study, task.query, progress, total))
    after = replace(after, results=(*progress.results, (task.index, total)))
    if isinstance(task.query, CountQuery) and task.split == "train":
        return replace(after, counts=total)
    if isinstance(task.query, MomentsQuery):
        mean, scale = moments.interpret(total, study.divisor(progress.counts))
        return replace(after, mean=mean, scale=scale)
    return after


def decode_progress(data: bytes) -> Progress:
    """Read back :meth:`Progress.encode`.

    Raises:
        PeerError: not such an encoding.
    """
    value = decode(data, max_bytes=MAX_PROGRESS_BYTES)
    match value:
        case (
            "progress",
            int(position),
            int(step),
            (parameters, velocity, average, mean, scale, projection),
            bytes(counts),
            tuple(results),
        ):
            centre = _from_bytes(mean)
            return Progress(
                position=position,
                state=OptimizerState(
                    _from_bytes(parameters), _from_bytes(velocity), _from_bytes(average), step
                ),
                mean=centre,
                scale=_from_bytes(scale),
                projection=_columns(_from_bytes(projection), len(centre)),
                counts=_from_bytes(counts),
                results=tuple(_result(item) for item in results),
            )
        case _:
            raise PeerError("a checkpoint is not an encoded progress")


def _projection(study: Study, query: CovarianceQuery, progress: Progress, total: Vector) -> Vector:
    """The components that follow from a sum; worked out once a process, for all who ask (A2)."""
    divisor = study.divisor(progress.counts)
    channels, components = len(progress.mean), query.components
    return _remembered(_to_bytes(total), divisor, channels, components)


@lru_cache(maxsize=2)
def _remembered(total: bytes, divisor: float, channels: int, components: int) -> Vector:
    found = covariance.interpret(_from_bytes(total), divisor, channels, components)
    found.setflags(write=False)
    return found


def _columns(flat: Vector, rows: int) -> Vector:
    if rows == 0 or flat.size % rows:
        raise PeerError("a checkpoint holds a malformed projection")
    return flat.reshape(rows, flat.size // rows)


def _result(item: Value) -> tuple[int, Vector]:
    match item:
        case (int(index), bytes(data)):
            return index, _from_bytes(data)
        case _:
            raise PeerError("a checkpoint holds a malformed result")


def _to_bytes(array: Vector) -> bytes:
    return np.ascontiguousarray(array, dtype="<f8").tobytes()


def _from_bytes(data: Value) -> Vector:
    if not isinstance(data, bytes) or len(data) % 8:
        raise PeerError("a checkpoint holds a malformed array")
    return np.frombuffer(data, dtype="<f8").astype(np.float64)
