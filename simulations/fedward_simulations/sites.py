"""From hospitals' folders to open sites: keys, a permissive policy, intake by the real door."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from fedward_client.deidentify.workers import HERE
from fedward_client.intake.add import add_folder, deidentifier_of
from fedward_client.intake.reconcile import Reconciliation
from fedward_client.intake.table import add_table
from fedward_client.site import Site, create_site, open_site
from fedward_client.training.runtime import RuntimeOptions
from fedward_simulations.hospitals import Hospital
from fedward_simulations.randomness import Randomness

POLICY = """\
# A simulated hospital agrees to everything: its patients are invented or public.
[caps.train]
epsilon = 100.0
epsilon_worst_case = "none"
delta = 1e-3

[caps.holdout]
epsilon = 100.0
epsilon_worst_case = "none"
delta = 1e-3

[studies]
queries = ["count", "moments", "covariance", "gradient", "fedavg", "histogram"]
models = ["cnn", "cnn-classic", "svm"]
minimum_colluding = 0
minimum_cohort = 1
audit_share = 0.0
noise_multiplier = { min = 0.01, max = 1e6 }
"""

RUNTIME = RuntimeOptions()

Stage = Callable[[str, int, int], None]
"""Told (what is being done, done, total)."""


def open_sites(
    root: Path, names: list[str], randomness: Randomness, holdout_fraction: float
) -> list[Site]:
    """Open the simulated sites below ``root``, making those that are not there yet."""
    sites = []
    for name in names:
        path = root / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            create_site(
                path,
                name,
                holdout_fraction=holdout_fraction,
                policy=POLICY,
                random=randomness("site", name),
            )
        sites.append(
            open_site(
                path,
                randomness=lambda *label, name=name: randomness(name, *label),
                runtime=RUNTIME,
                simulation=True,
            )
        )
    return sites


def add_hospital(
    site: Site, hospital: Hospital, stage: Stage, before: int, total: int
) -> Reconciliation:
    """De-identify and store one hospital's folder; what is stored already is skipped.

    ``before`` of ``total`` images were done at other sites: they only count in the progress.
    """

    def progress(done: int, _: int) -> None:
        stage("de-identifying", before + done, total)

    return add_folder(site.folder, hospital.dicom, hospital.labels, jobs=HERE, progress=progress)


def add_rows(site: Site, table: Path) -> int:
    """Store one hospital's table; returns its patients."""
    return add_table(site.folder, table, deidentifier_of(site.folder).pseudonyms.patient)


def quarantined(reports: Mapping[str, Reconciliation]) -> dict[str, int]:
    """Files that were set aside, by reason, over all sites."""
    totals: dict[str, int] = {}
    for report in reports.values():
        for reason, count in report.excluded.items():
            totals[reason] = totals.get(reason, 0) + count
    return totals
