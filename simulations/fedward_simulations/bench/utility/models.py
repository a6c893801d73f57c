"""How good the models are that privacy leaves: the federation beside its alternatives.

A *variant* is a scenario's plan at one epsilon and one pair of thresholds; in each variant models
are trained from the same hospitals, initial parameters and augmentation:

- ``federated``: ours. The sites' own integer addends are added without masks, which cancel; a test
  holds this equal, bit by bit, to the full protocol.
- ``pooled_private``: DP-SGD on all patients in one place, paired with ours: it draws the same
  batches and views.
- ``local_fedavg``: every site adds all the noise itself; models are averaged.
- ``alone``: every site by itself with all the noise; the mean over sites.
- ``pooled``: all patients in one place, no privacy.

Every setting comes from the scenario. Every finished model is kept, so that a killed bench goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedward_client.preprocess.pipeline import preprocess_array
from fedward_client.study_cohort import prepare_cohort
from fedward_common.codec import digest
from fedward_common.files import write_atomic
from fedward_common.guarantee import accounts_of
from fedward_common.models.features import feature_map
from fedward_common.plan.signing import SignedPlan
from fedward_common.privacy.parameters import MechanismParameters
from fedward_common.privacy.statement import PrivacyStatement, privacy_statement
from fedward_common.progress import Progress
from fedward_common.study import Study
from fedward_simulations.arrays import load_arrays
from fedward_simulations.bench.utility.request import Request, Variant, stages
from fedward_simulations.comparison import Job, run_jobs, setting_of
from fedward_simulations.exact import accuracy, auc
from fedward_simulations.federation import plan_for
from fedward_simulations.material import prepare
from fedward_simulations.randomness import Randomness
from fedward_simulations.scenario import Scenario
from fedward_simulations.trained import predict

SHOWN_BYTES = 4
"""Bytes of a digest in a folder's name."""

Notice = Callable[[str], None]
Queries = tuple[MechanismParameters, ...]


@dataclass(frozen=True)
class Cell:
    """One model, or for ``alone`` the mean over the sites' models.

    ``accuracy`` is at 0.5, or the largest score. ``balanced`` is accuracy too, decided as if all
    classes were equally frequent: scores are divided by the class shares that the plan's count
    query told, which is a charged query. For two classes the threshold is the share of class 1.
    """

    scenario: str
    method: str
    variant: Variant
    seed: int
    auc: float
    accuracy: float
    balanced: float
    epsilon: float
    epsilon_worst_case: float


def measure(request: Request, folder: Path, notice: Notice) -> Iterator[list[Cell]]:
    """Train and score what is not in ``folder`` yet; yields all cells so far, again and again.

    What the text speaks of comes first: every method at the first epsilon, then the rest.
    """
    benches = {
        (name, seed): _Bench(name, scenario, seed, request, folder, notice)
        for name, scenario in request.scenarios.items()
        for seed in request.seeds
    }
    cells: list[Cell] = []
    for variant, methods in stages(request):
        for bench in benches.values():
            cells += bench.cells(variant, methods)
            yield cells


class _Bench:
    """One scenario at one seed: its hospitals, its plans, and what was trained from them."""

    def __init__(
        self,
        name: str,
        scenario: Scenario,
        seed: int,
        request: Request,
        folder: Path,
        notice: Notice,
    ) -> None:
        self._name, self._scenario, self._seed = name, scenario, seed
        self._request, self._notice = request, notice
        images = load_arrays(request.images)
        source = images.digest()
        self._sites = folder / _folder("hospitals", scenario.data.model_dump_json(), source, seed)
        self._runs = folder / _folder(name, scenario.model_dump_json(), source, seed)
        self._images = images.test_images if request.split == "test" else images.val_images
        self._labels = images.test_labels if request.split == "test" else images.val_labels

    def cells(self, variant: Variant, methods: Sequence[str]) -> list[Cell]:
        """Train the missing models of ``methods`` in one variant, and score all of them."""
        study = Study(self._plan(variant).open())
        folder = self._runs / variant.name
        jobs = [job for method in methods for job in _jobs(method, study)]
        setting = setting_of(
            variant.of(self._scenario, self._seed),
            self._sites / "sites",
            [site.name for site in study.plan.roster.sites],
            study.plan,
            study.plan.digest,
        )
        label = f"{self._name}, seed {self._seed}, {variant.name}: {', '.join(methods)}"
        found = run_jobs(
            setting, jobs, folder, lambda done, total: self._notice(f"{label}, {done} of {total}")
        )
        inputs = self._inputs(study)
        return [
            self._cell(method, variant, study, inputs, [found[job] for job in _jobs(method, study)])
            for method in methods
        ]

    def _cell(
        self,
        method: str,
        variant: Variant,
        study: Study,
        inputs: NDArray[np.float32],
        models: Sequence[Progress],
    ) -> Cell:
        scored = [predict(study, model, inputs) for model in models]
        statement = _statement_of(study)
        private = method != "pooled"
        return Cell(
            scenario=self._name,
            method=method,
            variant=variant,
            seed=self._seed,
            auc=float(np.mean([auc(scores, self._labels) for scores in scored])),
            accuracy=float(np.mean([accuracy(scores, self._labels) for scores in scored])),
            balanced=float(
                np.mean(
                    [
                        np.mean(balanced(scores, model.counts) == self._labels)
                        for scores, model in zip(scored, models, strict=True)
                    ]
                )
            ),
            epsilon=statement.epsilon if private else float("inf"),
            epsilon_worst_case=statement.epsilon_worst_case if private else float("inf"),
        )

    def _plan(self, variant: Variant) -> SignedPlan:
        path = self._runs / variant.name / "plan.signed"
        if path.exists():
            return SignedPlan.from_file(path.read_bytes(), str(path))
        self._notice(f"{self._name}, seed {self._seed}, {variant.name}: hospitals and plan")
        scenario = variant.of(self._scenario, self._seed)
        randomness = Randomness(self._seed)
        material = prepare(
            scenario,
            self._sites,
            self._request.images,
            randomness,
            lambda *_: None,
            self._name,
        )
        try:
            signed = plan_for(scenario, material.sites, randomness, self._name)
            for site in material.sites:
                prepare_cohort(site.folder, Study(signed.open()), "train")
        finally:
            for site in material.sites:
                site.close()
        write_atomic(path, signed.to_file())
        return signed

    def _inputs(self, study: Study) -> NDArray[np.float32]:
        return feature_map(study.spec)(preprocess_array(self._images, study.plan.preprocess))


def _statement_of(study: Study) -> PrivacyStatement:
    train, holdout = (tuple(accounts_of(study)[name]) for name in ("train", "holdout"))
    return _stated(train, holdout, study.plan.privacy.delta, study.plan.schedule.maximum_attempts)


@lru_cache(maxsize=64)
def _stated(train: Queries, holdout: Queries, delta: float, attempts: int) -> PrivacyStatement:
    """A seed changes nothing that a statement depends on, and the accountant takes its time."""
    return privacy_statement({"train": train, "holdout": holdout}, delta, attempts)


def balanced(scores: NDArray[np.float32], counts: NDArray[np.float64]) -> NDArray[np.int64]:
    """Decided classes (N,) of scores (N, classes), as if all classes were equally frequent.

    Saerens et al. 2002, "Adjusting the outputs of a classifier to new a priori probabilities".
    """
    found: NDArray[np.int64] = (scores / np.maximum(counts, 1.0)).argmax(axis=1)
    return found


def _jobs(method: str, study: Study) -> list[Job]:
    sites = len(study.plan.roster.sites) if method == "alone" else 1
    return [Job(method, site) for site in range(sites)]


def _folder(name: str, settings: str, source: str, seed: int) -> str:
    """A folder that settings or images of another content never share."""
    mark = digest("utility", settings, source).hex()[: 2 * SHOWN_BYTES]
    return f"{name}-{mark}/seed-{seed}"
