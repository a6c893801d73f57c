"""What a check found, in plain words and in figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FALSE_ALARMS = 1e-6
"""How often a check of noise or sampling fails although everything is right."""

Figure = float | int | str | None


@dataclass(frozen=True)
class Finding:
    """One check: its ``name``, whether it ``passed``, a sentence, and what was measured."""

    name: str
    passed: bool
    verdict: str
    figures: Mapping[str, Figure]
