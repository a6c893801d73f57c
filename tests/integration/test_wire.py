"""What crosses the wire in a study over real images: no identifier, no label, no count.

Twice over: tshark captures loopback, where all is TLS, and the relay writes down the same traffic
before it is encrypted. The first is what an eavesdropper has, the second what the coordinator has.
"""

from __future__ import annotations

import contextlib
import csv
import shutil
import signal
import struct
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import missing

from fedward_client.intake.add import add_folder
from fedward_common.errors import PeerError
from fedward_common.messages import (
    REPLIES,
    EvidenceReply,
    HelloReply,
    ProposeReply,
    Refusal,
    Standing,
    StepReply,
    WitnessesNeeded,
    WitnessReply,
    decode_message,
)
from fedward_common.secagg.messages import MaskedAddend
from fedward_common.study import Study
from fedward_simulations.faults.deployment import Deployment, Network, free_ports
from fedward_simulations.faults.world import STUDY, Consortium, begin, found
from fedward_simulations.hospitals import make_hospitals
from fedward_simulations.identities import identity, institution
from fedward_simulations.phantom import phantom_arrays

pytestmark = pytest.mark.slow

SITES, PATIENTS, SEED, SECONDS = 3, 60, 0, 1800.0
WANTED = 200
ROUNDS = 4
DRAFT = f"""\
[study]
name = "{STUDY}"
classes = ["ordinaryfinding", "opacityfinding"]
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
noise_multiplier = 30.0
rounds = 2
sampling_rate = 1.0
clip = 0.1
[[queries]]
kind = "histogram"
noise_multiplier = 30.0
bins = 4
[privacy]
delta = 1e-5
[secagg]
t_min = 3
colluding = 1
[schedule]
maximum_attempts = 12
reply_delay_seconds = 4.0
round_deadline_seconds = 300.0
"""


@dataclass(frozen=True)
class Captured:
    """A finished study and what was seen of it."""

    made: Consortium
    captures: dict[int, Path]
    uplink: bytes
    identifiers: tuple[str, ...]


@pytest.fixture(scope="module")
def captured(tmp_path_factory) -> Captured:
    if shutil.which("tshark") is None:
        missing("tshark is not installed")
    root = tmp_path_factory.mktemp("wire")
    arrays = phantom_arrays(PATIENTS * SITES, 28)
    hospitals = make_hospitals(arrays, root / "hospitals", sites=SITES, plain=True, seed=SEED)

    def fill(number, site):
        add_folder(site.folder, hospitals[number].dicom, hospitals[number].labels)

    made = found(root / "made", SITES, free_ports(), fill)
    begin(made, DRAFT, patients=200)
    plain = root / "plain.bin"
    with ExitStack() as stack:
        network = Network(made, plain=plain)
        stack.callback(network.close)
        ports = (made.ports.published, made.ports.listening)
        captures = {port: _sniff(stack, port, root) for port in ports}
        with Deployment(made) as deployment:
            end = time.monotonic() + SECONDS
            while not deployment.finished:
                deployment.tick()
                link = deployment.processes().get("SuperLink")
                if len(captures) == len(ports) and link is not None and "--port" in link.command:
                    words = link.command.split()
                    port = int(words[words.index("--port") + 1])
                    captures[port] = _sniff(stack, port, root)
                assert time.monotonic() < end, deployment.log("supervisor")[-3000:]
    return Captured(made, captures, plain.read_bytes(), _planted(hospitals))


def _sniff(stack: ExitStack, port: int, root: Path) -> Path:
    """Capture this port alone: other programs of the machine talk over loopback too."""
    path = root / f"{port}.pcapng"
    command = ["tshark", "-q", "-i", "lo", "-f", f"tcp port {port}", "-w", str(path)]
    sniffer = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def stop() -> None:
        sniffer.send_signal(signal.SIGINT)
        sniffer.wait(60)

    stack.callback(stop)
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, "tshark captures nothing"
        time.sleep(0.1)
    return path


def _planted(hospitals) -> tuple[str, ...]:
    """What the hospitals' files say about persons, as it stands in them."""
    found = set()
    for number, hospital in enumerate(hospitals, 1):
        place = institution(SEED, number)
        found |= {place.name, place.operator, place.device_serial}
        with hospital.labels.open(newline="") as stream:
            patients = len(list(csv.DictReader(stream)))
        for patient in range(patients):
            person = identity(SEED, number, patient)
            found |= {person.token, person.name, person.patient_id, person.telephone}
    every = sorted(found)
    return tuple(every[:: len(every) // WANTED])  # of every kind and hospital


def _forms(text: str) -> tuple[bytes, ...]:
    """An identifier as it might be written."""
    return tuple(text.encode(code) for code in ("utf-8", "utf-16-le", "utf-16-be"))


def _found_in(data: bytes, identifiers: tuple[str, ...]) -> list[str]:
    return [text for text in identifiers if any(form in data for form in _forms(text))]


def test_there_is_something_to_look_for(captured):
    assert len(captured.identifiers) >= WANTED
    files = b"".join(path.read_bytes() for path in captured.made.root.parent.rglob("*.dcm"))
    assert len(_found_in(files, captured.identifiers)) >= WANTED  # the search finds what is there


def test_the_capture_holds_the_study_and_it_is_tls_1_3(captured):
    assert len(captured.captures) == 3  # before the relay, before the gateway, the SuperLink's
    for port, path in captured.captures.items():
        told = _tshark(path, port, "tls.handshake.type == 2")
        assert told, port
        assert {line.split(",")[0] for line in told} == {"0x0304"}
        least = 4 * Study(captured.made.signed.open()).parameters * SITES
        assert path.stat().st_size > least


def test_nothing_on_the_wire_is_readable(captured):
    for path in captured.captures.values():
        data = path.read_bytes()
        assert not _found_in(data, captured.identifiers)
        assert b"ordinaryfinding" not in data
        assert b"/v1/fleet" not in data
    assert b"ordinaryfinding" in captured.uplink  # the plan itself, on its way to the sites
    assert b"/v1/fleet" in captured.uplink


def test_before_encryption_there_is_no_identifier_either(captured):
    assert not _found_in(captured.uplink, captured.identifiers)


def test_every_message_of_a_site_is_a_known_one_with_fixed_fields(captured):
    """No label, count, score or metric: there is no field that could hold one."""
    kinds = set()
    for message in _replies(captured.uplink):
        kinds.add(type(message))
        match message:
            case StepReply() | HelloReply() | ProposeReply() | Standing():
                pass
            case WitnessReply() | WitnessesNeeded() | EvidenceReply() | Refusal():
                pass
            case _:
                pytest.fail(f"a site sent {type(message).__name__}")
    assert {StepReply, HelloReply, ProposeReply, Standing} <= kinds


def test_addends_are_masked_and_say_no_count(captured):
    """Each coordinate is uniform on 32 bits; a bare count, even a noised one, is small or large."""
    study = Study(captured.made.signed.open())
    values = []
    for message in _replies(captured.uplink):
        if isinstance(message, StepReply):
            for task in study.tasks:
                try:
                    addend = MaskedAddend.decode(message.reply, task.dimension)
                except PeerError:
                    continue
                values.append(np.frombuffer(addend.y, dtype="<u4"))
    assert len(values) >= SITES * ROUNDS
    joined = np.concatenate(values)
    shares = np.bincount(joined >> 28, minlength=16) / len(joined)
    assert np.abs(shares - 1 / 16).max() < 6 * np.sqrt(1 / 16 / len(joined))


def _replies(data: bytes):
    """Every message of a site in the recorded plain bytes: its tag, then its canonical end."""
    tags = {kind.TAG: kind for kind in REPLIES}
    for tag in tags:
        mark = b"s" + struct.pack(">I", len(tag)) + tag.encode()
        start = data.find(mark)
        while start >= 5:
            head = data[start - 5 : start]
            if head[:1] == b"T":
                length = struct.unpack(">I", head[1:])[0]
                with contextlib.suppress(PeerError):  # cut by a chunk of the way back
                    yield decode_message(data[start - 5 : start + length], REPLIES)
            start = data.find(mark, start + 1)


def _tshark(path: Path, port: int, wanted: str) -> list[str]:
    """The TLS version of each packet that ``wanted`` selects."""
    command = ["tshark", "-r", str(path), "-d", f"tcp.port=={port},tls", "-Y", wanted,
               "-T", "fields", "-e", "tls.handshake.extensions.supported_version"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if line]
