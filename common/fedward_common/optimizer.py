"""The optimizer: an element-wise float64 fold over published sums (A2).

Every member runs it on the same sums and gets the same bits; it is post-processing and costs no
privacy. Momentum SGD with a cosine schedule and an exponential moving average of the parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Hyperparameters:
    """What the plan's schedule fixes. ``final`` is the last learning rate over the first."""

    learning_rate: float
    momentum: float
    ema: float
    final: float
    weight_decay: float
    steps: int


@dataclass(frozen=True)
class OptimizerState:
    """Parameters, velocity and their moving average, each ``(d,)`` float64; steps taken."""

    parameters: Vector
    velocity: Vector
    average: Vector
    step: int


def begin(parameters: Vector) -> OptimizerState:
    """The state before the first step."""
    return OptimizerState(parameters, np.zeros_like(parameters), parameters, 0)


def learning_rate(hyper: Hyperparameters, step: int) -> float:
    """Cosine from ``learning_rate`` to ``final * learning_rate``, reached at the last step."""
    progress = min((step + 1) / max(hyper.steps, 1), 1.0)
    weight = (1.0 + math.cos(math.pi * progress)) / 2.0
    return hyper.learning_rate * (hyper.final + (1.0 - hyper.final) * weight)


def advance(state: OptimizerState, gradient: Vector, hyper: Hyperparameters) -> OptimizerState:
    """Take one step along the (noised) mean gradient of shape ``(d,)``.

    The average is debiased by using the smaller of ``ema`` and ``(1 + step) / (10 + step)``, so
    that the first parameters do not linger in it.
    """
    rate = learning_rate(hyper, state.step)
    velocity = hyper.momentum * state.velocity + (1.0 - hyper.momentum) * gradient
    # Decoupled weight decay (Loshchilov and Hutter 2019).
    parameters = (1.0 - rate * hyper.weight_decay) * state.parameters - rate * velocity
    keep = min(hyper.ema, (1.0 + state.step) / (10.0 + state.step))
    average = keep * state.average + (1.0 - keep) * parameters
    return OptimizerState(parameters, velocity, average, state.step + 1)
