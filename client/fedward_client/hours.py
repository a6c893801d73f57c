"""When a site computes: windows of the week, by its own clock (G7)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_MINUTES = 24 * 60

Window = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d-(([01]\d|2[0-3]):[0-5]\d|24:00)$")]
"""Part of a day, such as "08:00-18:30"; one that ends at or before its start ends a day later."""


class Hours(BaseModel):
    """When the site computes, by its own clock; a weekday without windows is closed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    monday: list[Window] = []
    tuesday: list[Window] = []
    wednesday: list[Window] = []
    thursday: list[Window] = []
    friday: list[Window] = []
    saturday: list[Window] = []
    sunday: list[Window] = []

    def hold(self, at: datetime) -> bool:
        """Say whether ``at``, the site's local time, lies in a window."""
        minute = 60 * at.hour + at.minute
        days: tuple[list[str], ...] = tuple(getattr(self, day) for day in type(self).model_fields)
        yesterday, today = days[at.weekday() - 1], days[at.weekday()]
        return any(start <= minute < end for start, end in map(_minutes, today)) or any(
            minute < end - _MINUTES for _, end in map(_minutes, yesterday)
        )


def _minutes(window: str) -> tuple[int, int]:
    """The window in minutes from its day's midnight; the end lies above the start."""
    (h1, m1), (h2, m2) = (map(int, time.split(":")) for time in window.split("-"))
    start, end = 60 * h1 + m1, 60 * h2 + m2
    return start, end if end > start else end + _MINUTES
