"""``policy.toml`` as a file: reading it, and the one that ``init`` writes (G9)."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedward_client.policy import ACCOUNTS, Policy
from fedward_common.errors import OperatorError


def load_policy(path: Path) -> Policy:
    """Read and validate ``policy.toml``; a cap that is missing is an empty one.

    Raises:
        OperatorError: unreadable, not TOML, an unknown key or a bad value; every defect is named.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        return Policy.model_validate(_with_empty_caps(document))
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path}: cannot read the policy; check the file") from error
    except tomllib.TOMLDecodeError as error:
        raise OperatorError(f"{path}: not valid TOML: {error}") from error
    except ValidationError as error:
        lines = (
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        )
        raise OperatorError(f"{path}: {'; '.join(lines)}") from error


def default_policy_text() -> str:
    """Return the ``policy.toml`` that ``init`` writes: it refuses everything (G9)."""
    return _DEFAULT


def _with_empty_caps(document: dict[str, Any]) -> dict[str, Any]:
    """Both caps of both accounts have to be decided on: what is left out refuses (G9)."""
    caps = document.get("caps", {})
    if not isinstance(caps, dict):
        return document
    empty = {"epsilon": "", "epsilon_worst_case": ""}
    tables = {name: caps.get(name, {}) for name in ACCOUNTS}
    filled = {n: {**empty, **table} for n, table in tables.items() if isinstance(table, dict)}
    return {**document, "caps": {**caps, **filled}}


_DEFAULT = """\
# What this hospital agrees to. As written here, every study is refused: fill in what you allow.

# The most privacy that may ever be spent on one patient, over all studies of this hospital's life;
# nothing is ever refunded. Both caps must be filled in, for patients who are trained on and for
# patients who are held out for evaluation. Smaller is safer: patients together with the server and
# up to c colluding hospitals learn at most epsilon about one, and epsilon_worst_case is what
# remains if all other hospitals work against this one ("none": not capped).
# An example to compare with: 200 training steps over 8 hospitals, of which 6 must contribute and 1
# may collude, with sampling rate 0.2, noise multiplier 5.8, delta 1e-5 and 20 attempts to spare,
# cost epsilon 2.10 and in the worst case 5.52.
[caps.train]
epsilon = ""
epsilon_worst_case = ""
delta = 1e-5

[caps.holdout]
epsilon = ""
epsilon_worst_case = ""
delta = 1e-5

[studies]
queries = []                 # for example ["count", "moments", "gradient", "histogram"]; also
                             # "covariance" (components) and "fedavg" (local training)
models = []                  # for example ["cnn", "svm"]
minimum_contributors = 3     # hospitals whose sum may be opened, at least (t_min)
minimum_colluding = 1        # colluding hospitals that a plan must tolerate, at least (c)
minimum_cohort = 50          # patients of this hospital, at least
audit_share = 0.05           # share of the published sums that this site recomputes itself
clip = { min = 0.0, max = 1e6 }
noise_multiplier = { min = 0.3, max = 1e5 }
sampling_rate = { min = 0.0, max = 1.0 }

# When this hospital computes, by its own clock; remove the marks to use it. A day that is not
# listed is closed, and a window that ends before it begins ends on the next day.
# [hours]
# monday = ["18:00-06:00"]
# saturday = ["00:00-24:00"]
"""
