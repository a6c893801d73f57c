"""The facts that a report shows, as plain frozen data: no image, no patient, nothing to compute.

Whoever runs a study fills these in; `page`, `summary` and `model_card` only show them. Everything
here is already public to the server: results of private sums, constants of the plan and counts of
the server's own messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A figure and how far it may be off.

    ``uncertainty`` is one standard deviation of the privacy noise in it, in the same unit; None
    says that the figure is exact.
    """

    value: float
    uncertainty: float | None = None


@dataclass(frozen=True)
class Confusion:
    """Decisions against the truth: ``counts[true class][decided class]`` in patients or images.

    Counts that come from a noised histogram are real numbers and may be slightly negative.
    """

    classes: tuple[str, ...]
    counts: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class CalibrationBin:
    """One bin of predicted probability: its mean, the observed frequency, its share of all cases.

    All three are in [0, 1].
    """

    predicted: float
    observed: float
    share: float


@dataclass(frozen=True)
class Metrics:
    """How well a model does on one set of cases. With more than two classes: macro averages.

    ``calibration_error`` is the expected calibration error (Guo et al. 2017), in [0, 1].
    ``threshold`` is the probability from which a case counts as positive. ``cases`` is how many
    the figures rest on; None if that was not asked.
    """

    auc: Estimate
    accuracy: Estimate
    sensitivity: Estimate
    specificity: Estimate
    precision: Estimate
    f1: Estimate
    calibration_error: Estimate
    threshold: float = 0.5
    cases: Estimate | None = None
    confusion: Confusion | None = None
    calibration: tuple[CalibrationBin, ...] = ()


@dataclass(frozen=True)
class ModelFacts:
    """The model: ``kind`` as in the plan, number of parameters, names of its classes in order."""

    kind: str
    parameters: int
    classes: tuple[str, ...]


@dataclass(frozen=True)
class PrivacyFacts:
    """The guarantees of the whole plan (PROTOCOL B4), retries included.

    ``epsilon`` holds against the server, everyone outside and any ``colluding`` members (B4 i),
    ``epsilon_worst_case`` if all other sites collude (B4 ii), ``epsilon_one_curious`` against one
    curious member where ``colluding`` is 0 and is None otherwise. ``statement`` is the same in
    plain sentences. ``unit`` says who is protected, for example "patient".
    """

    epsilon: float
    epsilon_worst_case: float
    epsilon_one_curious: float | None
    delta: float
    unit: str = "patient"
    colluding: int = 0
    statement: tuple[str, ...] = ()


@dataclass(frozen=True)
class SiteFacts:
    """What one site sent and received. Bytes are those of encoded messages on the wire.

    ``train_patients_nominal`` is a public constant of the plan, never a count of that site.
    """

    name: str
    train_patients_nominal: int | None
    rounds_taken: int
    messages_sent: int
    bytes_sent: int
    bytes_received: int


@dataclass(frozen=True)
class RoundPoint:
    """One finished round (one private sum).

    ``round`` counts from 1, ``seconds`` is its duration, ``sites`` how many contributed,
    ``epsilon_spent`` what has been spent so far on a training patient (operational, B5),
    ``wire_bytes`` all bytes of this round over all sites, both ways. ``auc`` is the latest
    estimate if this round brought one, ``update_norm`` the Euclidean norm of the model's step.
    """

    round: int
    query: str
    seconds: float
    sites: int
    epsilon_spent: float
    wire_bytes: int = 0
    auc: float | None = None
    update_norm: float | None = None


@dataclass(frozen=True)
class RunReport:
    """A finished run of a study, as a deployment may show it: there is no image in it.

    ``created`` is an ISO 8601 time, ``plan_digest`` hexadecimal, ``versions`` maps a package to
    its version. ``federation_metrics`` is the federation's own noised estimate from held-out
    patients; None if the plan has no such query.
    """

    title: str
    study: str
    plan_digest: str
    created: str
    versions: Mapping[str, str]
    model: ModelFacts
    privacy: PrivacyFacts
    sites: tuple[SiteFacts, ...]
    rounds: tuple[RoundPoint, ...]
    federation_metrics: Metrics | None
    seconds: float
    bytes_per_site_per_round: float
