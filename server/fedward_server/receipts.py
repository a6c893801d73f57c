"""Participation receipts: who took part in every round, who did not and why (G7).

One line of JSON for each published sum and each attempt that was aborted, in the study's folder:
``receipts.jsonl``. Beside it ``now.json`` says what is asked of whom at this moment. A hospital is
never left out without a line that says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedward_common.errors import FedwardError
from fedward_common.messages import Message, ProposeReply, Refusal, WitnessesNeeded
from fedward_server.checkpoints import load_checkpoint
from fedward_server.coordinator import RoundEvent
from fedward_server.sites import Sites, Traffic
from fedward_server.study_files import (
    LEFT_OUT,
    NOW,
    append_receipt,
    read_json,
    read_receipts,
    timestamp,
)

AWAY = "not connected"
UNNOTED = "not noted: the server was stopped just then"
NOT_ACCEPTED = "its answers came too late or were not accepted; the server's log says more"


class StudyStoppedError(FedwardError):
    """The server is stopping, or the study was withdrawn: it may go on where it is later."""


class Receipts:
    """Writes one study's receipts. ``names`` is the roster."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder = folder
        self._names = tuple(names)
        self._problems: dict[str, str] = {}
        self._present: set[str] = set()
        self._now: dict[str, Any] = {}

    def reconcile(self) -> None:
        """Write the receipts of rounds that were published when the server was killed."""
        checkpoint = load_checkpoint(self._folder)
        noted = {entry["round"] for entry in read_receipts(self._folder) if "round" in entry}
        for entry in checkpoint.history if checkpoint else ():
            if entry["round"] not in noted:
                absent = dict.fromkeys(set(self._names) - set(entry["sites"]), UNNOTED)
                self._round(entry["round"], entry["query"], entry["e"], entry["sites"], absent)

    def present(self, names: Sequence[str]) -> None:
        """These members are connected."""
        self._present = set(names)
        self._show()

    def problem(self, name: str, reason: str) -> None:
        """A member gave nothing of use, for this reason."""
        self._problems[name] = reason

    def asked(self, step: str, names: Sequence[str]) -> None:
        """These members are asked for a step now."""
        self._now = {"step": step, "waiting": sorted(names)}
        self._show()

    def heard(self, step: str, name: str, reply: Message) -> None:
        """A member has answered a step."""
        self._now["waiting"] = [other for other in self._now["waiting"] if other != name]
        if isinstance(reply, Refusal):
            self._problems[name] = f"refused {step} ({reply.kind}): {reply.reason}"
        elif isinstance(reply, ProposeReply) and not reply.approval:
            self._problems[name] = "its operator has not approved the plan yet"
        elif isinstance(reply, WitnessesNeeded):
            self._problems[name] = "it has just started and waits for witnesses of its ledger"
        else:
            self._problems.pop(name, None)

    def silent(self, step: str, seconds: float) -> None:
        """The deadline of a step has passed."""
        for name in self._now["waiting"]:
            late = f"no valid answer to {step} within {seconds:g} s"
            self._problems.setdefault(name, late if name in self._present else AWAY)
        self._show()

    def round_finished(self, event: RoundEvent) -> None:
        """A sum is published: for ``Coordinator(on_round=...)``."""
        left_out = self._left_out()
        absent = {
            name: left_out.get(name) or self._reason(name)
            for name in self._names
            if name not in event.contributors
        }
        self._round(event.position, event.query, event.e, event.contributors, absent)
        self._problems.clear()

    def attempt_aborted(self, e: int, reason: str) -> None:
        """An attempt has failed: for ``Coordinator(on_abort=...)``."""
        problems = {name: self._reason(name) for name in sorted(self._problems)}
        problems |= {n: AWAY for n in self._names if n not in self._present}
        append_receipt(self._folder, {"e": e, "aborted": reason, "problems": problems})

    def _round(
        self, number: int, query: str, e: int, sites: Sequence[str], absent: Mapping[str, str]
    ) -> None:
        record = {"round": number, "query": query, "e": e, "contributed": list(sites)}
        append_receipt(self._folder, record | {"absent": dict(absent)})

    def _reason(self, name: str) -> str:
        if name in self._problems:
            return self._problems[name]
        return NOT_ACCEPTED if name in self._present else AWAY

    def _left_out(self) -> dict[str, str]:
        return read_json(self._folder / LEFT_OUT)

    def _show(self) -> None:
        """For people who watch: lost in a crash, so it need not reach the disk at once."""
        record = self._now | {
            "when": timestamp(),
            "connected": sorted(self._present),
            "problems": self._problems,
        }
        beside = self._folder / f".{NOW}.tmp"
        beside.write_text(json.dumps(record), "ascii")
        beside.replace(self._folder / NOW)


@dataclass(frozen=True)
class RecordedSites:
    """The port :class:`~fedward_server.sites.Sites` with a witness to every exchange.

    Between rounds and while members are awaited the coordinator asks who is present: that is
    where a study ends that is ``stopping``.
    """

    sites: Sites
    receipts: Receipts
    stopping: Callable[[], bool]

    def drain_traffic(self) -> dict[str, Traffic]:
        """What crossed since the last call, by site."""
        return self.sites.drain_traffic()

    def present(self) -> tuple[str, ...]:
        """Names of the roster members that can be reached now.

        Raises:
            StudyStoppedError: the study is to stop.
        """
        if self.stopping():
            raise StudyStoppedError("stopped between two steps")
        names = self.sites.present()
        self.receipts.present(names)
        return names

    def exchange(
        self, orders: Mapping[str, Message], deadline_seconds: float
    ) -> Iterator[tuple[str, Message]]:
        """Send and collect, and note who answered what."""
        step = next((order.TAG for order in orders.values()), "nothing")
        self.receipts.asked(step, list(orders))
        for name, reply in self.sites.exchange(orders, deadline_seconds):
            self.receipts.heard(step, name, reply)
            yield name, reply
        self.receipts.silent(step, deadline_seconds)
