"""How the site stands with its coordinator, as people and scripts read it."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from fedward_client.daemon.state import DaemonState, read_state
from fedward_client.enrolment import Connection, load_connection, read_welcome
from fedward_client.serving import is_served
from fedward_client.site import Site
from fedward_client.studies import StudyRecord, StudyState
from fedward_common.identity import spell
from fedward_common.plan.document import plan_from_canonical
from fedward_common.progress import decode_progress
from fedward_common.study import Study
from fedward_common.text import printable

_WAITING = {
    StudyState.PROPOSED: "waits for your decision: fedward-client plan show",
    StudyState.APPROVED: "waits until all hospitals have approved and the coordinator begins",
    StudyState.STOPPED: "stopped by this site: a published sum was false",
    StudyState.WITHDRAWN: "this site has left it for good; the others may go on",
}


def connection_json(site: Site) -> dict[str, Any]:
    """The enrolment and what the daemon wrote last; ``daemon`` null if it never ran."""
    path = site.folder.path
    state = read_state(path)
    daemon = None if state is None else {"serving": is_served(path), **_public(state)}
    return {"enrolled": _enrolled(site), "daemon": daemon}


def connection_lines(site: Site) -> tuple[str, ...]:
    """The same for a person."""
    welcome = read_welcome(site.folder.identity)
    if welcome is None:
        return ("coordinator: none; send SITE.pub to it, then run fedward-client enrol",)
    connection = load_connection(site.folder)
    return (
        f"coordinator: {welcome.gateway}, fingerprint {spell(welcome.fingerprint)}",
        f"certificate: until {_date(connection)}",
        f"daemon: {_daemon(site)}",
    )


def study_json(record: StudyRecord) -> dict[str, Any]:
    """A study with how far it has come here: sums held, proven or not yet, of all."""
    plan = plan_from_canonical(record.plan)
    kept = [decode_progress(data) for data in (record.progress, record.held) if data is not None]
    return {
        "name": plan.study.name,
        "plan": record.plan_digest.hex(),
        "state": str(record.state),
        "sums": max((progress.position for progress in kept), default=0),
        "of": Study(plan).total_rounds,
    }


def study_line(site: Site, record: StudyRecord) -> str:
    """The same for a person, with what it waits for."""
    told = study_json(record)
    line = f"study {printable(told['name'])} ({told['plan'][:16]}): {record.state}"
    if record.digest is not None:
        line += f", {told['sums']} of {told['of']} sums"
    if record.state is StudyState.RUNNING and not site.packages.is_approved(record.plan_digest):
        return f"{line}; waits for you: fedward was upgraded, approve the plan again"
    waiting = _WAITING.get(record.state)
    return f"{line}; {waiting}" if waiting else line


def _enrolled(site: Site) -> dict[str, Any] | None:
    welcome = read_welcome(site.folder.identity)
    if welcome is None:
        return None
    return {
        "gateway": welcome.gateway,
        "coordinator": welcome.coordinator,
        "fingerprint": welcome.fingerprint.hex(),
        "expires": _date(load_connection(site.folder)),
    }


def _public(state: DaemonState) -> dict[str, Any]:
    record = asdict(state)
    del record["node"], record["boot"], record["lock"]
    return record


def _daemon(site: Site) -> str:
    state = read_state(site.folder.path)
    if not is_served(site.folder.path):
        return "not running; start it with fedward-client run or its systemd unit"
    if state is None:
        return "starting"
    heard = f"last contact {_ago(state.contact)}, last answer {_ago(state.answered)}"
    answer = f" ({state.answer})" if state.answer else ""
    if state.connected:
        return f"connected for {_span(time.time() - state.connected)}, {heard}{answer}"
    pause = max(state.retry - time.time(), 0.0)
    return f"waiting: {printable(state.problem)}; next try in {pause:.0f} s, {heard}"


def _date(connection: Connection) -> str:
    return connection.expires.date().isoformat()


def _ago(at: float) -> str:
    return f"{_span(time.time() - at)} ago" if at else "never"


def _span(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0.0):.0f} s"
