"""How long a daemon waits before it asks for an order again.

Each question costs the server some milliseconds, whether it has an order or not, and it has many
sites to answer. So pauses grow while nothing comes, and begin longer where orders come seldom.
"""

from __future__ import annotations

SHORTEST_SECONDS, LONGEST_SECONDS, GROWTH = 0.1, 4.0, 1.25
"""The pause between two questions, and how it grows."""

EARLY, LONGEST_WAIT_SECONDS = 4.0, 60.0
"""The first pause after an order is this part of the time that was waited for that order; whoever
waited longer was not within a round."""


class Pace:
    """The pauses of one session."""

    def __init__(self) -> None:
        self._pause = SHORTEST_SECONDS

    def after_order(self, waited: float) -> None:
        """Note that an order came after ``waited`` seconds without one, and has been answered."""
        known = waited < LONGEST_WAIT_SECONDS
        self._pause = max(waited / EARLY, SHORTEST_SECONDS) if known else SHORTEST_SECONDS

    def after_nothing(self) -> float:
        """Return how long to wait, in seconds, when there was no order."""
        pause = min(self._pause, LONGEST_SECONDS)
        self._pause = pause * GROWTH
        return pause
