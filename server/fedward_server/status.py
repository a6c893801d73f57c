"""How the server stands: studies, rounds, attempts, who is late and why; from the folder alone."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedward_common.errors import FedwardError
from fedward_common.text import printable
from fedward_server.checkpoints import ATTEMPTS, LEFT_OUT
from fedward_server.gateway_counters import Sample
from fedward_server.outcome import failure, is_finished, is_held
from fedward_server.receipts import NOW, read_receipts
from fedward_server.server_folder import ServerFolder, StoredStudy

ADMIN_SECONDS = 2.0


@dataclass(frozen=True)
class StudyStatus:
    """One study: ``state`` is waiting, running, finished or failed.

    ``late`` are the members who are awaited now or did not contribute to the last sum, with why.
    """

    name: str
    state: str
    reason: str
    sums: int
    planned: int
    attempts: int
    maximum_attempts: int
    step: str
    connected: tuple[str, ...]
    late: dict[str, str]
    left_out: dict[str, str]


def study_names(folder: ServerFolder) -> list[str]:
    """Signed studies, the one signed first first."""
    plans = (folder.path / "studies").glob("*/plan.signed")
    return [p.parent.name for p in sorted(plans, key=lambda p: (p.stat().st_mtime_ns, p))]


def study_status(stored: StoredStudy) -> StudyStatus:
    """What a study's folder tells."""
    plan, folder = stored.signed.open(), stored.folder
    reason = failure(folder) or ""
    running = is_held(folder)
    receipts = read_receipts(folder)
    now = _json(folder / NOW) if running else {}
    return StudyStatus(
        name=plan.study.name,
        state=_state(folder, reason, running=running),
        reason=reason,
        sums=max((entry["round"] for entry in receipts if "round" in entry), default=0),
        planned=sum(getattr(query, "rounds", 1) for query in plan.queries),
        attempts=int(_json(folder / ATTEMPTS).get("e", 0)),
        maximum_attempts=plan.schedule.maximum_attempts,
        step=str(now.get("step", "")),
        connected=tuple(now.get("connected", ())),
        late=_late(receipts, now),
        left_out=_json(folder / LEFT_OUT),
    )


def study_samples(folder: ServerFolder) -> list[Sample]:
    """Gauges of every study for Prometheus."""
    found: list[Sample] = []
    for name in study_names(folder):
        try:
            status = study_status(folder.study(name))
        except (FedwardError, OSError, ValueError):
            continue  # being written, or damaged: its own run says so
        values = {
            "fedward_study_sums": status.sums,
            "fedward_study_sums_planned": status.planned,
            "fedward_study_attempts": status.attempts,
            "fedward_study_failed": int(status.state == "failed"),
        }
        found += [(key, (("study", name),), float(value)) for key, value in values.items()]
    return found


def gateway_view(admin_port: int) -> dict[str, Any]:
    """What the running gateway has seen, or nothing if none answers."""
    url = f"http://127.0.0.1:{admin_port}/status"
    try:
        with urllib.request.urlopen(url, timeout=ADMIN_SECONDS) as reply:  # noqa: S310  (loopback)
            return dict(json.load(reply))
    except (OSError, ValueError):
        return {}


def study_lines(status: StudyStatus) -> list[str]:
    """For a person."""
    doing = f", now: {status.step}" if status.step else ""
    lines = [
        f"study {printable(status.name)}: {status.state}, {status.sums} of {status.planned} sums, "
        f"attempt {status.attempts} of at most {status.maximum_attempts}{doing}"
    ]
    if status.reason:
        lines.append(f"  {printable(status.reason)}")
    if status.state == "running":
        lines.append(f"  connected: {', '.join(status.connected) or 'nobody'}")
    lines += [f"  late: {name}: {printable(why)}" for name, why in sorted(status.late.items())]
    lines += [f"  left out: {n}: {printable(why)}" for n, why in sorted(status.left_out.items())]
    return lines


def _late(receipts: list[dict[str, Any]], now: dict[str, Any]) -> dict[str, str]:
    late: dict[str, str] = {}
    for entry in receipts[-1:]:
        late |= entry.get("absent") or entry.get("problems") or {}
    late |= {name: f"asked for {now['step']}" for name in now.get("waiting", ())}
    return late | dict(now.get("problems", {}))


def _state(folder: Path, reason: str, *, running: bool) -> str:
    if is_finished(folder):
        return "finished"
    if reason:
        return "failed"
    return "running" if running else "waiting"


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return {}
