"""Three hospitals with patients and a coordinator with a signed plan, made by the commands."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cli_world import DRAFT, EPSILON, POLICY, client, ok, server

from fedward_simulations.hospitals import make_hospitals
from fedward_simulations.phantom import phantom_arrays

NAMES = ("site-01", "site-02", "site-03")


@dataclass(frozen=True)
class Federation:
    """Folders on disk; nothing of it is open."""

    root: Path
    digest: str

    @property
    def sites(self):
        return [self.root / name for name in NAMES]

    @property
    def server(self):
        return self.root / "server"

    @property
    def draft(self):
        return self.root / "draft.toml"

    @property
    def plan(self):
        return self.server / "studies" / "chest" / "plan.signed"

    def hospital(self, name):
        return self.root / "hospitals" / name

    def import_everywhere(self, epsilon):
        """Every operator verifies the others, fills in the policy and takes the plan in."""
        for site in self.sites:
            for other in self.sites:
                if other != site:
                    ok(client("members", "confirm", other / "SITE.pub", "--yes", "--site", site))
            (site / "policy.toml").write_text(POLICY.format(epsilon=epsilon))
            ok(client("plan", "import", self.plan, "--site", site))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("federation")
    hospitals = make_hospitals(phantom_arrays(48, 28), root / "hospitals", sites=3, plain=True)
    folder = Federation(root, "")
    ok(server("init", "--server", folder.server))
    for site, hospital in zip(folder.sites, hospitals, strict=True):
        ok(client("init", site.name, "--site", site))
        ok(client("add", hospital.dicom, "--labels", hospital.labels, "--site", site))
        ok(server("enrol", site / "SITE.pub", "--server", folder.server))
    folder.draft.write_text(DRAFT)
    plan = root / "chest.plan.json"
    sizes = ("--epsilon", EPSILON, "--patients-per-site", 20)
    where = ("--server", folder.server)
    created = server("plan", "create", folder.draft, *sizes, "--out", plan, *where, "--json")
    signed = server("plan", "sign", plan, "--server", folder.server, "--json")
    assert created.json["plan"] == signed.json["plan"]
    return Federation(root, signed.json["plan"])


@pytest.fixture
def federation(made, tmp_path):
    """A copy that a test may change."""
    root = tmp_path / "federation"
    shutil.copytree(made.root, root)
    return Federation(root, made.digest)


@pytest.fixture
def site(tmp_path):
    """An empty site."""
    path = tmp_path / "site"
    ok(client("init", "north", "--site", path))
    return path
