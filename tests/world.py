"""A whole federation for tests: real site folders on disk, the real server, bytes between them.

Making and approving sites takes seconds, so a :class:`World` is made once and copied for a test.
Messages cross through :class:`MemorySites`, where a test may lose them or stop the server.
"""

from __future__ import annotations

import csv
import functools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fedward_client.addend import addend
from fedward_client.admission import receive_proposal
from fedward_client.approval import approve_plan
from fedward_client.intake.add import deidentifier_of
from fedward_client.intake.table import add_table
from fedward_client.round import SiteService
from fedward_client.site import Randomness, Site, create_site, open_site
from fedward_client.study_cohort import open_cohort
from fedward_client.training.runtime import RuntimeOptions
from fedward_common import keys
from fedward_common.identity import parse_site_public
from fedward_common.messages import (
    REPLIES,
    AgreeOrder,
    MaskOrder,
    Message,
    Propose,
    Refusal,
    ShareOrder,
    StepReply,
    UnmaskOrder,
    Witnessed,
    WitnessesNeeded,
    WitnessOrder,
    WitnessReply,
    decode_message,
)
from fedward_common.plan.document import Plan
from fedward_common.plan.signing import SignedPlan, sign_plan
from fedward_common.progress import Progress, advance, begin
from fedward_common.randomness import os_random
from fedward_common.secret import SecretBytes
from fedward_common.study import Study
from fedward_server.coordinator import Coordinator, RoundEvent
from fedward_server.planning import Target, draft_plan
from fedward_server.sites import Traffic
from fedward_simulations.randomness import Randomness as SeededRandomness

COORDINATOR = SecretBytes(bytes(range(32)))
RUNTIME = RuntimeOptions(micro_batch=8)
TARGET = Target(epsilon=8.0, patients_per_site=40)
COLUMNS = ("radius", "texture", "area")
STEPS = (ShareOrder, MaskOrder, AgreeOrder, UnmaskOrder)

POLICY = """\
[caps.train]
epsilon = 100.0
epsilon_worst_case = "none"
delta = 1e-3

[caps.holdout]
epsilon = 100.0
epsilon_worst_case = "none"
delta = 1e-3

[studies]
queries = ["count", "moments", "covariance", "gradient", "fedavg", "histogram"]
models = ["svm", "cnn"]
minimum_cohort = 1
audit_share = 0.0
"""

GRADIENT: dict[str, Any] = {
    "kind": "gradient",
    "noise_multiplier": 5.0,
    "rounds": 3,
    "sampling_rate": 0.5,
    "clip": 1.0,
}

ALL_QUERIES: tuple[dict[str, Any], ...] = (
    {"kind": "count", "noise_multiplier": 5.0},
    {"kind": "moments", "noise_multiplier": 5.0},
    GRADIENT,
    {"kind": "histogram", "noise_multiplier": 5.0, "bins": 6},
)

Vector = NDArray[np.uint32]


class ServerStopped(Exception):  # noqa: N818  (not an error: the test pulls the plug)
    """The server's process ends here."""


def roster_entry(site: Site) -> dict[str, str]:
    own = parse_site_public(site.identity.public().to_text())
    return {"name": own.name, "identity": own.identity.hex(), "transport": own.transport.hex()}


def table_document(roster: Sequence[Mapping[str, str]], **changes: Any) -> dict[str, Any]:
    """A draft of a linear SVM over a table of three columns; ``changes`` replace sections."""
    return {
        "study": {"name": "tiny", "id": "5a" * 16, "classes": ["benign", "malignant"]},
        "roster": {"coordinator": keys.signing_public(COORDINATOR).hex(), "sites": list(roster)},
        "cohort": {
            "source": "table",
            "columns": [{"name": name, "lower": 0.0, "upper": 1.0} for name in COLUMNS],
        },
        "model": {"kind": "svm", "features": "columns"},
        "queries": [dict(query) for query in ALL_QUERIES],
        "privacy": {"delta": 1e-5},
        "secagg": {"t_min": 3, "colluding": 1},
        "schedule": {"maximum_attempts": 60, "learning_rate": 0.5},
        **changes,
    }


def write_table(path: Path, seed: int, patients: int = 30) -> Path:
    rng = np.random.default_rng(seed)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["patient", "label", *COLUMNS])
        for number in range(patients):
            label = int(rng.integers(2))
            row = np.clip(rng.normal(0.4 + 0.2 * label, 0.1, len(COLUMNS)), 0.0, 1.0)
            writer.writerow([f"P{seed}-{number}", label, *(f"{x:.4f}" for x in row)])
    return path


@dataclass(frozen=True)
class World:
    """Closed sites below ``root``, which have all approved ``signed``."""

    root: Path
    names: tuple[str, ...]
    signed: SignedPlan

    @property
    def study(self) -> Study:
        return Study(self.signed.open())

    @property
    def server(self) -> Path:
        return self.root / "server"

    def copy(self, root: Path) -> World:
        shutil.copytree(self.root, root)
        return World(root, self.names, self.signed)

    def open(self, name: str, randomness: Randomness | None = None) -> Site:
        source = randomness or (lambda *_: os_random)
        return open_site(self.root / name, randomness=source, runtime=RUNTIME)

    def sites(self, *, seed: int | None = None, **options: Any) -> MemorySites:
        return MemorySites(self, seed=seed, **options)


def make_sites(root: Path, count: int, *, patients: int = 30) -> tuple[str, ...]:
    names = tuple(f"site-{number + 1}" for number in range(count))
    root.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        create_site(root / name, name, holdout_fraction=0.3, policy=POLICY)
        table = write_table(root / f"{name}.csv", number, patients)
        with open_site(root / name) as site:
            add_table(site.folder, table, deidentifier_of(site.folder).pseudonyms.patient)
    return names


def approve_all(root: Path, names: Sequence[str], signed: SignedPlan) -> None:
    """Play the operators: confirm each other's fingerprints, then approve.

    As in a simulation, plans need no reply delay: no test shall wait for one.
    """
    sites = [open_site(root / name, simulation=True) for name in names]
    publics = [site.identity.public() for site in sites]
    for site in sites:
        for public in publics:
            site.members.confirm(public)
        receive_proposal(site, Propose(signed.canonical, signed.signature))
        approve_plan(site, signed.open().digest)
        site.close()


def make_world(root: Path, count: int = 4, **changes: Any) -> World:
    """Sites with patients and keys of their own, under one signed and approved plan."""
    names = make_sites(root, count)
    roster = []
    for name in names:
        with open_site(root / name) as site:
            roster.append(roster_entry(site))
    plan = draft_plan(table_document(roster, **changes), TARGET, "test")
    signed = sign_plan(plan, COORDINATOR)
    approve_all(root, names, signed)
    return World(root, names, signed)


@functools.cache
def example_roster() -> tuple[dict[str, str], ...]:
    """Three invented members, for plans that no site needs to approve."""
    identities = [keys.signing_public(SecretBytes(bytes([n]) * 32)).hex() for n in (1, 2, 3)]
    return tuple({"name": f"site-{n}", "identity": key} for n, key in enumerate(identities, 1))


@functools.cache
def example_plan() -> Plan:
    document = table_document(example_roster(), secagg={"t_min": 3, "colluding": 1})
    return draft_plan(document, TARGET, "example")


Fate = Callable[[str, Message], str]
"""What happens to an order: 'ok', 'lost' on the way, or 'mute' if its reply is lost."""


@dataclass
class MemorySites:
    """The server's port :class:`~fedward_server.sites.Sites` over site folders, as bytes.

    ``seed`` makes the sites' randomness repeatable, ``reopen`` opens a site from its disk for
    every single order, ``offline`` names absent sites and ``stop_after`` ends the server's process
    with :class:`ServerStopped` once so many orders have been answered.
    """

    world: World
    seed: int | None = None
    fate: Fate = lambda _name, _order: "ok"
    reopen: bool = False
    offline: set[str] = field(default_factory=set)
    stop_after: int | None = None
    sent: list[tuple[str, Message, bytes]] = field(default_factory=list)
    refused: list[tuple[str, Message, Refusal]] = field(default_factory=list)
    on_order: Callable[[str, Message, bytes], None] = lambda _name, _order, _reply: None
    service_of: Callable[[Site], SiteService] = SiteService
    _open: dict[str, tuple[Site, SiteService]] = field(default_factory=dict)

    def drain_traffic(self) -> dict[str, Traffic]:
        return {}

    def present(self) -> tuple[str, ...]:
        return tuple(name for name in self.world.names if name not in self.offline)

    def exchange(
        self, orders: Mapping[str, Message], deadline_seconds: float
    ) -> Iterator[tuple[str, Message]]:
        assert deadline_seconds > 0
        for name, order in orders.items():
            fate = "lost" if name in self.offline else self.fate(name, order)
            if fate == "lost":
                continue
            data = self._handle(name, order.encode())
            reply = decode_message(data, REPLIES)
            self.sent.append((name, order, data))
            if not isinstance(reply, WitnessesNeeded):
                self.on_order(name, order, data)
            if self.stop_after is not None and len(self.sent) >= self.stop_after:
                raise ServerStopped
            if isinstance(reply, Refusal):
                self.refused.append((name, order, reply))
            if fate == "ok":
                yield name, reply

    def ask(self, name: str, data: bytes) -> bytes:
        """One order's bytes to a site, its reply's bytes back; witnesses are found on the way."""
        answer = self._handle(name, data)
        reply = decode_message(answer, REPLIES)
        if isinstance(reply, WitnessesNeeded):
            told = self.vouch(name, reply, self.service(name).handle)
            answer = told.encode() if isinstance(told, Refusal) else self._handle(name, data)
        return answer

    def vouch(
        self, name: str, needed: WitnessesNeeded, handle: Callable[[bytes], bytes]
    ) -> Message:
        """Carry the other sites' answers to the site behind ``handle``, as an honest server."""
        index, size = self.world.names.index(name), len(self.world.names)
        nonces = tuple(needed.nonce if i == index else b"" for i in range(size))
        answers = [b""] * size
        for i, other in enumerate(self.world.names):
            if i != index and other not in self.offline:
                data = self.service(other).handle(WitnessOrder(needed.study, nonces).encode())
                reply = decode_message(data, REPLIES)
                answers[i] = reply.answers[index] if isinstance(reply, WitnessReply) else b""
        told = handle(Witnessed(needed.study, tuple(answers)).encode())
        return decode_message(told, REPLIES)

    def _handle(self, name: str, data: bytes) -> bytes:
        """With ``reopen``, every step that a site has served was its process's last act."""
        answer = self.service(name).handle(data)
        if self.reopen and isinstance(decode_message(answer, REPLIES), StepReply):
            self.restart(name)
        return answer

    def service(self, name: str) -> SiteService:
        return self._opened(name)[1]

    def site(self, name: str) -> Site:
        return self._opened(name)[0]

    def restart(self, name: str) -> None:
        self._open.pop(name)[0].close()

    def close(self) -> None:
        for name in list(self._open):
            self.restart(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opened(self, name: str) -> tuple[Site, SiteService]:
        if name not in self._open:
            site = self.world.open(name, randomness_of(name, self.seed))
            self._open[name] = site, self.service_of(site)
        return self._open[name]


def randomness_of(name: str, seed: int | None) -> Randomness:
    source = SeededRandomness(seed)
    return lambda *label: source(name, *label)


def coordinate(
    sites: MemorySites, on_round: Callable[[RoundEvent], None] = lambda _: None
) -> Coordinator:
    """The production coordinator of the world's study, with its folder."""
    world = sites.world
    return Coordinator(world.signed, sites, world.server, on_round=on_round)


def published(world: World, count: int) -> list[Vector]:
    """The sums that the server has published."""
    folder = world.server / "sums"
    return [np.fromfile(folder / f"{n:06d}.u32", dtype="<u4") for n in range(count)]


def expected_sum(
    sites: MemorySites, event: RoundEvent, digest: bytes, progress: Progress
) -> Vector:
    """The exact sum of the contributors' addends, computed again from the same random draws."""
    study = sites.world.study
    task, _ = study.at(progress.position)
    total = np.zeros(task.dimension, dtype=np.uint32)
    for name in event.contributors:
        cohort = open_cohort(sites.site(name).folder, study, task.split)
        random = randomness_of(name, sites.seed)("addend", digest, event.e)
        total += addend(study, task, progress, cohort, random, RUNTIME)
    return total


def fold_all(study: Study, sums: Sequence[Vector]) -> list[Progress]:
    """The states before and after each sum, as any member folds them."""
    states = [begin(study)]
    for total in sums:
        task, _ = study.at(states[-1].position)
        states.append(advance(study, states[-1], task.ring.decode(total)))
    return states
