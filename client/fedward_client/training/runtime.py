"""Speed against memory at one site. Apart from the training itself, so that naming it is cheap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedward_common.errors import OperatorError

Engine = Literal["opacus", "opacus-functorch"]
"""``opacus``: its analytic rule per layer; ``opacus-functorch``: the same through vmap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """Choices that change speed and memory, never the guarantee: local, not part of the plan.

    Attributes:
        micro_batch: Views in one pass through the model.
        threads: CPU threads of torch.
        device: A torch device such as ``cpu`` or ``cuda``.
        engine: How per-sample gradients are computed.
    """

    micro_batch: int = 64
    threads: int = 1
    device: str = "cpu"
    engine: Engine = "opacus"

    def __post_init__(self) -> None:
        for name in ("micro_batch", "threads"):
            if getattr(self, name) < 1:
                raise OperatorError(f"runtime.{name}: {getattr(self, name)} is not positive")
