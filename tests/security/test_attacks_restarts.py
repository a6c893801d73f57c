"""A7: sites killed at any moment, restored backups, two processes of one site at once."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest
from tests.privacy_samples import GRADIENT
from tests.security.attack_world import HostileServer, without
from tests.world import MemorySites

from fedward_client.database import open_database
from fedward_client.debit import Allowance, Debit
from fedward_client.ledger import Ledger
from fedward_client.policy import AccountCap, Caps
from fedward_common.errors import PeerError, PolicyRefusalError
from fedward_common.messages import (
    REPLIES,
    AgreeOrder,
    MaskOrder,
    Message,
    Refusal,
    ShareOrder,
    Standing,
    StepReply,
    UnmaskOrder,
    WitnessesNeeded,
    decode_message,
)
from fedward_common.secagg.messages import (
    AgreeRequest,
    MaskRequest,
    UnmaskRequest,
)

CHILD = """
import sys
from pathlib import Path
from fedward_client.round import SiteService
from fedward_client.site import open_site
from tests.world import RUNTIME

with open_site(Path(sys.argv[1]), runtime=RUNTIME) as site:
    service = SiteService(site)
    print("ready", flush=True)
    for line in sys.stdin:
        print(service.handle(bytes.fromhex(line)).hex(), flush=True)
"""


class SiteProcess:
    """A real site in a process of its own, which can be killed."""

    def __init__(self, path: Path) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", CHILD, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert self._child.stdout.readline() == b"ready\n"

    def send(self, order: Message) -> None:
        self._child.stdin.write(order.encode().hex().encode() + b"\n")
        self._child.stdin.flush()

    def receive(self) -> bytes:
        return bytes.fromhex(self._child.stdout.readline().decode())

    def handle(self, data: bytes) -> bytes:
        self._child.stdin.write(data.hex().encode() + b"\n")
        self._child.stdin.flush()
        return self.receive()

    def vouch(self, sites: MemorySites, order: Message) -> None:
        """Bring the witnesses that this process asks for before it serves ``order`` (B6)."""
        needed = decode_message(self.handle(order.encode()), REPLIES)
        assert isinstance(needed, WitnessesNeeded)
        assert isinstance(sites.vouch("site-1", needed, self.handle), Standing)

    def kill(self) -> bytes | None:
        """SIGKILL; the reply, if it had left by then."""
        self._child.kill()
        rest = self._child.stdout.read()
        self._child.wait()
        return bytes.fromhex(rest.decode()) if rest.endswith(b"\n") else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def _different(order: Message) -> Message:
    """Another order for the same step and e, well-formed as far as the site can tell."""
    if isinstance(order, MaskOrder):
        return dataclasses.replace(
            order, request=without(MaskRequest.decode(order.request), 3).encode()
        )
    if isinstance(order, AgreeOrder):
        hashes = AgreeRequest.decode(order.request).hashes
        return dataclasses.replace(order, request=AgreeRequest(1, hashes[:3]).encode())
    assert isinstance(order, UnmaskOrder)
    agreements = UnmaskRequest.decode(order.request).agreements
    return dataclasses.replace(order, request=UnmaskRequest(1, agreements[:3]).encode())


def _killed(server: HostileServer, order: Message, delay: float) -> StepReply:
    """Kill site 0 ``delay`` seconds after the order came; what it says when it is back."""
    sites = server.sites
    sites.restart("site-1")
    with SiteProcess(sites.world.root / "site-1") as process:
        process.vouch(sites, order)
        process.send(order)
        time.sleep(delay)
        before = process.kill()
    after = sites.ask("site-1", order.encode())
    assert before is None or before == after  # the exact bytes, or they never left
    if not isinstance(order, ShareOrder):
        refusal = sites.ask("site-1", _different(order).encode())
        assert isinstance(decode_message(refusal, REPLIES), Refusal)
    assert sites.ask("site-1", order.encode()) == after
    reply = decode_message(after, REPLIES)
    assert isinstance(reply, StepReply)
    return reply


@pytest.mark.parametrize(
    ("step", "kills"),
    [
        ("mask", 1),
        *(pytest.param(step, 4, marks=pytest.mark.slow) for step in ("share", "mask")),
        *(pytest.param(step, 4, marks=pytest.mark.slow) for step in ("agree", "unmask")),
    ],
)
def test_a_site_killed_at_any_moment_of_a_step_never_says_two_things(
    federation, tmp_path, step, kills
):
    """'site killed and restarted at any step': fsync before send. SIGKILL at random moments."""
    moments = random.Random(step)
    for number in range(kills):
        delay = moments.uniform(0.0, 0.05) if number else 0.0
        with federation.copy(tmp_path / f"{step}-{number}").sites() as sites:
            server = HostileServer(sites)
            if step == "share":
                _killed(server, ShareOrder(server.study, 1), delay)
            state, requests = server.mask_orders(server.share(1))
            if step == "mask":
                _killed(server, server.mask_order(requests[0]), delay)
            agreeing, asked = server.mask(state, requests).close()
            if step == "agree":
                _killed(server, server.agree_order(asked[0]), delay)
            revealing, last = server.agree(agreeing, asked).close()
            if step == "unmask":
                _killed(server, server.unmask_order(last[0]), delay)
            summed, _ = server.unmask(revealing, last).close()
            assert summed.transcript.survivors == (0, 1, 2, 3)
            assert all(server.debits(i) == [1] for i in server.everyone)
            _, again = server.mask_orders(server.share(2))
            for i in server.everyone:  # A2: what left is known to have left, killed or not
                server.refused(i, server.mask_order(again[i]))


def _back_up(server: HostileServer, folder: Path) -> None:
    """Copy site 0's database, but not its keys, as A6 tells an operator to do."""
    server.sites.restart("site-1")
    folder.mkdir()
    for file in (server.sites.world.root / "site-1").glob("site.db*"):
        shutil.copy(file, folder)


def _restore(server: HostileServer, folder: Path) -> None:
    server.sites.restart("site-1")
    site = server.sites.world.root / "site-1"
    for file in site.glob("site.db*"):
        file.unlink()
    for file in folder.iterdir():
        shutil.copy(file, site)


@pytest.mark.parametrize("step", ["shared", "masked", "agreed"])
def test_a_restored_backup_of_an_older_attempt_opens_no_seed(federation, tmp_path, step):
    """'backup restored with old seeds': A6 sealing. The backup is of any step of attempt 1."""
    saved = tmp_path / "saved"
    with federation.copy(tmp_path / "world").sites() as sites:
        server = HostileServer(sites)
        state, requests = server.mask_orders(server.share(1))
        if step == "shared":
            _back_up(server, saved)
        agreeing, asked = server.mask(state, requests).close()
        if step == "masked":
            _back_up(server, saved)
        _, last = server.agree(agreeing, asked).close()
        if step == "agreed":
            _back_up(server, saved)
        server.share(2)  # attempt 1 is abandoned: its key is destroyed
        _restore(server, saved)
        order = {
            "shared": server.mask_order(without(requests[0], 3)),
            "masked": server.agree_order(AgreeRequest(1, asked[0].hashes[:3])),
            "agreed": server.unmask_order(last[0]),
        }[step]
        reply = server.refused(0, order)
        if step == "shared":  # without its debit, the others' witness stops it first (B6)
            assert reply.kind == "IntegrityError"
            with pytest.raises(PeerError, match="cannot be opened"):
                sites.site("site-1").rounds.load(server.study, 1)
        else:
            assert "cannot be opened" in reply.reason


def test_a_backup_restored_within_its_own_attempt_gives_no_second_addend(federation, tmp_path):
    """'backup restored with old seeds', before the attempt is over (docs/threat-model.md)."""
    saved = tmp_path / "saved"
    with federation.copy(tmp_path / "world").sites() as sites:
        server = HostileServer(sites)
        _, requests = server.mask_orders(server.share(1))
        _back_up(server, saved)
        server.addend(0, server.mask_order(requests[0]))
        _restore(server, saved)
        assert isinstance(server.ask(0, server.mask_order(without(requests[0], 3))), Refusal)


def test_two_processes_of_one_site_never_let_two_addends_of_one_attempt_leave(federation, tmp_path):
    """'two processes debiting or answering at once': one exclusive transaction.

    Two real processes serve one site folder and get two different valid orders at the same time.
    """
    with federation.copy(tmp_path / "world").sites() as sites:
        server = HostileServer(sites)
        path = sites.world.root / "site-1"
        with SiteProcess(path) as one, SiteProcess(path) as two:
            for process in (one, two):
                process.vouch(sites, ShareOrder(server.study, 1))
            for e in range(1, 7):
                _, requests = server.mask_orders(server.share(e))
                order = server.mask_order(requests[0])
                other = order if e % 2 else _different(order)
                one.send(order)
                two.send(other)
                replies = {process.receive() for process in (one, two)}
                answers = [decode_message(reply, REPLIES) for reply in replies]
                assert sum(isinstance(answer, StepReply) for answer in answers) == 1
            assert server.debits(0) == list(range(1, 7))
            sites.site("site-1").ledger.verify()


DEBITOR = """
import sys
from pathlib import Path
from fedward_client.database import open_database
from fedward_client.debit import Allowance, Debit
from fedward_client.ledger import Ledger
from fedward_client.policy import AccountCap, Caps
from fedward_common.errors import PolicyRefusalError
from tests.privacy_samples import GRADIENT

plenty = Allowance({GRADIENT.query: 60}, 0)
caps = Caps(train=AccountCap(epsilon=float(sys.argv[2]), delta=1e-5))
ledger = Ledger(open_database(Path(sys.argv[1])))
print("ready", flush=True)
sys.stdin.readline()
for e in range(1, 60):
    try:
        debit = Debit.of(GRADIENT, study=bytes(32), e=e, account="train")
        ledger.debit(debit, caps, plenty)
    except PolicyRefusalError:
        break
"""


def test_two_processes_debiting_at_once_debit_each_attempt_once_and_pass_no_cap(tmp_path):
    """'two processes debiting or answering at once': one exclusive transaction."""
    cap = 1.0
    plenty = Allowance({GRADIENT.query: 60}, 0)
    caps = Caps(train=AccountCap(epsilon=cap, delta=1e-5))
    alone = Ledger(open_database(tmp_path / "alone.db"))
    fits = 0
    with suppress(PolicyRefusalError):
        while fits < 60:
            debit = Debit.of(GRADIENT, study=bytes(32), e=fits + 1, account="train")
            alone.debit(debit, caps, plenty)
            fits += 1
    assert 3 < fits < 60
    path = tmp_path / "site.db"
    Ledger(open_database(path))
    children = [
        subprocess.Popen(
            [sys.executable, "-c", DEBITOR, str(path), str(cap)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for _ in range(2)
    ]
    for child in children:
        assert child.stdout.readline() == b"ready\n"
    for child in children:
        child.stdin.write(b"go\n")
        child.stdin.flush()
    for child in children:
        child.communicate()
        assert child.returncode == 0
    ledger = Ledger(open_database(path))
    assert [debit.e for debit in ledger.entries()] == list(range(1, fits + 1))
    assert ledger.verify() == ledger.head()
    assert ledger.head() == alone.head()
