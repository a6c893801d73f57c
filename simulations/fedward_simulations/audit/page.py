"""An audit as files: a page for people, its pictures, and JSON for scripts."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fedward_client.privacy_audit.one_run import ERROR_RATE
from fedward_common.files import write_atomic
from fedward_server.report.page import environment
from fedward_simulations.audit.federation import Audit
from fedward_simulations.audit.pictures import draw_canaries, draw_noise, draw_pictures

PAGE, JSON = "audit.html", "audit.json"


def document(audit: Audit) -> dict[str, Any]:
    """The audit in JSON's types."""
    return {
        "passed": audit.passed,
        "seconds": round(audit.seconds, 1),
        "setting": asdict(audit.setting),
        "noise_multiplier": audit.terms.noise_multiplier,
        "images": audit.images,
        "checks": [asdict(finding) for finding in audit.findings],
    }


def write_audit(folder: Path, audit: Audit) -> Path:
    """Write the audit into ``folder``; returns the path of its page.

    Raises:
        StorageError: the disk is full.
    """
    pictures = {
        "pictures": draw_pictures(audit.pictures),
        "canaries": draw_canaries(audit.trials.canaries),
        "noise": draw_noise(audit.trials.noise, audit.trials.repeats),
    }
    for name, data in pictures.items():
        write_atomic(folder / f"{name}.png", data)
    write_atomic(folder / JSON, f"{json.dumps(document(audit), indent=2)}\n".encode())
    write_atomic(folder / PAGE, _render(audit, pictures).encode())
    return folder / PAGE


def _render(audit: Audit, pictures: dict[str, bytes]) -> str:
    engine = environment("fedward_simulations.audit")
    style = engine.get_template("style.css").render()
    return engine.get_template("audit.html.j2").render(
        audit=audit,
        canaries=audit.trials.canaries,
        recovered=audit.pictures.recovered,
        patients=len(audit.pictures.originals),
        confidence=1 - ERROR_RATE,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        pictures=_embedded(pictures["pictures"]),
        canary_chart=_embedded(pictures["canaries"]),
        noise_chart=_embedded(pictures["noise"]),
        style=Markup(style),  # noqa: S704  # our own file, no outside text in it
    )


def _embedded(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
