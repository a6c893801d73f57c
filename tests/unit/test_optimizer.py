"""The optimizer against a loop written from the textbook, and its published limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward_common.optimizer import Hyperparameters, advance, begin, learning_rate


def by_hand(start, gradients, hyper):
    """Plain Python floats, one coordinate at a time."""
    w, v, average = list(start), [0.0] * len(start), list(start)
    for t, gradient in enumerate(gradients):
        cosine = (1 + math.cos(math.pi * (t + 1) / hyper.steps)) / 2
        rate = hyper.learning_rate * (hyper.final + (1 - hyper.final) * cosine)
        keep = min(hyper.ema, (1 + t) / (10 + t))
        for i, g in enumerate(gradient):
            v[i] = hyper.momentum * v[i] + (1 - hyper.momentum) * g
            w[i] = w[i] - rate * hyper.weight_decay * w[i] - rate * v[i]
            average[i] = keep * average[i] + (1 - keep) * w[i]
    return w, average


@given(
    seed=st.integers(0, 2**32),
    momentum=st.floats(0, 0.99),
    ema=st.floats(0, 0.99),
    final=st.floats(0, 1),
    decay=st.floats(0, 0.1),
    steps=st.integers(1, 12),
)
@settings(max_examples=60, deadline=None)
def test_it_is_momentum_cosine_and_moving_average(seed, momentum, ema, final, decay, steps):
    hyper = Hyperparameters(0.7, momentum, ema, final, decay, steps)
    rng = np.random.default_rng(seed)
    start, gradients = rng.normal(size=4), rng.normal(size=(steps, 4))
    state = begin(start)
    for gradient in gradients:
        state = advance(state, gradient, hyper)
    parameters, average = by_hand(start, gradients, hyper)
    assert np.allclose(state.parameters, parameters, rtol=1e-12, atol=1e-12)
    assert np.allclose(state.average, average, rtol=1e-12, atol=1e-12)
    assert state.step == steps


def test_it_agrees_with_torchs_sgd():
    """torch: dampening = momentum, cosine annealing taken one step ahead."""
    hyper = Hyperparameters(0.5, 0.9, 0.0, 0.0, 0.0, 8)
    start, gradients = np.ones(3), np.random.default_rng(0).normal(size=(8, 3))
    weights = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    sgd = torch.optim.SGD([weights], lr=0.5, momentum=0.9, dampening=0.0)
    state = begin(start)
    for step, gradient in enumerate(gradients):
        sgd.param_groups[0]["lr"] = learning_rate(hyper, step) * (1 - 0.9)
        weights.grad = torch.tensor(gradient)
        sgd.step()
        state = advance(state, gradient, hyper)
    assert np.allclose(state.parameters, weights.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("final", [0.0, 0.25, 1.0])
def test_the_cosine_falls_from_the_first_to_the_last_rate(final):
    hyper = Hyperparameters(2.0, 0.0, 0.0, final, 0.0, 10)
    rates = [learning_rate(hyper, step) for step in range(10)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(2.0 * final)
    assert rates[4] == pytest.approx(2.0 * (1 + final) / 2)
    assert learning_rate(hyper, 50) == pytest.approx(2.0 * final)


def test_the_average_forgets_the_first_parameters():
    hyper = Hyperparameters(1e-9, 0.0, 0.999, 1.0, 0.0, 200)
    state = begin(np.array([1.0]))
    state = advance(state, np.array([1e9]), hyper)  # one step to 0
    for _ in range(199):
        state = advance(state, np.zeros(1), hyper)
    assert state.parameters[0] == pytest.approx(0.0)
    assert abs(state.average[0]) < 1e-3


def test_a_state_is_not_changed_by_the_step_after_it():
    hyper = Hyperparameters(1.0, 0.9, 0.9, 0.0, 0.0, 5)
    state = advance(begin(np.ones(2)), np.ones(2), hyper)
    before = (state.parameters.tobytes(), state.velocity.tobytes(), state.average.tobytes())
    advance(state, np.ones(2), hyper)
    assert before == (
        state.parameters.tobytes(),
        state.velocity.tobytes(),
        state.average.tobytes(),
    )
