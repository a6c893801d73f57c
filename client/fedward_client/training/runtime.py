"""Speed against memory at one site. Apart from the training itself, so that naming it is cheap."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from fedward_common.errors import OperatorError

Engine = Literal["fedward", "opacus", "opacus-functorch"]
"""``fedward``: one pass that keeps books, and Opacus for a model with layers that it does not know;
``opacus``: Opacus' analytic rule per layer; ``opacus-functorch``: the same through vmap."""

AUTO = "auto"
"""The device that is a GPU where there is one, and else the processor."""

DEVICE = r"^(auto|cpu|cuda(:[0-9]{1,2})?)$"
"""How a device is named."""

PASS_VALUES = 2**16
"""Input values of one pass by default: what follows from them then stays near the processor."""

PASS_VIEWS = 256
"""Most views in one pass by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """Choices that change speed and memory, never the guarantee: local, not part of the plan.

    Attributes:
        micro_batch: Views in one pass through the model; None fits it to the size of an input.
        threads: CPU threads of torch, and of the masking.
        device: ``cpu``, ``cuda``, ``cuda:1``, or ``auto``.
        engine: How every patient's gradient is computed.

    Raises:
        OperatorError: A value is out of range.
    """

    micro_batch: int | None = None
    threads: int = 1
    device: str = "cpu"
    engine: Engine = "fedward"

    def __post_init__(self) -> None:
        for name in ("micro_batch", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OperatorError(f"runtime.{name}: {value} is not positive")
        if self.engine not in get_args(Engine):
            names = ", ".join(get_args(Engine))
            raise OperatorError(f"runtime.engine: {self.engine!r} is not one of {names}")
        if not re.match(DEVICE, self.device):
            raise OperatorError(
                f"runtime.device: {self.device!r} is not auto, cpu, cuda or cuda:NUMBER"
            )

    @property
    def torch_device(self) -> str:
        """The torch device that ``device`` means on this machine.

        Raises:
            OperatorError: there is no such GPU.
        """
        import torch  # noqa: PLC0415  (slow, and only for who trains)

        if self.device == "cpu":
            return self.device
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if self.device == AUTO:
            return "cuda" if gpus else "cpu"
        if int(self.device.partition(":")[2] or 0) >= gpus:
            raise OperatorError(
                f"runtime.device: {self.device!r}, but this machine shows {gpus} GPUs: set it to "
                "'auto' or 'cpu' in config.toml"
            )
        return self.device

    def views_per_pass(self, values: int) -> int:
        """Return how many inputs of ``values`` numbers each pass through the model together."""
        if self.micro_batch is not None:
            return self.micro_batch
        return max(1, min(PASS_VIEWS, PASS_VALUES // values))
