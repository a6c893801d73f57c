"""The model card: what travels with a released model so that nobody has to guess what it is.

After Mitchell et al. 2019, "Model Cards for Model Reporting", kept to what is known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fedward_server.report import text
from fedward_server.report.model import Metrics, RunReport
from fedward_server.report.summary import metric_values

INTENDED_USE = (
    "Research on images or tables like those of the study, preprocessed exactly as its plan says.",
    "Use at the hospitals that took part, as a second look, after validation on local cases.",
)
LIMITS = (
    "Not a medical device: no authority has cleared it, and no decision may rest on it alone.",
    "It saw only the hospitals of the study; elsewhere, scanners and patients differ.",
    "Privacy noise and clipping blur rare findings most.",
    "A patient known at two hospitals has twice the epsilon; hospitals are not protected as such.",
    "The licence of the training data is unknown to this software: ask the hospitals.",
)


@dataclass(frozen=True)
class ModelCard:
    """A model card. ``metrics`` are shown with ``evaluated_on``; None says that none are known.

    ``weights_sha256`` is filled in by `release.write_release`: it ties the card to its file.
    """

    run: RunReport
    metrics: Metrics | None
    evaluated_on: str
    weights_sha256: str = ""

    def with_weights(self, digest: str) -> ModelCard:
        """The card of the file with this SHA-256 (hexadecimal)."""
        return replace(self, weights_sha256=digest)

    def as_dict(self) -> Mapping[str, Any]:
        """The card for programs."""
        run, privacy = self.run, self.run.privacy
        return {
            "title": run.title,
            "study": run.study,
            "plan_digest": run.plan_digest,
            "created": run.created,
            "weights_sha256": self.weights_sha256,
            "model": run.model.kind,
            "parameters": run.model.parameters,
            "classes": list(run.model.classes),
            "sites": [site.name for site in run.sites],
            "rounds": len(run.rounds),
            "privacy": {
                "unit": privacy.unit,
                "epsilon": privacy.epsilon,
                "epsilon_worst_case": privacy.epsilon_worst_case,
                "epsilon_one_curious": privacy.epsilon_one_curious,
                "delta": privacy.delta,
                "colluding": privacy.colluding,
                "statement": list(privacy.statement),
            },
            "metrics": metric_values(self.metrics, uncertainty=True),
            "evaluated_on": self.evaluated_on,
            "intended_use": list(INTENDED_USE),
            "limits": list(LIMITS),
            "training_data_licence": "unknown",
            "versions": dict(run.versions),
        }

    def markdown(self) -> str:
        """The card for people, as Markdown; names are escaped."""
        run = self.run
        lead = (
            f"{_plain(run.model.kind)}, {run.model.parameters:,} parameters, trained by fedward "
            f"over {len(run.sites)} hospitals in {len(run.rounds)} private sums. "
            "The data stayed in the hospitals."
        )
        lines = [
            f"# {_plain(run.title)}",
            "",
            lead,
            *_table("What it is", self._identity()),
            *_table("Privacy", self._privacy()),
            *(["", *(f"- {_plain(line)}" for line in run.privacy.statement)]),
            *self._metrics(),
            *_section("Intended use", INTENDED_USE),
            *_section("Limits", LIMITS),
        ]
        return "\n".join(lines) + "\n"

    def _identity(self) -> list[tuple[str, str]]:
        run = self.run
        return [
            ("Study", run.study),
            ("Plan (SHA-256)", run.plan_digest),
            ("Weights (SHA-256)", self.weights_sha256),
            ("Created", run.created),
            ("Classes", ", ".join(run.model.classes)),
            ("Hospitals", ", ".join(site.name for site in run.sites)),
            ("Versions", ", ".join(f"{name} {value}" for name, value in run.versions.items())),
        ]

    def _privacy(self) -> list[tuple[str, str]]:
        privacy = self.run.privacy
        rows = [
            ("Unit", privacy.unit),
            ("epsilon, against the server and outsiders", text.epsilon(privacy.epsilon)),
            ("epsilon, worst case", text.epsilon(privacy.epsilon_worst_case)),
            ("delta", f"{privacy.delta:g}"),
        ]
        if privacy.epsilon_one_curious is not None:
            curious = text.epsilon(privacy.epsilon_one_curious)
            rows.insert(2, ("epsilon, one curious hospital", curious))
        return rows

    def _metrics(self) -> list[str]:
        if self.metrics is None:
            return []
        metrics = self.metrics
        rows = [
            ("AUC", text.estimate(metrics.auc)),
            (f"Accuracy at {metrics.threshold:g}", text.estimate(metrics.accuracy)),
            ("Sensitivity", text.estimate(metrics.sensitivity)),
            ("Specificity", text.estimate(metrics.specificity)),
            ("Precision", text.estimate(metrics.precision)),
            ("F1", text.estimate(metrics.f1)),
            ("Calibration error", text.estimate(metrics.calibration_error)),
        ]
        return _table(f"Metrics on {_plain(self.evaluated_on)}", rows)


def model_card(
    run: RunReport, *, evaluation: Metrics | None = None, evaluated_on: str = ""
) -> ModelCard:
    """The card of ``run``'s model.

    Args:
        run: the finished run.
        evaluation: metrics to show instead of the federation's own estimate.
        evaluated_on: what ``evaluation`` rests on.
    """
    if evaluation is not None:
        return ModelCard(run, evaluation, evaluated_on)
    return ModelCard(run, run.federation_metrics, "held-out patients (noised estimate)")


def _plain(value: str) -> str:
    """One line in which no character has a meaning to Markdown or HTML."""
    line = " ".join(value.split())
    return re.sub(r"([\\`*_{}\[\]<>#|!&])", r"\\\1", line)


def _table(title: str, rows: list[tuple[str, str]]) -> list[str]:
    body = [f"| {name} | {_plain(value)} |" for name, value in rows]
    return ["", f"## {title}", "", "| | |", "|---|---|", *body]


def _section(title: str, lines: tuple[str, ...]) -> list[str]:
    return ["", f"## {title}", "", *(f"- {line}" for line in lines)]
