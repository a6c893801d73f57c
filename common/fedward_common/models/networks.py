"""The torch modules behind a :class:`ModelSpec`.

Every layer treats each input alone: GroupNorm instead of BatchNorm, so that a patient's gradient
does not depend on who else is in the batch (B1). tanh bounds activations, which suits clipped
and noised gradients (Papernot et al. 2021, "Tempered sigmoid activations").
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from fedward_common.models.features import feature_count, model_input_shape
from fedward_common.models.spec import ModelSpec

GROUPS = 4
"""Groups of a GroupNorm on images."""

GRID = 4
"""Side of the grid that the last feature map is averaged to, whatever the image's size."""


def build(spec: ModelSpec) -> nn.Module:
    """Return the module: float32 (N, *model input) -> float32 (N, spec.outputs).

    The module's parameters are uninitialised material; load them with
    :func:`fedward_common.models.parameters.load_flat`.
    """
    if spec.kind == "svm":
        return nn.Sequential(OrderedDict(head=nn.Linear(feature_count(spec), spec.outputs)))
    if spec.kind == "cnn":
        return _small(spec) if spec.features is None else _hybrid(spec)
    return _classic(spec)


def _stage_count(side: int) -> int:
    """Stride-2 stages that bring ``side`` to 8 pixels or fewer: 2 at 28 px, 5 at 224 px."""
    stages = 2
    while side > 8 << stages:
        stages += 1
    return stages


def _small(spec: ModelSpec) -> nn.Module:
    channels, side, _ = spec.input_shape
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for stage in range(_stage_count(side)):
        out = spec.width if stage == 0 else 2 * spec.width
        kernel = 5 if stage == 0 else 3
        layers[f"conv{stage}"] = nn.Conv2d(channels, out, kernel, stride=2, padding=kernel // 2)
        layers[f"norm{stage}"] = nn.GroupNorm(GROUPS, out)
        layers[f"tanh{stage}"] = nn.Tanh()
        channels = out
    layers["pool"] = nn.AdaptiveAvgPool2d(GRID)
    layers["flatten"] = nn.Flatten()
    layers["head"] = nn.Linear(channels * GRID**2, spec.outputs)
    return nn.Sequential(layers)


def _hybrid(spec: ModelSpec) -> nn.Module:
    """One convolution on scattering maps, whose wavelets stand for the layers before it.

    Oyallon et al. 2017, "Scaling the scattering transform: deep hybrid networks". Every channel is
    a group of its own: with so few, channels that share a group drown each other in noise.
    """
    channels = model_input_shape(spec)[0]
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv0=nn.Conv2d(channels, spec.width, 3, padding=1),
            norm0=nn.GroupNorm(spec.width, spec.width),
            tanh0=nn.Tanh(),
            pool=nn.AdaptiveAvgPool2d(GRID),
            flatten=nn.Flatten(),
            head=nn.Linear(spec.width * GRID**2, spec.outputs),
        )
    )


def _classic(spec: ModelSpec) -> nn.Module:
    channels, side, _ = spec.input_shape
    first_pool = 2 * max(1, round(side / 28))  # to about 14 px, as at the usual 28
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv0=nn.Conv2d(channels, 32, 3, padding=1),
            norm0=nn.GroupNorm(GROUPS, 32),
            tanh0=nn.Tanh(),
            pool0=nn.AvgPool2d(first_pool),
            conv1=nn.Conv2d(32, 64, 3, padding=1),
            norm1=nn.GroupNorm(GROUPS, 64),
            tanh1=nn.Tanh(),
            pool1=nn.AvgPool2d(2),
            pool=nn.AdaptiveAvgPool2d(GRID),
            flatten=nn.Flatten(),
            dense=nn.Linear(64 * GRID**2, 128),
            tanh2=nn.Tanh(),
            head=nn.Linear(128, spec.outputs),
        )
    )
