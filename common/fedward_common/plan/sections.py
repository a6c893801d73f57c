"""The sections of a study plan: frozen, strict, unknown keys refused.

Field bounds live here; rules that span sections live in :mod:`fedward_common.plan.rules`. What
changes the guarantee is in the plan; what changes only speed is in ``RuntimeOptions`` at the site.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Hex16 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$", max_length=512)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Unit = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Line = Annotated[str, Field(max_length=200)]


class Section(BaseModel):
    """A plan section: immutable, no coercion, no unknown key."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Study(Section):
    """What the study is; ``classes`` orders the labels, label k is ``classes[k]``."""

    name: Slug
    id: Hex16
    title: Line = ""
    classes: Annotated[tuple[Line, ...], Field(min_length=2, max_length=64)]


class Protocol(Section):
    """The protocol spoken and the oldest package that may take part."""

    version: Literal[1] = 1
    minimum_package: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")] = "0.1.0"


class RosterSite(Section):
    """One member: its name and its public Ed25519 identity and P-384 transport keys (A1), hex."""

    name: Slug
    identity: Hex32
    transport: Hex = ""


class Roster(Section):
    """The coordinator's Ed25519 key and the member sites, in the order that numbers them."""

    coordinator: Hex32
    sites: Annotated[tuple[RosterSite, ...], Field(min_length=1, max_length=200)]


class Column(Section):
    """A table column and the public bounds it is scaled by: values map to [-1, 1], clamped."""

    name: Line
    lower: float
    upper: float


class Cohort(Section):
    """Whose data is used. At most ``images_per_patient`` images form one patient's vector (B1)."""

    source: Literal["images", "table"] = "images"
    images_per_patient: Annotated[int, Field(ge=1, le=64)] = 1
    columns: Annotated[tuple[Column, ...], Field(max_length=1024)] = ()


class Preprocess(Section):
    """How a cleaned instance becomes a ``(channels, size, size)`` float32 image in [0, 1].

    CT: Hounsfield units. MR: percentiles, or z-scores up to ``mr_zscore_limit`` deviations. PET:
    standardised uptake in g/ml. NM: counts. ``clahe_clip``: share of a tile's pixels in one grey
    level. ``denoise_strength``: filter strength in standard deviations of the image's noise.
    """

    size: Annotated[int, Field(ge=16, le=512)] = 64
    channels: Literal[1, 3] = 1
    ct_center: float = 40.0
    ct_width: Positive = 400.0
    mr_normalisation: Literal["percentile", "zscore"] = "percentile"
    mr_low_percentile: Annotated[float, Field(ge=0, le=100)] = 1.0
    mr_high_percentile: Annotated[float, Field(ge=0, le=100)] = 99.0
    mr_zscore_limit: Positive = 3.0
    pet_suv_max: Positive = 10.0
    nm_high_percentile: Annotated[float, Field(gt=0, le=100)] = 100.0
    foreground: Literal["off", "otsu", "lung"] = "off"
    foreground_use: Literal["mask", "crop"] = "mask"
    clahe: bool = False
    clahe_clip: Annotated[float, Field(gt=0, le=1)] = 0.01
    denoise: bool = False
    denoise_strength: Positive = 0.8
    max_frames: Annotated[int, Field(ge=1, le=1024)] = 16


class Model(Section):
    """The shared model. Its first parameters follow from ``init_seed``; their digest is pinned."""

    kind: Literal["cnn", "cnn-classic", "svm"]
    features: Literal["scattering", "hog", "columns"] | None = None
    multiclass: Literal["ovr", "crammer-singer"] = "ovr"
    width: Annotated[int, Field(ge=1, le=256)] = 16
    init_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    initial_sha256: Hex32 | None = None


class Augmentation(Section):
    """Random views of one image; the gradients of ``copies`` views are averaged before the clip.

    ``shift`` is a share of the side, ``rotation`` in degrees, ``zoom`` and ``intensity`` relative.
    """

    copies: Annotated[int, Field(ge=1, le=64)] = 1
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    rotation: Annotated[float, Field(ge=0, le=45)] = 0.0
    zoom: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    flip: bool = False
    intensity: Annotated[float, Field(ge=0, le=0.5)] = 0.0


class _Query(Section):
    """What every query names: its mechanism (part B) and its ring encoding (A5)."""

    noise_multiplier: Positive
    scale: Positive
    ring_bound: Annotated[int, Field(ge=1, lt=2**31)]


class CountQuery(_Query):
    """Patients per class: a one-hot vector of norm 1, every patient included."""

    kind: Literal["count"] = "count"
    split: Literal["train", "holdout"] = "train"


class MomentsQuery(_Query):
    """First and second moments per channel or column, for standardisation."""

    kind: Literal["moments"] = "moments"


class GradientQuery(_Query):
    """Clipped gradient steps; ``rounds`` private sums at Poisson rate ``sampling_rate``."""

    kind: Literal["gradient"] = "gradient"
    rounds: Annotated[int, Field(ge=1, le=100_000)]
    sampling_rate: Annotated[float, Field(gt=0, le=1)]
    clip: Positive
    augmentation: Augmentation = Augmentation()


class FedAvgQuery(_Query):
    """Rounds of local training; what leaves is the site's clipped change of the model.

    A round is ``local_steps`` steps at Poisson rate ``sampling_rate``, each with noise of the
    site's own: ``scale`` and ``ring_bound`` are the grid of that noise, ``clip`` bounds a patient's
    gradient and ``update_clip`` the change of the model (docs/adr/0020).
    """

    kind: Literal["fedavg"] = "fedavg"
    rounds: Annotated[int, Field(ge=1, le=10_000)]
    local_steps: Annotated[int, Field(ge=1, le=1000)]
    sampling_rate: Annotated[float, Field(gt=0, le=1)]
    clip: Positive
    local_learning_rate: Annotated[float, Field(gt=0, le=1e6)]
    update_clip: Annotated[float, Field(ge=1e-6, le=1e6)]
    augmentation: Augmentation = Augmentation()


class CovarianceQuery(_Query):
    """Second moments of inputs clipped to norm ``clip``; the svm then sees ``components`` of them.

    The principal components follow from the noised sum (docs/adr/0021).
    """

    kind: Literal["covariance"] = "covariance"
    clip: Positive
    components: Annotated[int, Field(ge=1, le=256)]


class HistogramQuery(_Query):
    """Scores of held-out patients by true class, in ``bins`` equal bins of [0, 1]."""

    kind: Literal["histogram"] = "histogram"
    bins: Annotated[int, Field(ge=2, le=1000)] = 50


Query = Annotated[
    CountQuery | MomentsQuery | CovarianceQuery | GradientQuery | FedAvgQuery | HistogramQuery,
    Field(discriminator="kind"),
]

TRAINING = (GradientQuery, FedAvgQuery)
"""The queries that move the model: patients' clipped gradients are what they ask for."""


class Privacy(Section):
    """Patient-level (epsilon, delta); epsilon follows from the queries (B5), delta is stated."""

    delta: Annotated[float, Field(gt=0, lt=0.01)]
    slack: Annotated[float, Field(ge=0, le=0.5)] = 2.0**-8


class SecureAggregation(Section):
    """A1: ``t_min`` sites must contribute and ``colluding`` of the members may collude."""

    t_min: int
    colluding: int
    unsafe_for_simulation: bool = False


class Schedule(Section):
    """The optimizer, which every member recomputes (A2), and how long and how often to try.

    A step is ``learning_rate * sum / (clip * sampling_rate * divisor)``, where the divisor is
    ``nominal_patients`` or, if that is absent, the latest noised count. After local training the
    step is ``learning_rate`` times the mean change over the roster: 1, without momentum and with
    ``final_learning_rate`` 1, averages the sites' models.
    """

    learning_rate: Positive = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.9
    final_learning_rate: Unit = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    nominal_patients: Annotated[int, Field(ge=1)] | None = None
    maximum_attempts: Annotated[int, Field(ge=1, le=1_000_000)]
    reply_delay_seconds: Annotated[float, Field(ge=0, le=3600)] = 0.0
    round_deadline_seconds: Annotated[float, Field(gt=0, le=86_400)] = 600.0


class Release(Section):
    """What the coordinator may give out at the end."""

    model: bool = True
    metrics: bool = True
