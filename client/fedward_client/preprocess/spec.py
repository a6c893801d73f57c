"""What preprocessing depends on: the plan's section, and nothing of the site's own."""

from __future__ import annotations

from fedward_common.codec import digest
from fedward_common.plan.sections import Preprocess as PreprocessSpec

VERSION = 2
"""Raised when the same specification starts to give other pixels: caches are then rebuilt."""

__all__ = ["VERSION", "PreprocessSpec", "spec_digest"]


def spec_digest(spec: PreprocessSpec) -> bytes:
    """Return H(specification): 32 bytes that name a cache of preprocessed tensors."""
    fields = tuple((name, value) for name, value in sorted(spec.model_dump().items()))
    return digest("preprocess", VERSION, fields)
