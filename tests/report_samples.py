"""Invented runs for the tests of the report: figures are made up, but of the right kind."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from matplotlib import image

from fedward_server.report.model import (
    CalibrationBin,
    Confusion,
    Estimate,
    Metrics,
    ModelFacts,
    PrivacyFacts,
    RoundPoint,
    RunReport,
    SiteFacts,
)
from fedward_simulations.report import (
    Baseline,
    BeforeAfter,
    HeaderChange,
    PartitionRow,
    RocCurve,
    SimulationReport,
)

BINS = (
    (0.04, 0.03, 0.21),
    (0.15, 0.11, 0.08),
    (0.25, 0.19, 0.05),
    (0.35, 0.33, 0.04),
    (0.45, 0.4, 0.04),
    (0.55, 0.6, 0.05),
    (0.65, 0.71, 0.06),
    (0.75, 0.82, 0.07),
    (0.86, 0.93, 0.14),
    (0.96, 0.99, 0.26),
)
SCANNERS = (
    "Carestream DRX, CR, 12 bit, MONOCHROME1, JPEG-LS",
    "Siemens Ysio, DX, 16 bit, explicit little endian",
    "GE Definium, DX, 12 bit, JPEG 2000 lossless",
    "Philips DigitalDiagnost, DX, 8 bit, RLE",
)


def metrics(uncertainty: float | None = None, shift: float = 0.0) -> Metrics:
    def figure(value: float) -> Estimate:
        return Estimate(value + shift, uncertainty)

    return Metrics(
        auc=figure(0.946),
        accuracy=figure(0.879),
        sensitivity=figure(0.951),
        specificity=figure(0.759),
        precision=figure(0.868),
        f1=figure(0.908),
        calibration_error=figure(0.047),
        cases=Estimate(624.0, None if uncertainty is None else 11.0),
        confusion=Confusion(("normal", "pneumonia"), ((178.0, 56.0), (19.0, 371.0))),
        calibration=tuple(CalibrationBin(*row) for row in BINS),
    )


def rounds(total: int = 200, *, every: int = 5) -> tuple[RoundPoint, ...]:
    wave = np.random.default_rng(4)
    points = [RoundPoint(1, "count", 0.21, 8, 0.06, 210_000)]
    points.append(RoundPoint(2, "moments", 0.2, 8, 0.11, 210_000))
    for step in range(total):
        auc = 0.946 - 0.42 * np.exp(-step / 28.0) + float(wave.normal(0, 0.004))
        points.append(
            RoundPoint(
                round=3 + step,
                query="gradient",
                seconds=0.42,
                sites=8,
                epsilon_spent=0.11 + 1.89 * float(np.sqrt((step + 1) / total)),
                wire_bytes=416_000,
                auc=auc if step % every == 0 or step == total - 1 else None,
                update_norm=0.4 * float(np.exp(-step / 60.0)) + 0.05,
            )
        )
    return tuple(points)


def run_report() -> RunReport:
    points = rounds()
    return RunReport(
        title="Pneumonia in chest radiographs of children",
        study="pneumonia-cnn-8",
        plan_digest="9f3c1d5a7be20486c5d7e1f0a3b29c84517d6e0f8a2b4c69d0e1f3a5b7c98d12",
        created="2026-11-21T20:49:31+00:00",
        versions={
            "fedward": "0.1.0",
            "flwr": "1.41.2",
            "torch": "2.13.0",
            "numpy": "2.4.6",
            "python": "3.11.9",
        },
        model=ModelFacts("cnn", 5714, ("normal", "pneumonia")),
        privacy=PrivacyFacts(
            epsilon=1.998,
            epsilon_worst_case=9.71,
            epsilon_one_curious=2.18,
            delta=1e-5,
            statement=(
                "Whoever sees all that was published learns almost the same without any patient.",
                "If one other hospital also reveals its own noise, epsilon is 2.18; if all, 9.71.",
                "Against outsiders and the server only: no member was assumed to collude (c = 0).",
            ),
        ),
        sites=tuple(
            SiteFacts(
                name=f"hospital-{index + 1}",
                train_patients_nominal=588,
                rounds_taken=len(points),
                messages_sent=3 * len(points) + 1,
                bytes_sent=5_261_000 + 913 * index,
                bytes_received=5_022_000 + 611 * index,
            )
            for index in range(8)
        ),
        rounds=points,
        federation_metrics=metrics(0.006, shift=-0.003),
        seconds=97.3,
        bytes_per_site_per_round=51_200.0,
    )


def png(seed: int, size: int = 56) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size), dtype=np.uint8)
    image.imsave(stream, pixels, cmap="gray", format="png")
    return stream.getvalue()


def roc(strength: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    rates = np.linspace(0.0, 1.0, 200)
    return tuple(map(float, rates)), tuple(map(float, rates ** (1.0 / strength)))


def simulation_report() -> SimulationReport:
    names = (
        ("fedward, eps 2", 0.946, True),
        ("Pooled, no privacy", 0.954, False),
        ("Pooled, eps 2", 0.945, False),
        ("Local DP + FedAvg, eps 2", 0.905, False),
        ("One site alone, eps 2", 0.883, False),
    )
    header = (
        HeaderChange("(0010,0010) PatientName", "Quillfeather^Osric", None),
        HeaderChange("(0010,0020) PatientID", "MRN-40917732", "FW-2K7QX3MA"),
        HeaderChange("(0010,0030) PatientBirthDate", "19490312", None),
        HeaderChange("(0008,0020) StudyDate", "20240117", "20231102"),
        HeaderChange("(0008,0018) SOPInstanceUID", "1.2.826.0.1.3680043.8.498.31", "2.25.1839274"),
        HeaderChange("(0008,0080) InstitutionName", "St. Alban's Infirmary", None),
        HeaderChange("(0008,0090) ReferringPhysicianName", "Thistlewood^Maud^^Dr", None),
        HeaderChange("(0028,0010) Rows", "56", "56"),
    )
    return SimulationReport(
        run=run_report(),
        exact=metrics(),
        exact_on="the official test set",
        roc=tuple(RocCurve(name, *roc(auc / (1 - auc)), auc, ours) for name, auc, ours in names),
        baselines=(
            Baseline("pooled", "Pooled, no privacy", 0.954, 0.861, None, "all images in one place"),
            Baseline("pooled_dp", "Pooled, DP-SGD", 0.945, 0.876, 2.0, "one trusted curator"),
            Baseline("local_dp_fedavg", "Local DP + FedAvg", 0.905, 0.82, 2.0, "what others do"),
            Baseline("alone", "Each site alone", 0.883, 0.8, 2.0, "mean of 8", (0.861, 0.897)),
        ),
        deidentification=(
            BeforeAfter("hospital-3", png(1), png(2), header),
            BeforeAfter("hospital-6", png(3), png(4), header[:4]),
        ),
        partition=tuple(
            PartitionRow(
                f"hospital-{index + 1}",
                SCANNERS[index % 4],
                (152 + 31 * (index % 3), 437 - 31 * (index % 3)),
                65,
                654,
            )
            for index in range(8)
        ),
        quarantine={"burned-in text that could not be masked": 3, "unknown SOP class": 1},
        seeds={"hospitals": 0, "training": 0},
        reproducible=True,
        command="fedward-simulate run pneumonia-cnn --out runs/pneumonia-cnn",
        scenario='[study]\nname = "pneumonia-cnn-8"\nclasses = ["normal", "pneumonia"]\n',
    )


HOSTILE = '</title><script>alert(1)</script><img src=x onerror="alert(2)">'


def hostile_report() -> SimulationReport:
    """Every free text of a report is an attempt to break out of the page."""
    report = simulation_report()
    site = replace(report.run.sites[0], name=HOSTILE)
    run = replace(
        report.run,
        title=HOSTILE,
        study=HOSTILE,
        created=HOSTILE,
        plan_digest=HOSTILE,
        versions={HOSTILE: HOSTILE},
        model=replace(report.run.model, kind=HOSTILE, classes=(HOSTILE, "b")),
        privacy=replace(report.run.privacy, unit=HOSTILE, statement=(HOSTILE,)),
        sites=(site, *report.run.sites[1:]),
        rounds=(replace(report.run.rounds[0], query=HOSTILE), *report.run.rounds[1:]),
    )
    return replace(
        report,
        run=run,
        exact_on=HOSTILE,
        roc=(replace(report.roc[0], name=HOSTILE),),
        baselines=(replace(report.baselines[0], name=HOSTILE, note=HOSTILE),),
        deidentification=(
            replace(
                report.deidentification[0],
                site=HOSTILE,
                header=(HeaderChange(HOSTILE, HOSTILE, HOSTILE),),
            ),
        ),
        partition=(replace(report.partition[0], site=HOSTILE, scanner=HOSTILE),),
        quarantine={HOSTILE: 1},
        seeds={HOSTILE: 1},
        command=HOSTILE,
        scenario=HOSTILE,
    )
