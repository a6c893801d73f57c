"""Commands as people run them: in this process for speed, or as the installed programs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from fedward_client.cli import main as client_main
from fedward_server.cli import main as server_main
from fedward_simulations.cli import main as simulate_main

PROGRAMS = {
    "fedward-client": client_main,
    "fedward-server": server_main,
    "fedward-simulate": simulate_main,
}
SCRIPTS = Path(sys.executable).parent

DRAFT = """\
[study]
name = "chest"
title = "Opacity or normal on chest radiographs"
classes = ["normal", "opacity"]
[preprocess]
size = 28
[model]
kind = "cnn"
width = 4
[[queries]]
kind = "count"
noise_multiplier = 30.0
[[queries]]
kind = "gradient"
rounds = 2
sampling_rate = 0.5
clip = 0.1
[[queries]]
kind = "histogram"
bins = 4
[privacy]
delta = 1e-5
[secagg]
t_min = 3
colluding = 1
[schedule]
maximum_attempts = 6
reply_delay_seconds = 1.0
"""
EPSILON = 4.0

FIXED_DRAFT = DRAFT.replace("rounds = 2", "rounds = 2\nnoise_multiplier = 3.0").replace(
    "bins = 4", "bins = 4\nnoise_multiplier = 3.0"
)
"""The draft with every noise multiplier given: there is nothing to search for."""

POLICY = """\
[caps.train]
epsilon = {epsilon}
epsilon_worst_case = "none"
delta = 1e-5
[caps.holdout]
epsilon = {epsilon}
epsilon_worst_case = "none"
delta = 1e-5
[studies]
queries = ["count", "gradient", "histogram"]
models = ["cnn"]
minimum_cohort = 5
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self):
        assert self.status == 0, self.err
        return json.loads(self.out)

    def refused(self, status, *parts):
        """It ended with ``status`` and one line on standard error that holds all ``parts``."""
        assert self.status == status, (self.out, self.err)
        assert self.err.startswith("error: "), self.err
        assert self.err.count("\n") == 1, self.err
        assert self.err.endswith("\n")
        for part in parts:
            assert str(part) in self.err, (part, self.err)
        return self


def call(program, *arguments):
    """Run a command in this process, through the console script's own function."""
    out, err = io.StringIO(), io.StringIO()
    status = None
    with (
        mock.patch.object(sys, "argv", [program, *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            PROGRAMS[program]()
        except SystemExit as end:
            status = end.code
    return Done(status, out.getvalue(), err.getvalue())


def run(program, *arguments, cwd=None, preexec_fn=None, env=None):
    """Run a command as the program that the package installs."""
    done = subprocess.run(
        [SCRIPTS / program, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        preexec_fn=preexec_fn,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def client(*arguments):
    return call("fedward-client", *arguments)


def server(*arguments):
    return call("fedward-server", *arguments)


def simulate(*arguments):
    return call("fedward-simulate", *arguments)


def ok(done):
    assert done.status == 0, done.err
    assert done.err == ""
    return done
