"""A scenario from end to end: hospitals, federation, baselines, exact evaluation, report.

Every stage leaves its result in the run's folder and is skipped when it is found there, so that
a killed run continues: intake from its last batch, training from its last round, baselines from
the last model.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from fedward_common.codec import digest
from fedward_common.errors import OperatorError
from fedward_common.files import write_atomic
from fedward_common.guarantee import spent_curve, statement_of
from fedward_common.plan.signing import SignedPlan
from fedward_common.study import Study
from fedward_server.coordinator import RoundEvent
from fedward_server.progress import RunFacts, RunObserver
from fedward_server.report.model import RoundPoint, RunReport
from fedward_server.run_record import interpolated_spending, release, run_report
from fedward_simulations.comparison import jobs_for, run_jobs, setting_of
from fedward_simulations.exact import auc
from fedward_simulations.federation import (
    approve_everywhere,
    check_scenario,
    federate,
    plan_for,
)
from fedward_simulations.material import Material, prepare
from fedward_simulations.randomness import Randomness
from fedward_simulations.report import SimulationReport, write_simulation
from fedward_simulations.scenario import Scenario
from fedward_simulations.storyboard import simulation_report
from fedward_simulations.trained import Trained, predict

AUCS, PLAN, RUN = "auc.json", "plan.signed", "run.json"


def simulate(
    scenario: Scenario,
    text: str,
    out: Path,
    *,
    images: Path | None,
    command: str,
    observer: RunObserver,
    source: str = "scenario",
) -> tuple[SimulationReport, Path]:
    """Run a scenario in the folder ``out``; returns the report and its page's path.

    ``source`` names the scenario in errors.

    Raises:
        OperatorError: the scenario, the images or the folder are not usable; nothing of a run
            that has just begun is left.
        StorageError: the disk is full; running it again continues.
    """
    check_scenario(scenario, source)
    began = _claim(out, scenario, images)
    randomness = Randomness(scenario.seed if scenario.reproducible else None)
    try:
        material = prepare(scenario, out, images, randomness, observer.stage, source)
        signed = _plan(scenario, out, material, randomness, observer, source)
        began = False  # from here on there is something to resume
        trained = _train(scenario, out, material, signed, observer)
    except OperatorError:
        if began:
            shutil.rmtree(out, ignore_errors=True)
        raise
    finally:
        observer.finished()
    run = run_report(
        trained.study,
        statement_of(trained.study),
        trained.outcome.checkpoint,
        trained.aucs,
    )
    report = simulation_report(scenario, text, command, material, trained, run)
    return report, _write(out, trained, run, report)


def _plan(
    scenario: Scenario,
    out: Path,
    material: Material,
    randomness: Randomness,
    observer: RunObserver,
    source: str,
) -> SignedPlan:
    path = out / PLAN
    if path.exists():
        return SignedPlan.from_file(path.read_bytes(), str(path))
    observer.stage("choosing the noise for the privacy asked for", 0, 0)
    signed = plan_for(scenario, material.sites, randomness, source)
    approve_everywhere(signed, material.sites, observer.stage)
    write_atomic(path, signed.to_file())
    return signed


def _train(
    scenario: Scenario, out: Path, material: Material, signed: SignedPlan, observer: RunObserver
) -> Trained:
    study = Study(signed.open())
    statement = statement_of(study)
    facts = RunFacts(
        scenario.title, len(material.sites), study.parameters, statement.epsilon, statement.delta
    )
    observer.started(study.total_rounds, facts)
    watch = _Watch(scenario, study, material, out / AUCS, observer)
    outcome = federate(signed, material.sites, out / "server", watch.round)
    names = [site.name for site in material.sites]
    for site in material.sites:
        site.close()
    jobs = jobs_for(scenario.baselines, len(names))
    found = run_jobs(
        setting_of(scenario, out / "sites", names, study.plan, outcome.study),
        jobs,
        out / "baselines",
        lambda done, total: observer.stage("training the baselines", done, total),
    )
    return Trained(study, outcome, found, watch.aucs)


class _Watch:
    """Follows the rounds: the exact test AUC now and then, and the live display."""

    def __init__(
        self,
        scenario: Scenario,
        study: Study,
        material: Material,
        path: Path,
        observer: RunObserver,
    ) -> None:
        self._every = scenario.evaluate_every
        self._study = study
        self._labels = material.test_labels
        self._inputs = material.test_inputs(study)
        self._path = path
        self._observer = observer
        self._spent = interpolated_spending(study, study.total_rounds)
        self._tried: dict[int, int] = {}
        stored = json.loads(path.read_text()) if path.exists() else {}
        self.aucs: dict[int, float] = {int(k): float(v) for k, v in stored.items()}

    def round(self, event: RoundEvent) -> None:
        """Tell the observer; every few gradient steps also measure."""
        due = event.position % self._every == 0 or event.position == event.total_rounds
        if event.query in ("gradient", "fedavg") and due:
            found = predict(self._study, event.progress, self._inputs)
            self.aucs[event.position] = auc(found, self._labels)
            write_atomic(self._path, json.dumps(self.aucs).encode())
        self._observer.round_finished(
            RoundPoint(
                round=event.position,
                query=event.query,
                seconds=event.seconds,
                sites=len(event.contributors),
                epsilon_spent=self._epsilon(event),
                wire_bytes=sum(crossed.total for crossed in event.traffic.values()),
                auc=self.aucs.get(event.position),
                update_norm=event.update_norm,
            )
        )

    def _epsilon(self, event: RoundEvent) -> float:
        """Spent so far, attempts in vain included; a resumed run no longer knows the earlier e."""
        self._tried[event.position] = event.e
        if event.e == event.position:
            return self._spent[event.position - 1]
        attempts = [self._tried.get(number, number) for number in range(1, event.position + 1)]
        return spent_curve(self._study, [event.position], attempts=attempts)[0]


def _write(out: Path, trained: Trained, run: RunReport, report: SimulationReport) -> Path:
    progress = trained.outcome.checkpoint.progress
    release(out, trained.study, progress, run, report.exact, report.exact_on)
    return write_simulation(out, report)


def _claim(out: Path, scenario: Scenario, images: Path | None) -> bool:
    """Make the folder this scenario's, or refuse one that belongs to another; False: resumed."""
    source = "" if images is None else str(images.resolve())
    mark = digest("run", scenario.model_dump_json(), source).hex()
    path = out / RUN
    if path.exists():
        if json.loads(path.read_text()).get("scenario") != mark:
            raise OperatorError(f"{out}: holds another run; choose another --out or remove it")
        return False
    if out.exists() and any(out.iterdir()):
        raise OperatorError(f"{out}: is not empty; choose another --out")
    write_atomic(path, json.dumps({"scenario": mark}).encode())
    return True
