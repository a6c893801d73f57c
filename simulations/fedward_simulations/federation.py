"""The federation itself: real sites, the real coordinator, real messages, on one machine.

No second implementation of a round lives here. Sites are site folders opened by the production
code, the server is the production coordinator, and between them stands :class:`InMemoryGrid`,
which encodes and decodes every Flower message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid

from fedward_client import agent
from fedward_client.admission import receive_proposal
from fedward_client.approval import approve_plan
from fedward_client.round import SiteService
from fedward_client.site import Site
from fedward_common import keys
from fedward_common.identity import parse_site_public
from fedward_common.messages import Propose
from fedward_common.plan.document import Plan
from fedward_common.plan.signing import SignedPlan, sign_plan
from fedward_common.secret import SecretBytes
from fedward_server import app as server_app
from fedward_server.checkpoints import Checkpoint
from fedward_server.coordinator import Coordinator, RoundEvent
from fedward_server.planning import Target, draft_plan
from fedward_server.sites import GridSites
from fedward_simulations.grid import InMemoryGrid, bind
from fedward_simulations.randomness import Randomness
from fedward_simulations.scenario import Scenario

WORKERS = 2
STUDY_ID_BYTES = 16


@dataclass(frozen=True)
class Outcome:
    """A finished federation: the digest it ran under and its last checkpoint."""

    study: bytes
    checkpoint: Checkpoint


def plan_for(scenario: Scenario, sites: Sequence[Site], randomness: Randomness) -> SignedPlan:
    """Draft the scenario's plan for these sites and sign it as the coordinator.

    Raises:
        PlanError: the scenario's plan is not valid, or its budget is out of reach.
    """
    coordinator = keys.new_key(randomness("coordinator"))
    return sign_plan(_draft(scenario, sites, coordinator, randomness), coordinator)


def approve_everywhere(signed: SignedPlan, sites: Sequence[Site]) -> None:
    """Play the operators: verify each other's fingerprints, then approve through the policy."""
    plan = signed.open()
    publics = [site.identity.public() for site in sites]
    for site in sites:
        for public in publics:
            site.members.confirm(public)
        record = site.studies.by_plan(plan.digest)
        if record is None or record.approval is None:
            receive_proposal(site, Propose(signed.canonical, signed.signature))
            approve_plan(site, plan.digest)


def federate(
    signed: SignedPlan,
    sites: Sequence[Site],
    folder: Path,
    on_round: Callable[[RoundEvent], None],
) -> Outcome:
    """Run the signed plan to its end through ServerApp, ClientApp and the in-memory grid."""
    services = {index + 1: SiteService(site) for index, site in enumerate(sites)}
    client = agent.make_app(lambda context: services[context.node_id])
    grid = InMemoryGrid({node: bind(client, _context(node)) for node in services}, workers=WORKERS)
    finished: list[Outcome] = []

    def run(grid: Grid, _: Context) -> None:
        connected = GridSites(grid, signed.open().roster.sites)
        coordinator = Coordinator(signed, connected, folder, on_round=on_round)
        checkpoint = coordinator.run()
        finished.append(Outcome(coordinator.digest, checkpoint))

    try:
        server_app.make_app(run)(grid, _context(0))
    finally:
        grid.close()
    return finished[0]


def _draft(
    scenario: Scenario, sites: Sequence[Site], coordinator: SecretBytes, randomness: Randomness
) -> Plan:
    return draft_plan(
        plan_document(scenario, sites, coordinator, randomness("study")(STUDY_ID_BYTES)),
        Target(scenario.budget.epsilon, scenario.budget.patients_per_site),
        "scenario",
    )


def plan_document(
    scenario: Scenario, sites: Sequence[Site], coordinator: SecretBytes, study_id: bytes
) -> dict[str, Any]:
    """The scenario's plan sections, completed with what only a simulation decides."""
    sections = dict(scenario.plan)
    roster = [parse_site_public(site.identity.public().to_text()) for site in sites]
    t_min = scenario.federation.t_min
    return {
        **sections,
        "study": {"id": study_id.hex(), **sections.get("study", {})},
        "roster": {
            "coordinator": keys.signing_public(coordinator).hex(),
            "sites": [
                {"name": s.name, "identity": s.identity.hex(), "transport": s.transport.hex()}
                for s in roster
            ],
        },
        "privacy": {"delta": scenario.budget.delta, **sections.get("privacy", {})},
        "secagg": {
            "t_min": len(sites) if t_min is None else t_min,
            "colluding": scenario.federation.colluding,
            "unsafe_for_simulation": scenario.federation.colluding == 0,
        },
        "schedule": {"maximum_attempts": _rounds(sections), **sections.get("schedule", {})},
        "model": {"init_seed": scenario.seed, **sections.get("model", {})},
    }


def _rounds(sections: Mapping[str, Any]) -> int:
    return sum(int(query.get("rounds", 1)) for query in sections.get("queries", ()))


def _context(node: int) -> Context:
    return Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
