"""The report in a real browser: it draws, fits its window, follows the colour scheme."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
from matplotlib import image
from tests import report_samples as samples
from tests.conftest import missing

from fedward_server.report.release import write_run
from fedward_simulations.report import write_simulation

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TEAL_LIGHT, TEAL_DARK = (0x0B, 0x6B, 0x75), (0x58, 0xC4, 0xCE)


@pytest.fixture(scope="module")
def browser():
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        missing("no chromium on this machine: the report is not looked at in a browser")
    return found


def photograph(browser, page, folder, width, height, *options):
    """(pixels (height, width, 3) in 0 to 255, what the browser complained about)."""
    target = folder / "shot.png"
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--hide-scrollbars", "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},{height}", f"--screenshot={target}", *options, page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    pixels = np.round(image.imread(target)[..., :3] * 255).astype(int)
    console = [line for line in done.stderr.decode().splitlines() if "CONSOLE" in line]
    return pixels, console


def share(pixels, colour):
    return float(np.mean(np.abs(pixels - np.array(colour)).max(axis=-1) <= 2))


@pytest.mark.parametrize(("width", "height"), [(500, 11_000), (1200, 7000)])
def test_a_simulations_report_draws_and_fits(browser, tmp_path, width, height):
    page = write_simulation(tmp_path, samples.simulation_report())
    pixels, console = photograph(browser, page, tmp_path, width, height)
    assert console == []  # nothing was blocked, nothing failed
    assert share(pixels, (255, 255, 255)) > 0.5
    assert share(pixels, TEAL_LIGHT) > 0.0005
    assert np.all(pixels[:, -3:] == 255)  # nothing runs over the right edge


def test_a_deployments_report_follows_a_dark_scheme(browser, tmp_path):
    page = write_run(tmp_path, samples.run_report())
    pixels, console = photograph(
        browser, page, tmp_path, 1200, 3000, "--blink-settings=preferredColorScheme=0"
    )
    assert console == []
    assert share(pixels, (0x10, 0x16, 0x1C)) > 0.5
    assert share(pixels, TEAL_DARK) > 0.0005
    assert pixels.mean() < 60
