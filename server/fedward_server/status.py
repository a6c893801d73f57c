"""How the server stands: studies, rounds, attempts, who is late and why; from the folder alone."""

from __future__ import annotations

import json
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedward_common.enrolment import SUFFIX, load_certificate, parse_welcome
from fedward_common.errors import FedwardError, OperatorError
from fedward_server.consortium import gateway_of
from fedward_server.gateway_counters import Sample
from fedward_server.server_folder import StoredStudy, enrolled_sites, signed_study
from fedward_server.study_files import (
    ATTEMPTS,
    LEFT_OUT,
    NOW,
    PROCESSES,
    failure,
    is_finished,
    is_held,
    read_json,
    read_receipts,
)

ADMIN_SECONDS = 2.0


@dataclass(frozen=True)
class StudyStatus:
    """One study: ``state`` is signed, running, finished or failed; ``position`` sums are published.

    ``late`` are the members who are awaited now or did not contribute to the last sum, with why.
    """

    name: str
    state: str
    reason: str
    position: int
    rounds: int
    attempt: int
    maximum_attempts: int
    step: str
    connected: tuple[str, ...]
    late: dict[str, str]
    left_out: dict[str, str]


@dataclass(frozen=True)
class SiteStatus:
    """One enrolled site: when it was last heard and refused by the gateway that runs now.

    ``last_seen`` is a Unix time, 0.0 if it was not heard; ``certificate_until`` an ISO date.
    """

    name: str
    last_seen: float
    last_refusal: str
    certificate_until: str


@dataclass(frozen=True)
class ServerStatus:
    """The whole server; ``processes`` maps a child's name to its pid and restarts."""

    running: bool
    processes: dict[str, Any]
    studies: tuple[StudyStatus, ...]
    sites: tuple[SiteStatus, ...]


def server_status(server: Path) -> ServerStatus:
    """Everything about the coordinator's folder ``server``."""
    running = is_held(server)
    processes = read_json(server / PROCESSES).get("processes", {}) if running else {}
    studies = tuple(study_status(signed_study(server, name)) for name in study_names(server))
    view = gateway_view(gateway_of(server).admin_port) if running else {}
    seen, refused = view.get("last_seen", {}), view.get("last_refusal", {})
    sites = tuple(
        SiteStatus(
            site.name,
            float(seen.get(site.name, 0.0)),
            str(refused.get(site.name, "")),
            _certificate_until(server, site.name),
        )
        for site in enrolled_sites(server)
    )
    return ServerStatus(running, processes, studies, sites)


def server_lines(status: ServerStatus) -> list[str]:
    """For a person."""
    lines = ["the server is running" if status.running else "the server is not running"]
    for name, process in status.processes.items():
        if process["restarts"]:
            lines.append(f"  {name} was restarted {process['restarts']} times")
    for study in status.studies:
        lines += study_lines(study)
    for site in status.sites:
        lines.append(f"site {site.name}: {_contact(site, running=status.running)}")
        if site.last_refusal:
            lines.append(f"  last refused by the gateway: {site.last_refusal}")
    return lines


def study_names(server: Path) -> list[str]:
    """Signed studies, the one signed first first."""
    plans = (server / "studies").glob("*/plan.signed")
    return [p.parent.name for p in sorted(plans, key=lambda p: (p.stat().st_mtime_ns, p))]


def study_status(stored: StoredStudy) -> StudyStatus:
    """What a study's folder tells."""
    plan, folder = stored.signed.open(), stored.folder
    reason = failure(folder) or ""
    running = is_held(folder)
    receipts = read_receipts(folder)
    now = read_json(folder / NOW) if running else {}
    return StudyStatus(
        name=plan.study.name,
        state=_state(folder, reason, running=running),
        reason=reason,
        position=max((entry["round"] for entry in receipts if "round" in entry), default=0),
        rounds=sum(getattr(query, "rounds", 1) for query in plan.queries),
        attempt=int(read_json(folder / ATTEMPTS).get("e", 0)),
        maximum_attempts=plan.schedule.maximum_attempts,
        step=str(now.get("step", "")),
        connected=tuple(now.get("connected", ())),
        late=_late(receipts, now),
        left_out=read_json(folder / LEFT_OUT),
    )


def study_samples(server: Path) -> list[Sample]:
    """Gauges of every study for Prometheus."""
    found: list[Sample] = []
    for name in study_names(server):
        try:
            status = study_status(signed_study(server, name))
        except (FedwardError, OSError, ValueError):
            continue  # being written, or damaged: its own run says so
        values = {
            "fedward_study_sums": status.position,
            "fedward_study_sums_planned": status.rounds,
            "fedward_study_attempts": status.attempt,
            "fedward_study_failed": int(status.state == "failed"),
        }
        found += [(key, (("study", name),), float(value)) for key, value in values.items()]
    return found


def gateway_view(admin_port: int) -> dict[str, Any]:
    """What the running gateway has seen, or nothing if none answers."""
    url = f"http://127.0.0.1:{admin_port}/status"
    try:
        with urllib.request.urlopen(url, timeout=ADMIN_SECONDS) as reply:
            return dict(json.load(reply))
    except (OSError, ValueError):
        return {}


def study_lines(status: StudyStatus) -> list[str]:
    """For a person."""
    doing = f", now: {status.step}" if status.step else ""
    sums, attempts = f"{status.position} of {status.rounds} sums", f"attempt {status.attempt}"
    head = f"study {status.name}: {status.state}, {sums}, {attempts}"
    lines = [f"{head} of at most {status.maximum_attempts}{doing}"]
    if status.reason:
        lines.append(f"  {status.reason}")
    if status.state == "running":
        lines.append(f"  connected: {', '.join(status.connected) or 'nobody'}")
    lines += [f"  late: {name}: {why}" for name, why in sorted(status.late.items())]
    lines += [f"  left out: {n}: {why}" for n, why in sorted(status.left_out.items())]
    return lines


def _contact(site: SiteStatus, *, running: bool) -> str:
    certificate = f"certificate until {site.certificate_until}" if site.certificate_until else ""
    if not running:
        return certificate or "no certificate"
    age = time.time() - site.last_seen
    seen = f"last seen {age:.0f} s ago" if site.last_seen else "not seen since the gateway started"
    return f"{seen}, {certificate or 'no certificate'}"


def _certificate_until(server: Path, name: str) -> str:
    path = server / "sites" / f"{name}{SUFFIX}"
    try:
        welcome = parse_welcome(path.read_text("ascii"), str(path))
    except (OSError, OperatorError):
        return ""
    return load_certificate(welcome.certificate).not_valid_after_utc.date().isoformat()


def _late(receipts: list[dict[str, Any]], now: dict[str, Any]) -> dict[str, str]:
    late: dict[str, str] = {}
    for entry in receipts[-1:]:
        late |= entry.get("absent") or entry.get("problems") or {}
    late |= dict.fromkeys(now.get("waiting", ()), f"asked for {now.get('step')}")
    return late | dict(now.get("problems", {}))


def _state(folder: Path, reason: str, *, running: bool) -> str:
    if is_finished(folder):
        return "finished"
    if reason:
        return "failed"
    return "running" if running else "signed"
