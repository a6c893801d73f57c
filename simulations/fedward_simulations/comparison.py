"""Running the baselines of a scenario, in processes of their own, resumable one by one."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
import torch

from fedward_client.study_cohort import open_cohort
from fedward_common.files import write_atomic
from fedward_common.plan.document import Plan, parse_plan, plan_from_canonical
from fedward_common.progress import Progress, decode_progress
from fedward_common.randomness import RandomBytes
from fedward_common.study import Study
from fedward_simulations import baselines
from fedward_simulations.baselines import Bench
from fedward_simulations.randomness import Randomness
from fedward_simulations.scenario import Baselines, Scenario
from fedward_simulations.sites import RUNTIME, open_sites

WORKERS = 2


@dataclass(frozen=True)
class Job:
    """One model to train: ``site`` is meant for ``alone`` only."""

    kind: str
    site: int = 0

    @property
    def file(self) -> str:
        """The name of its result."""
        return f"{self.kind}-{self.site:03d}.bin"


@dataclass(frozen=True)
class Setting:
    """What a worker process needs to open the sites again; ``plan`` is its canonical bytes."""

    root: Path
    names: tuple[str, ...]
    plan: bytes
    study: bytes
    seed: int | None
    options: Baselines


def jobs_for(options: Baselines, sites: int) -> list[Job]:
    """The models that the scenario asks for, the long ones first."""
    jobs = []
    if options.pooled_private:
        jobs.append(Job("pooled_private"))
    if options.local_fedavg:
        jobs.append(Job("local_fedavg"))
    if options.pooled:
        jobs.append(Job("pooled"))
    if options.alone:
        jobs += [Job("alone", site) for site in range(sites)]
    return jobs


def setting_of(
    scenario: Scenario, root: Path, names: Sequence[str], plan: Plan, study: bytes
) -> Setting:
    """The setting of a scenario whose sites are below ``root``; ``study`` is its digest."""
    seed = scenario.seed if scenario.reproducible else None
    return Setting(root, tuple(names), plan.canonical, study, seed, scenario.baselines)


def run_jobs(
    setting: Setting, jobs: Sequence[Job], folder: Path, on_done: baselines.OnDone
) -> dict[Job, Progress]:
    """Train every job that has no result yet; returns all results."""
    results = {}
    for job in jobs:
        path = folder / job.file
        if path.exists():
            results[job] = decode_progress(path.read_bytes())
    on_done(len(results), len(jobs))
    missing = [job for job in jobs if job not in results]
    # Forking a process that has used torch's threads can hang.
    context = get_context("spawn")
    with ProcessPoolExecutor(WORKERS, context, initializer=_watch_parent) as pool:
        futures = {pool.submit(train, setting, job): job for job in missing}
        for future in as_completed(futures):
            job, data = futures[future], future.result()
            write_atomic(folder / job.file, data)
            results[job] = decode_progress(data)
            on_done(len(results), len(jobs))
    return results


def train(setting: Setting, job: Job) -> bytes:
    """Train one baseline from the sites' stored patients; returns the encoded model."""
    torch.set_num_threads(1)
    randomness = Randomness(setting.seed)
    sites = open_sites(setting.root, list(setting.names), randomness, 0.0)
    study = Study(plan_from_canonical(setting.plan))

    def draw(site: int, position: int) -> RandomBytes:
        # The very batches of the federation, if it needed no retry.
        return randomness(setting.names[site], "addend", setting.study, position + 1)

    noise = None if setting.seed is None else [setting.seed, *job.kind.encode(), job.site]
    bench = Bench(
        study=study,
        cohorts=[open_cohort(site.folder, study, "train") for site in sites],
        draw=draw,
        noise=np.random.default_rng(noise),
        runtime=RUNTIME,
    )
    return _trained(bench, job, setting.options).encode()


def _watch_parent() -> None:
    """Make this worker end when the run that started it is killed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _trained(bench: Bench, job: Job, options: Baselines) -> Progress:
    match job.kind:
        case "federated":
            return baselines.federated(bench)
        case "pooled_private":
            return baselines.pooled_private(bench)
        case "local_fedavg":
            local = replace(bench, study=_local_study(bench.study, options))
            return baselines.local_fedavg(local, options.fedavg_rounds)
        case "alone":
            return baselines.alone(bench, job.site)
        case _:
            return baselines.pooled(bench, options.plain_learning_rate)


def _local_study(study: Study, options: Baselines) -> Study:
    """The study at the learning rate that was found for local-DP FedAvg."""
    if options.local_learning_rate is None:
        return study
    document = study.plan.model_dump(mode="json", by_alias=True)
    document["schedule"]["learning_rate"] = options.local_learning_rate
    return Study(parse_plan(document, "plan"))
