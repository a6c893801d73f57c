"""A consortium on one machine, ready to run: enrolled sites with patients, an approved plan.

Whatever an operator types is typed here too, or is the very function behind the command.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fedward_client import enrolment
from fedward_client.admission import receive_proposal
from fedward_client.approval import approve_plan
from fedward_client.intake.add import deidentifier_of
from fedward_client.intake.table import add_table
from fedward_client.site import PUBLIC, Site, create_site, open_site
from fedward_common.errors import StorageError
from fedward_common.identity import SitePublic, parse_site_public
from fedward_common.messages import Propose
from fedward_common.plan.signing import SignedPlan
from fedward_simulations.sites import POLICY

SCRIPTS = Path(sys.executable).parent
STUDY = "trial"
COLUMNS = ("radius", "texture", "area")
PATIENTS = 40
LONGEST_COMMAND_SECONDS = 600.0

_DRAFT = """\
[study]
name = "{study}"
classes = ["benign", "malignant"]
[cohort]
source = "table"
columns = [
  {{ name = "radius", lower = 0.0, upper = 1.0 }},
  {{ name = "texture", lower = 0.0, upper = 1.0 }},
  {{ name = "area", lower = 0.0, upper = 1.0 }},
]
[model]
kind = "svm"
features = "columns"
[[queries]]
kind = "count"
noise_multiplier = 30.0
[[queries]]
kind = "moments"
noise_multiplier = 30.0
[[queries]]
kind = "gradient"
noise_multiplier = 30.0
rounds = {steps}
sampling_rate = 1.0
clip = 1.0
[[queries]]
kind = "histogram"
noise_multiplier = 30.0
bins = 6
[privacy]
delta = 1e-5
[secagg]
t_min = {t_min}
colluding = 1
[schedule]
maximum_attempts = {attempts}
learning_rate = 0.5
reply_delay_seconds = {delay_seconds}
round_deadline_seconds = {deadline_seconds}
"""


@dataclass(frozen=True)
class Ports:
    """What hospitals are told, where the gateway listens, and its operator's port on loopback.

    The hosts of the first two are IP addresses of this machine, or of its network namespaces.
    """

    published: int
    listening: int
    admin: int
    outside: str = "127.0.0.1"
    inside: str = "127.0.0.1"


@dataclass(frozen=True)
class Consortium:
    """Folders on disk, closed: ``server`` and one below ``sites`` for each name."""

    root: Path
    names: tuple[str, ...]
    ports: Ports

    @property
    def server(self) -> Path:
        """The coordinator's folder."""
        return self.root / "server"

    @property
    def study(self) -> Path:
        """The coordinator's folder of the study."""
        return self.server / "studies" / STUDY

    def site(self, name: str) -> Path:
        """The folder of a site."""
        return self.root / "sites" / name

    @property
    def signed(self) -> SignedPlan:
        """The study's plan."""
        path = self.study / "plan.signed"
        return SignedPlan.from_file(path.read_bytes(), str(path))


@dataclass(frozen=True)
class TrialPlan:
    """What a study of the campaign looks like: a linear SVM over a table of three columns."""

    rounds: int
    t_min: int
    attempts: int
    deadline_seconds: float
    delay_seconds: float

    def toml(self) -> str:
        """The draft: a count, moments, steps, and a histogram."""
        return _DRAFT.format(steps=self.rounds - 3, **asdict(self), study=STUDY)


def found(
    root: Path, count: int, ports: Ports, fill: Callable[[int, Site], None] | None = None
) -> Consortium:
    """Make the coordinator and ``count`` sites, and enrol them with each other.

    ``fill`` gives site number 0, 1, ... its patients; without it each gets a table of its own.
    """
    names = tuple(f"site-{number + 1:02d}" for number in range(count))
    made = Consortium(root, names, ports)
    root.mkdir(parents=True, exist_ok=True)
    published, listening = (
        f"{ports.outside}:{ports.published}",
        f"{ports.inside}:{ports.listening}",
    )
    where = ("--server", str(made.server))
    command("server", "init", "--address", published, "--listen", listening,
            "--admin-port", str(ports.admin), *where)  # fmt: skip
    for number, name in enumerate(names):
        create_site(made.site(name), name, holdout_fraction=0.3, policy=POLICY)
        command("server", "enrol", str(made.site(name) / PUBLIC), *where)
        with open_site(made.site(name)) as site:
            welcome = made.server / "sites" / f"{name}.welcome"
            enrolment.enrol(site.folder, enrolment.read_offer(site.folder, welcome))
            (fill or _add_table)(number, site)
    return made


def begin(
    made: Consortium, toml: str, patients: int = PATIENTS, *, simulation: bool = False
) -> None:
    """Draft, sign and approve the study everywhere. ``patients`` is a site's, as public.

    ``simulation`` lets the sites agree to a plan without a reply delay, which hospitals refuse.
    """
    where = ("--server", str(made.server))
    draft, plan = made.root / "draft.toml", made.root / "plan.json"
    draft.write_text(toml, "utf-8")
    plan.unlink(missing_ok=True)
    command("server", "plan", "create", str(draft), "--epsilon", "8",
            "--patients-per-site", str(patients), "--out", str(plan), *where)  # fmt: skip
    command("server", "plan", "sign", str(plan), *where)
    signed = made.signed
    digest = signed.open().digest
    publics = [
        parse_site_public((made.site(name) / PUBLIC).read_text(), name) for name in made.names
    ]
    for name in made.names:
        with open_site(made.site(name), simulation=simulation) as site:
            _agree(site, signed, digest, publics)


def _agree(site: Site, signed: SignedPlan, digest: bytes, publics: Sequence[SitePublic]) -> None:
    """What a site's operator does: compare fingerprints, read the plan, approve it."""
    for public in publics:
        site.members.confirm(public)
    receive_proposal(site, Propose(signed.canonical, signed.signature))
    approve_plan(site, digest)


def command(side: str, *arguments: str) -> str:
    """Run ``fedward-SIDE`` to its end; returns what it printed.

    Raises:
        StorageError: it failed; with its own line.
    """
    done = subprocess.run(  # noqa: S603
        [str(SCRIPTS / f"fedward-{side}"), *arguments],
        capture_output=True,
        text=True,
        timeout=LONGEST_COMMAND_SECONDS,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    if done.returncode:
        told = done.stderr.strip().splitlines()
        raise StorageError(f"fedward-{side} {arguments[0]}: {told[-1] if told else 'failed'}")
    return done.stdout


def _add_table(number: int, site: Site) -> None:
    table = _write_table(site.folder.path.with_suffix(".csv"), number)
    add_table(site.folder, table, deidentifier_of(site.folder).pseudonyms.patient)


def _write_table(path: Path, seed: int) -> Path:
    """Invented patients: two classes that overlap."""
    rng = np.random.default_rng(seed)
    with path.open("w", newline="", encoding="ascii") as stream:
        writer = csv.writer(stream)
        writer.writerow(["patient", "label", *COLUMNS])
        for number in range(PATIENTS):
            label = int(rng.integers(2))
            row = np.clip(rng.normal(0.4 + 0.2 * label, 0.1, len(COLUMNS)), 0.0, 1.0)
            writer.writerow([f"P{seed}-{number}", label, *(f"{x:.4f}" for x in row)])
    return path
