"""The units in deploy/systemd: systemd understands them, and little is left open to them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import missing

UNITS = ("fedward-client@.service", "fedward-receive@.service", "fedward-server.service")
EXPOSURE = 20
"""Tenths of the scale of `systemd-analyze security`; a unit without hardening is at 96."""

INSTALLED = "/opt/fedward/bin/"
HARDENING = {
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "LimitCORE=0",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
    "SystemCallFilter=@system-service",
    "UMask=0077",
    "Restart=always",
    "KillMode=mixed",
}


@pytest.fixture(scope="module")
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        missing("systemd-analyze is not installed (package systemd)")
    return str(found)


@pytest.fixture(params=UNITS)
def unit(request, root: Path, tmp_path: Path) -> Path:
    """A copy that starts the programs of this environment, for systemd looks whether they exist."""
    text = (root / "deploy" / "systemd" / request.param).read_text(encoding="utf-8")
    assert INSTALLED in text
    path = tmp_path / request.param
    path.write_text(text.replace(INSTALLED, f"{Path(sys.executable).parent}/"), encoding="utf-8")
    return path


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )


def security(analyze: str, unit: Path) -> subprocess.CompletedProcess[str]:
    options = ("--offline=true", f"--threshold={EXPOSURE}", "--no-pager")
    return run(analyze, "security", *options, unit)


def instance(unit: Path) -> Path:
    """A template is looked at as one of its instances."""
    if "@." not in unit.name:
        return unit
    return unit.with_name(unit.name.replace("@.", "@north."))


def test_systemd_understands_every_line(analyze: str, unit: Path) -> None:
    done = run(analyze, "verify", instance(unit))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_unknown_setting_would_be_told(analyze: str, unit: Path) -> None:
    text = unit.read_text(encoding="utf-8")
    unit.write_text(text.replace("ProtectHome=yes", "ProtectHom=yes"), encoding="utf-8")
    assert "ProtectHom" in run(analyze, "verify", instance(unit)).stderr


def test_what_is_left_open_is_below_the_threshold(analyze: str, unit: Path) -> None:
    done = security(analyze, unit)
    assert done.returncode == 0, done.stdout


def test_a_unit_without_its_hardening_is_above_the_threshold(analyze: str, unit: Path) -> None:
    kept = [
        line
        for line in unit.read_text(encoding="utf-8").splitlines()
        if not re.match(r"(Protect|Private|Restrict|SystemCall|Capab|NoNew|Lock|Memory)", line)
    ]
    unit.write_text("\n".join(kept), encoding="utf-8")
    assert security(analyze, unit).returncode != 0


def test_every_unit_has_the_hardening_that_the_score_does_not_force(unit: Path) -> None:
    assert set(unit.read_text(encoding="utf-8").splitlines()) >= HARDENING


def test_a_daemon_is_never_given_up_and_a_mistake_of_its_operator_is_not_repeated(
    unit: Path,
) -> None:
    lines = unit.read_text(encoding="utf-8").splitlines()
    assert "StartLimitIntervalSec=0" in lines
    assert "RestartPreventExitStatus=2" in lines  # fedward_common.errors: the person's mistake


def test_the_commands_of_the_units_exist(unit: Path) -> None:
    (start,) = re.findall(r"^ExecStart=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE)
    program, command, option, *_ = start.split()
    shown = run(program, command, "--help")
    assert shown.returncode == 0
    assert option in shown.stdout
