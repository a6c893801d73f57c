"""What a round costs in a deployment: over TLS, with the real processes, beside stock Flower.

A private sum of a CNN of about 10^5 parameters at hospitals of a few small images, so that time
goes to the protocol and the network and not to training. ``rounds`` measures three daemons as
processes of their own; ``growth`` 5 to 50 daemons, which share one process (a torch in each of 50
would need 12 GB), with a connection, a thread and a site folder each.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedward_client.intake.add import add_folder
from fedward_client.site import Site
from fedward_common.errors import StorageError
from fedward_common.secagg.parameters import threshold
from fedward_common.study import Study
from fedward_simulations.bench.deployment.stock import measure_stock
from fedward_simulations.bench.versions import version_of
from fedward_simulations.faults.deployment import SERVER_APP, Deployment, free_ports
from fedward_simulations.faults.processes import Process, Unit, descendants
from fedward_simulations.faults.world import STUDY, Consortium, Ports, begin, found
from fedward_simulations.hospitals import Hospital, make_hospitals
from fedward_simulations.phantom import phantom_arrays

PATIENTS = 24
IDLE_SECONDS = 20.0
WARM_ROUNDS = 2
"""First rounds that are not counted: the moments at which programs load."""

DELAY_SECONDS = 0.5
"""Of three daemons, as hospitals refuse a plan without one. In the growth every delay would hide
what is measured, so that the sites of it agree to none."""

LONGEST_SECONDS = 3600.0

DRAFT = f"""\
[study]
name = "{STUDY}"
classes = ["normal", "opacity"]
[preprocess]
size = 36
[model]
kind = "cnn"
width = 44
[[queries]]
kind = "count"
noise_multiplier = 30.0
[[queries]]
kind = "gradient"
noise_multiplier = 30.0
rounds = {{steps}}
sampling_rate = 1.0
clip = 0.1
[privacy]
delta = 1e-5
[secagg]
t_min = {{t_min}}
colluding = 1
[schedule]
maximum_attempts = {{attempts}}
reply_delay_seconds = {{delay}}
round_deadline_seconds = 300.0
"""

Notice = Callable[[str], None]


@dataclass(frozen=True)
class RoundCost:
    """One setting. Times are seconds, CPU in seconds a round, memory in bytes (Pss).

    ``idle_cpu`` is the share of one core that all processes use when nothing is asked: of the
    coordinator's together, and of one daemon; None where it was not measured.
    """

    daemons: int
    processes: int
    parameters: int
    delay: float
    attempts: int
    seconds: tuple[float, ...]
    cpu: dict[str, float]
    memory: dict[str, int]
    idle_cpu: dict[str, float] | None = None

    @property
    def median(self) -> float:
        """Of the rounds' seconds."""
        return statistics.median(self.seconds)

    def to_json(self) -> dict[str, Any]:
        """The record of a result file."""
        return {**asdict(self), "median_seconds": self.median}


@dataclass
class SharedDeployment(Deployment):
    """All daemons are threads of one process."""

    def __post_init__(self) -> None:
        super().__post_init__()
        module = "fedward_simulations.bench.deployment.daemons"
        folders = [str(self.made.site(name)) for name in self.made.names]
        command = (sys.executable, "-m", module, *folders)
        log = self.made.root / "logs" / "daemons.log"
        self.daemons = {"daemons": Unit("daemons", command, log, self.mark)}


@dataclass
class Meter:
    """CPU and memory of a deployment's processes, by side."""

    deployment: Deployment

    def cpu(self) -> dict[str, float]:
        """Seconds used so far by the coordinator's processes and by the daemons."""
        return {
            side: sum(process.cpu_seconds(children=True) for process in processes)
            for side, processes in self._sides().items()
        }

    def memory(self) -> dict[str, int]:
        """Bytes held now."""
        return {
            side: sum(process.memory_bytes() for process in processes)
            for side, processes in self._sides().items()
        }

    def _sides(self) -> dict[str, list[Process]]:
        main = self.deployment.server.process
        server = [main, *descendants(main)] if main else []
        daemons = [p for u in self.deployment.daemons.values() if (p := u.process)]
        return {"server": server, "daemons": daemons}


def measure(
    folder: Path,
    daemons: int,
    rounds: int,
    *,
    delay: float,
    shared: bool = False,
    idle: bool = True,
) -> RoundCost:
    """Run a study of ``rounds`` sums over ``daemons`` sites and measure it.

    Raises:
        StorageError: a command failed, or the study made no end.
    """
    made = _consortium(folder, daemons)
    t_min, steps = threshold(daemons), rounds - 1
    draft = DRAFT.format(steps=steps, t_min=t_min, attempts=rounds + 5, delay=delay)
    begin(made, draft, simulation=not delay)
    kind = SharedDeployment if shared else Deployment
    with kind(made) as deployment:
        meter = Meter(deployment)
        _until(deployment, lambda: len(deployment.history) >= WARM_ROUNDS)
        before, start = meter.cpu(), len(deployment.history)
        _until(deployment, lambda: len(deployment.history) >= rounds)
        after, memory = meter.cpu(), meter.memory()
        _until(deployment, lambda: deployment.finished)
        quiet = _idle(meter, daemons) if idle else None
        history, attempts = deployment.history, deployment.attempts
    counted = rounds - start
    return RoundCost(
        daemons,
        1 if shared else daemons,
        Study(made.signed.open()).parameters,
        delay,
        attempts,
        tuple(float(entry["seconds"]) for entry in history[start:]),
        {side: (after[side] - before[side]) / counted for side in after},
        memory,
        quiet,
    )


def _idle(meter: Meter, daemons: int) -> dict[str, float]:
    """Share of a core in the time after a study, when every site waits for the next."""
    _until(meter.deployment, lambda: SERVER_APP not in meter.deployment.processes())
    before, started = meter.cpu(), time.monotonic()
    end = started + IDLE_SECONDS
    while time.monotonic() < end:
        time.sleep(1.0)  # not even restarts are looked for
    after, seconds = meter.cpu(), time.monotonic() - started
    return {
        "server": (after["server"] - before["server"]) / seconds,
        "one daemon": (after["daemons"] - before["daemons"]) / seconds / daemons,
    }


def _consortium(folder: Path, daemons: int) -> Consortium:
    """Sites that all hold the images of one small hospital."""
    arrays = phantom_arrays(PATIENTS, 28)
    hospital = make_hospitals(arrays, folder / "hospital", sites=1, plain=True)[0]
    ports = free_ports()
    direct = Ports(ports.published, ports.published, ports.admin)
    return found(folder / "made", daemons, direct, lambda _, site: _fill(site, hospital))


def _fill(site: Site, hospital: Hospital) -> None:
    add_folder(site.folder, hospital.dicom, hospital.labels)


def _until(deployment: Deployment, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONGEST_SECONDS
    while not condition():
        deployment.tick()
        if time.monotonic() > end:
            raise StorageError(f"the study makes no end; see {deployment.made.root / 'logs'}")


def compare(folder: Path, rounds: int, exchanges: int, notice: Notice) -> dict[str, Any]:
    """Three daemons, and three stock SuperNodes that exchange arrays of the same size."""
    notice("three daemons over TLS")
    ours = measure(folder / "three", 3, rounds, delay=DELAY_SECONDS)
    notice(f"{ours.median:.2f} s a round; three stock SuperNodes")
    (folder / "stock").mkdir(parents=True)
    stock = measure_stock(folder / "stock", 3, ours.parameters, exchanges)
    exchange = statistics.median(stock.seconds)
    notice(f"{exchange:.2f} s an exchange")
    return {
        "fedward": ours.to_json(),
        "stock": {**asdict(stock), "median_seconds": exchange},
        "one stock exchange over one complete round": exchange / ours.median,
    }


def growth(folder: Path, sizes: list[int], rounds: int, notice: Notice) -> list[dict[str, Any]]:
    """The same study over more and more daemons."""
    found_costs = []
    for size in sizes:
        notice(f"{size} daemons, {rounds} rounds")
        cost = measure(folder / f"growth-{size}", size, rounds, delay=0.0, shared=True, idle=False)
        notice(f"{cost.median:.2f} s a round")
        found_costs.append(cost.to_json())
    return found_costs


def versions() -> dict[str, str | None]:
    """Of what was measured."""
    return {name: version_of(name) for name in ("fedward", "flwr", "torch", "cryptography")}
