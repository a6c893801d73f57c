"""A small study, run for real with an independent recorder between the sites and the server (B6).

The recorder reads what crosses, as bytes, and knows nothing of ledgers: it notes the attempts at
which an addend left each site. Then every site's ledger is replayed against it.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedward_client.debit import Debit
from fedward_client.policy import ACCOUNTS
from fedward_client.privacy_audit.finding import Figure, Finding
from fedward_client.privacy_audit.replay import (
    TOLERANCE,
    Attempt,
    ReplayEvidence,
    exact_epsilon,
    replay,
)
from fedward_client.round import SiteService
from fedward_client.site import Site
from fedward_common.guarantee import statement_of
from fedward_common.messages import REPLIES, MaskOrder, Message, StepReply, decode_message
from fedward_common.study import Study
from fedward_server.coordinator import Coordinator
from fedward_server.sites import Traffic
from fedward_simulations.federation import approve_everywhere, plan_for
from fedward_simulations.material import prepare
from fedward_simulations.randomness import Randomness
from fedward_simulations.scenario import Scenario, load_scenario, parse_scenario

SITES, ROUNDS, NOISE = 4, 6, 6.0
Told = Callable[[str, int, int], None]


@dataclass
class Recorder:
    """The sites behind a wire that is listened to: the server's port over their services."""

    services: Mapping[str, SiteService]
    seen: dict[str, set[Attempt]] = field(default_factory=lambda: defaultdict(set))

    def drain_traffic(self) -> dict[str, Traffic]:
        """Nothing is counted here."""
        return {}

    def present(self) -> tuple[str, ...]:
        """All of them, always."""
        return tuple(self.services)

    def exchange(
        self, orders: Mapping[str, Message], deadline_seconds: float
    ) -> Iterator[tuple[str, Message]]:
        """Carry orders and replies as bytes, and note every addend that passes."""
        del deadline_seconds  # in memory nobody is late
        for name, order in orders.items():
            reply = decode_message(self.services[name].handle(order.encode()), REPLIES)
            if isinstance(order, MaskOrder) and isinstance(reply, StepReply):
                self.seen[name].add((order.study, order.e))
            yield name, reply


@dataclass(frozen=True)
class RecordedStudy:
    """What a recorded study left: every site's replay, and the report's epsilon checked.

    ``stated`` is what the report says a training patient pays, ``recomputed`` the same from the
    first site's debits.
    """

    replays: Mapping[str, ReplayEvidence]
    stated: float
    recomputed: float

    @property
    def finding(self) -> Finding:
        """The verdict over all sites."""
        bad = {n: r.finding for n, r in self.replays.items() if not r.finding.passed}
        agrees = abs(self.stated - self.recomputed) <= TOLERANCE + 0.01 * self.stated
        agrees = agrees and self.stated >= self.recomputed - TOLERANCE
        addends = sum(r.seen for r in self.replays.values())
        if bad:
            name, finding = next(iter(bad.items()))
            verdict = f"{name}: {finding.verdict}"
        elif not agrees:
            verdict = (
                f"the report states epsilon {self.stated:.3f}, the debits cost "
                f"{self.recomputed:.3f}: they do NOT agree"
            )
        else:
            verdict = (
                f"all {addends} addends that a recorder saw were debited, once; the report's "
                f"epsilon {self.stated:.3f} is what dp_accounting finds in the debits "
                f"({self.recomputed:.3f})"
            )
        figures: dict[str, Figure] = {
            "sites": len(self.replays),
            "addends_seen": addends,
            "undebited": sum(len(r.undebited) for r in self.replays.values()),
            "epsilon_reported": self.stated,
            "epsilon_recomputed": self.recomputed,
        }
        return Finding("ledger", not bad and agrees, verdict, figures)


def record_study(stage: Told) -> RecordedStudy:
    """Run the study in a temporary folder and replay its ledgers."""
    scenario = small_study()
    with tempfile.TemporaryDirectory(prefix="fedward-audit-") as temporary:
        folder, randomness = Path(temporary), Randomness(None)
        material = prepare(scenario, folder, None, randomness, stage, "audit")
        try:
            return _run(scenario, folder, material.sites, randomness, stage)
        finally:
            for site in material.sites:
                site.close()


def small_study() -> Scenario:
    """The breast cancer scenario with few sites and rounds, given noise, and a rate below 1."""
    document: dict[str, Any] = load_scenario("breast-cancer")[0].model_dump(mode="json")
    document["data"]["sites"] = SITES
    for query in document["plan"]["queries"]:
        query.setdefault("noise_multiplier", NOISE)
        if query["kind"] == "gradient":
            query |= {"rounds": ROUNDS, "sampling_rate": 0.5}
    return parse_scenario(document, "audit")


def _run(
    scenario: Scenario,
    folder: Path,
    sites: Sequence[Site],
    randomness: Randomness,
    stage: Told,
) -> RecordedStudy:
    signed = plan_for(scenario, sites, randomness, "audit")
    approve_everywhere(signed, sites, stage)
    recorder = Recorder({site.name: SiteService(site) for site in sites})
    study = Study(signed.open())
    Coordinator(
        signed,
        recorder,
        folder / "server",
        on_round=lambda event: stage("running a study", event.position, event.total_rounds),
    ).run()
    statement = statement_of(study)
    debits = sites[0].ledger.entries()
    return RecordedStudy(
        replays={site.name: replay(site, recorder.seen[site.name]) for site in sites},
        stated=statement.epsilon,
        recomputed=max(_cost(debits, account, statement.delta) for account in ACCOUNTS),
    )


def _cost(debits: Sequence[Debit], account: str, delta: float) -> float:
    runs = [(d.noise_multiplier, d.sampling_rate) for d in debits if d.account == account]
    return exact_epsilon(runs, delta) if runs else 0.0
