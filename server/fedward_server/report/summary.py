"""The run for scripts: one JSON object, the same keys for a deployment and a simulation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fedward_server.report.model import Estimate, Metrics, RunReport


def run_summary(run: RunReport) -> dict[str, Any]:
    """What ``summary.json`` says of a run. Bytes, seconds and rounds are totals unless named so.

    ``auc`` and the other metrics are the federation's own estimates; None without them.
    """
    estimated = metric_values(run.federation_metrics)
    return {
        "title": run.title,
        "study": run.study,
        "plan_digest": run.plan_digest,
        "created": run.created,
        **estimated,
        "federation_estimate": metric_values(run.federation_metrics, uncertainty=True),
        "epsilon": run.privacy.epsilon,
        "epsilon_worst_case": run.privacy.epsilon_worst_case,
        "epsilon_one_curious": run.privacy.epsilon_one_curious,
        "delta": run.privacy.delta,
        "privacy_unit": run.privacy.unit,
        "model": run.model.kind,
        "classes": list(run.model.classes),
        "parameters": run.model.parameters,
        "sites": len(run.sites),
        "rounds": len(run.rounds),
        "seconds": run.seconds,
        "bytes_per_site_per_round": run.bytes_per_site_per_round,
        "bytes_sent": sum(site.bytes_sent for site in run.sites),
        "messages_sent": sum(site.messages_sent for site in run.sites),
        "versions": dict(run.versions),
    }


def metric_values(metrics: Metrics | None, *, uncertainty: bool = False) -> dict[str, float | None]:
    """Each metric by name, ``{}`` for None; ``uncertainty`` adds ``NAME_uncertainty`` to each."""
    if metrics is None:
        return {}
    values: dict[str, float | None] = {}
    for field in fields(metrics):
        entry = getattr(metrics, field.name)
        if isinstance(entry, Estimate):
            values[field.name] = entry.value
            if uncertainty:
                values[f"{field.name}_uncertainty"] = entry.uncertainty
    return {**values, "threshold": metrics.threshold}


def to_json(content: Mapping[str, Any]) -> bytes:
    """Strict JSON, UTF-8, with a final newline; a figure that is not finite becomes null."""
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
