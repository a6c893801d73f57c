"""Train or held out: a patient's split is a keyed hash of that patient alone (B6).

It is fixed when the site is made, never stratified and never reshuffled, so no other patient's
arrival or departure can move it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from fedward_client.keyed import Keyed
from fedward_common.errors import OperatorError
from fedward_common.queries.task import Split
from fedward_common.secret import SecretBytes

_RANGE = 1 << 64


@dataclass(frozen=True)
class SplitRule:
    """``threshold``: a patient is held out if the first 64 bits of its keyed hash are below it."""

    key: SecretBytes
    threshold: int

    @cached_property
    def _keyed(self) -> Keyed:
        return Keyed(self.key)

    def split_of(self, patient: str) -> Split:
        """Return the split of a (pseudonymous) patient. # B6."""
        value = self._keyed.digest("fedward-split-1", patient)[:8]
        return "holdout" if int.from_bytes(value, "big") < self.threshold else "train"


def threshold_of(holdout_fraction: float) -> int:
    """Return the threshold under which a fraction of patients falls.

    Raises:
        OperatorError: the fraction is not within [0, 0.9].
    """
    if not 0 <= holdout_fraction <= 0.9:
        raise OperatorError(
            f"holdout_fraction: {holdout_fraction} is not within 0 and 0.9; 0.2 is usual"
        )
    return round(holdout_fraction * _RANGE)
