"""A ledger that went back, vanished or was altered is found, and its site trains no more (B6)."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cli_world import client
from tests.world import (
    COORDINATOR,
    GRADIENT,
    POLICY,
    TARGET,
    MemorySites,
    World,
    approve_all,
    coordinate,
    make_world,
    roster_entry,
    table_document,
    write_table,
)

from fedward_client import witness
from fedward_client.audit_log import AuditLog
from fedward_client.chain import Head
from fedward_client.database import open_database
from fedward_client.heads import MAX_ATTEMPTS, MAX_SEEN_BYTES, NEVER, HeadBook, Seen, attempt_digest
from fedward_client.intake.add import deidentifier_of
from fedward_client.intake.table import add_table
from fedward_client.ledger import Ledger
from fedward_client.site import create_site, open_site
from fedward_common.codec import decode, encode
from fedward_common.errors import IntegrityError, StorageError
from fedward_common.messages import (
    REPLIES,
    MaskOrder,
    Message,
    Propose,
    Refusal,
    ShareOrder,
    Standing,
    UnmaskOrder,
    Witnessed,
    WitnessesNeeded,
    decode_message,
)
from fedward_common.plan.signing import sign_plan
from fedward_common.secagg.parameters import Group, Member, group_problems, threshold
from fedward_server import coordinator
from fedward_server.planning import draft_plan
from fedward_server.witnesses import WitnessedSites

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

SITE = "site-1"
ROUNDS = 5


class Stop(Exception):  # noqa: N818  (the test ends the server)
    pass


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Four sites, t = t_min = 3, c = 1, five sums."""
    queries = [{"kind": "count", "noise_multiplier": 5.0}, {**GRADIENT, "rounds": ROUNDS - 1}]
    root = tmp_path_factory.mktemp("ledgers") / "template"
    return make_world(root, 4, queries=queries, schedule={"maximum_attempts": 12})


@pytest.fixture(autouse=True)
def _no_pause_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "POLL_SECONDS", 0.0)


@pytest.fixture
def world(template: World, tmp_path: Path) -> World:
    return template.copy(tmp_path / "world")


def run_until(world: World, position: int) -> bytes:
    """Run the study up to a sum, then end every process; returns the digest it runs under."""

    def stop(event) -> None:
        if event.position == position:
            raise Stop

    with world.sites() as sites:
        running = coordinate(sites, stop)
        with pytest.raises(Stop):
            running.run()
    return running.digest


def back_up(world: World, into: Path) -> None:
    """All of the folder, the keys of rounds in flight included, against A6."""
    shutil.copytree(world.root / SITE, into)


def restore(world: World, saved: Path) -> None:
    shutil.rmtree(world.root / SITE)
    shutil.copytree(saved, world.root / SITE)


def debits(world: World, name: str = SITE) -> list[int]:
    with world.open(name) as site:
        return [entry.e for entry in site.ledger.entries()]


def goes_on_without_it(world: World, caplog: pytest.LogCaptureFixture, *words: str) -> None:
    """The others finish the study; the site refuses, spends nothing and says why in one line."""
    before = debits(world)
    caplog.clear()
    with world.sites() as sites:
        history = coordinate(sites).run().history
        refusals = {reply.kind for name, _, reply in sites.refused if name == SITE}
        assert {name for name, _, _ in sites.refused} == {SITE}
        served = [
            order
            for name, order, reply in sites.sent
            if name == SITE
            and isinstance(order, MaskOrder)
            and not isinstance(decode_message(reply, REPLIES), Refusal | WitnessesNeeded)
        ]
    assert len(history) == ROUNDS
    assert SITE not in history[-1]["sites"]
    assert refusals == {"IntegrityError"}
    assert served == []
    assert debits(world) == before
    lines = [r.getMessage() for r in caplog.records if "trains no more" in r.getMessage()]
    assert lines
    for word in ("put back the newest copy", *words):
        assert all(word in line for line in lines)
    assert all("\n" not in line for line in lines)


@pytest.mark.parametrize("taken", [1, 2])
def test_an_old_backup_of_the_whole_folder_is_told_by_the_others(world, tmp_path, caplog, taken):
    run_until(world, taken)
    back_up(world, tmp_path / "saved")
    run_until(world, taken + 1)
    restore(world, tmp_path / "saved")
    with open_site(world.root / SITE) as site:
        site.ledger.verify()  # nothing is wrong with it but its age
        witness.check_log(site)
    goes_on_without_it(world, caplog, f"ledger ends at row {taken} ", "under this site's signature")


def test_a_backup_that_misses_the_last_debit_alone_is_told_by_the_others(world, tmp_path, caplog):
    """Its last signed head is older than that debit, but the others saw the addend it paid for."""
    saved = tmp_path / "saved"

    def before_the_debit(name: str, order: Message) -> str:
        if name == SITE and isinstance(order, MaskOrder) and order.e == 3 and not saved.exists():
            sites.restart(SITE)  # puts everything into the one file
            back_up(world, saved)
        return "ok"

    def stop(event) -> None:
        if event.position == 3:
            raise Stop

    with world.sites(fate=before_the_debit) as sites, pytest.raises(Stop):
        coordinate(sites, stop).run()
    assert debits(world) == [1, 2, 3]
    restore(world, saved)
    assert debits(world) == [1, 2]
    goes_on_without_it(world, caplog, "ledger ends at row 2 and", "saw an addend")


def test_a_debit_of_an_attempt_shown_the_same_head_as_a_lost_one_is_told(world, tmp_path, caplog):
    """The order to mask was lost at e = 2: at e = 3 the site shows the head of e = 2 once more."""
    saved = tmp_path / "saved"

    def loses_one(name: str, order: Message) -> str:
        if name != SITE or not isinstance(order, MaskOrder) or order.e != 2:
            return "ok"
        if not saved.exists():
            sites.restart(SITE)  # puts everything into the one file
            back_up(world, saved)
        return "lost"

    def stop(event) -> None:
        if event.position == 3:
            raise Stop

    with world.sites(fate=loses_one) as sites, pytest.raises(Stop):
        coordinate(sites, stop).run()
    assert debits(world) == [1, 3]
    restore(world, saved)
    goes_on_without_it(world, caplog, "ledger ends at row 1 and", "saw an addend")


def cut(path: Path, chain: str, rows: int) -> None:
    """Forge: remove the triggers, delete rows from the end, mend the head."""
    with closing(sqlite3.connect(path)) as raw, raw:
        for (trigger,) in raw.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            raw.execute(f"DROP TRIGGER {trigger}")
        (last,) = raw.execute("SELECT count FROM chain_heads WHERE chain = ?", (chain,)).fetchone()
        raw.execute("DELETE FROM chain_rows WHERE chain = ? AND position > ?", (chain, last - rows))
        raw.execute(
            "UPDATE chain_heads SET count = ?2, hash = (SELECT hash FROM chain_rows"
            " WHERE chain = ?1 AND position = ?2) WHERE chain = ?1",
            (chain, last - rows),
        )


def cut_log(path: Path) -> None:
    """The same to the log, until it no longer knows of the ledger's lost rows."""
    database = open_database(path)
    known, entries = Ledger(database).head().length, AuditLog(database).entries()
    database.close()
    cut(path, "audit", sum(entry.ledger_count > known for entry in entries))


def test_a_truncated_ledger_contradicts_the_sites_own_log(world, caplog):
    run_until(world, 3)
    cut(world.root / SITE / "site.db", "ledger", 1)
    with world.open(SITE) as site:
        site.ledger.verify()  # the chain itself was mended well
    for command in ("ledger", "audit"):
        done = client(command, "verify", "--site", world.root / SITE)
        done.refused(1, "ledger ends at row 2", "own log saw row 3", "newest copy")
    goes_on_without_it(world, caplog, "this site's own log saw row 3")


def test_a_truncated_ledger_with_a_truncated_log_is_told_by_the_others(world, caplog):
    run_until(world, 3)
    cut(world.root / SITE / "site.db", "ledger", 2)
    cut_log(world.root / SITE / "site.db")
    with world.open(SITE) as site:
        witness.check_log(site)
    goes_on_without_it(world, caplog, "ledger ends at row 1 ", "under this site's signature")


def test_a_forked_ledger_of_the_same_length_is_told_by_the_others(world, caplog):
    run_until(world, 3)
    path = world.root / SITE / "site.db"
    with world.open(SITE) as site:
        last = site.ledger.entries()[-1]
    cut(path, "ledger", 2)
    cut_log(path)
    with world.open(SITE) as site:  # other debits in place of the lost ones, validly chained
        for e in (11, 12):
            _append(site.ledger, replace(last, e=e))
        witness.check_log(site)
        assert site.ledger.verify().length == 3
    goes_on_without_it(world, caplog, "ledger ends at row 3 ", "under this site's signature")


def _append(ledger: Ledger, debit) -> None:
    from fedward_client.debit import Allowance
    from fedward_client.policy import AccountCap, Caps

    caps = Caps(train=AccountCap(epsilon=100.0, delta=1e-3))
    ledger.debit(debit, caps, Allowance({}, 100))


ALTERATIONS = {
    "edited": (
        "UPDATE chain_rows SET payload = (SELECT payload FROM chain_rows WHERE chain = 'ledger'"
        " AND position = 1) WHERE chain = 'ledger' AND position = 2"
    ),
    "swapped": (
        "UPDATE chain_rows SET position = CASE position WHEN 2 THEN -3 WHEN 3 THEN -2 ELSE"
        " position END WHERE chain = 'ledger';"
        "UPDATE chain_rows SET position = -position WHERE position < 0"
    ),
    "first row deleted": "DELETE FROM chain_rows WHERE chain = 'ledger' AND position = 1",
    "all rows deleted": "DELETE FROM chain_rows WHERE chain = 'ledger'",
    "head removed": "DELETE FROM chain_heads WHERE chain = 'ledger'",
}


@pytest.fixture(scope="module")
def trained(template: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same after three sums."""
    world = template.copy(tmp_path_factory.mktemp("trained") / "world")
    run_until(world, 3)
    return world


@pytest.mark.parametrize("name", ALTERATIONS)
def test_an_altered_ledger_does_not_open(trained, tmp_path, name):
    folder = tmp_path / SITE
    shutil.copytree(trained.root / SITE, folder)
    with closing(sqlite3.connect(folder / "site.db")) as raw, raw:
        for trigger in ("keep", "fixed", "grow"):
            raw.execute(f"DROP TRIGGER chain_rows_{trigger}")
        raw.execute("DROP TRIGGER chain_heads_keep")
        raw.executescript(ALTERATIONS[name])
    with pytest.raises(IntegrityError, match="ledger chain") as caught:
        open_site(folder)
    assert "\n" not in str(caught.value)
    client("ledger", "verify", "--site", folder).refused(1, "ledger chain")


def test_a_deleted_or_emptied_database_is_no_new_beginning(trained, tmp_path):
    folder = tmp_path / SITE
    shutil.copytree(trained.root / SITE, folder)
    (folder / "site.db").write_bytes(b"")
    with pytest.raises(StorageError, match="restore"):
        open_site(folder)
    (folder / "site.db").unlink()
    with pytest.raises(IntegrityError, match="privacy ledger; put back the newest copy"):
        open_site(folder)
    assert not (folder / "site.db").exists()


def test_a_new_folder_under_the_old_identity_is_told_in_a_new_study(trained, tmp_path, caplog):
    """Heads are kept for an identity, not for a study: an empty ledger cannot hide behind one."""
    world = trained.copy(tmp_path / "world")
    old, new = world.root / SITE, tmp_path / "new"
    create_site(new, SITE, holdout_fraction=0.3, policy=POLICY)
    for key in ("identity", "transport"):
        shutil.copy(old / "identity" / f"{key}.key", new / "identity")
    with open_site(new) as site:
        table = write_table(tmp_path / "table.csv", 0)
        add_table(site.folder, table, deidentifier_of(site.folder).pseudonyms.patient)
    shutil.rmtree(old)
    shutil.copytree(new, old)
    roster = []
    for name in world.names:
        with open_site(world.root / name) as site:
            roster.append(roster_entry(site))
    study = {"name": "second", "id": "6b" * 16, "classes": ["benign", "malignant"]}
    document = table_document(
        roster,
        study=study,
        queries=[{"kind": "count", "noise_multiplier": 5.0}, {**GRADIENT, "rounds": ROUNDS - 1}],
        schedule={"maximum_attempts": 12},
    )
    signed = sign_plan(draft_plan(document, TARGET, "second"), COORDINATOR)
    approve_all(world.root, world.names, signed)
    shutil.rmtree(world.server)
    second = World(world.root, world.names, signed)
    goes_on_without_it(second, caplog, "ledger ends at row 0 ", "under this site's signature")


def test_too_few_witnesses_are_waited_for_and_cost_no_attempt(world):
    """Four sites: a site that starts needs the three others, and three must contribute."""
    run_until(world, 2)
    waited = 0

    def returns_later(name: str, order: Message) -> str:
        nonlocal waited
        waited += isinstance(order, Witnessed)
        away = waited <= 20 and not isinstance(order, Propose)
        return "lost" if name == "site-4" and away else "ok"

    with world.sites(fate=returns_later) as sites:
        history = coordinate(sites).run().history
        assert sites.refused == []
    assert waited > 20
    assert [entry["e"] for entry in history] == list(range(1, ROUNDS + 1))
    assert debits(world) == list(range(1, ROUNDS + 1))


def test_a_site_that_starts_anew_within_a_round_is_witnessed_and_goes_on(world):
    """Killed between any two of its messages: not one attempt is lost."""
    with world.sites(reopen=True) as sites:
        history = coordinate(sites).run().history
        assert sites.refused == []
    assert [entry["e"] for entry in history] == list(range(1, ROUNDS + 1))
    assert all(set(entry["sites"]) == set(world.names) for entry in history)


@pytest.fixture
def waiting(trained: World, tmp_path: Path):
    """Site 1 as it has just started, what it needs, and honest answers to it."""
    world = trained.copy(tmp_path / "world")
    with world.sites() as sites:
        with world.open(SITE) as site:
            (study,) = (record.digest for record in site.studies.all())
        service = sites.service(SITE)
        needed = decode_message(service.handle(ShareOrder(study, 9).encode()), REPLIES)
        assert isinstance(needed, WitnessesNeeded)
        told: list[Witnessed] = []

        def note(data: bytes) -> bytes:
            told.append(decode(data, max_bytes=1 << 20))
            return Standing(study, 0).encode()

        sites.vouch(SITE, needed, note)
        (_, _, answers) = told[0]
        yield sites, needed, answers


def hand(sites: MemorySites, needed: WitnessesNeeded, answers) -> Message:
    order = Witnessed(needed.study, tuple(answers))
    return decode_message(sites.service(SITE).handle(order.encode()), REPLIES)


def test_answers_count_once_for_their_own_signer_over_this_nonce_only(waiting):
    sites, needed, answers = waiting
    seen, signature = decode(answers[1], max_bytes=witness.MAX_ANSWER_BYTES)
    count, hashed, attempts = decode(seen, max_bytes=MAX_SEEN_BYTES)
    assert len(attempts) == 1

    def answer(*seen: object) -> bytes:
        return encode((encode(seen), signature))

    bad = {
        "missing": b"",
        "garbage": b"garbage",
        "not a tuple": encode(3),
        "another count": answer(count - 1, hashed, attempts),
        "a count of no row": answer(2**64, hashed, attempts),
        "another hash": answer(count, bytes(32), attempts),
        "the debit hidden": answer(count, hashed, ()),
        "another debit": answer(count, hashed, (bytes(32),)),
        "too many debits": answer(count, hashed, (bytes(1),) * 65),
        "no debits": answer(count, hashed),
        "never seen": answer(0, b"", ()),
        "another member's": answers[2],
        "no signature": encode((seen, bytes(64))),
        "too long": encode((seen, signature + bytes(5000))),
    }
    for forged in bad.values():
        assert hand(sites, needed, (b"", forged, *answers[2:])) == needed
    assert isinstance(hand(sites, needed, answers[:3]), Refusal)
    assert isinstance(hand(sites, needed, (*answers, b"")), Refusal)
    assert hand(sites, needed, (answers[1], b"", *answers[2:])) == needed
    sites.restart(SITE)  # a new process has a nonce of its own: old answers are worth nothing
    service = sites.service(SITE)
    again = decode_message(service.handle(ShareOrder(needed.study, 9).encode()), REPLIES)
    assert again.nonce != needed.nonce
    assert hand(sites, again, answers) == again
    assert isinstance(sites.vouch(SITE, again, service.handle), Standing)
    assert isinstance(hand(sites, again, ()), Standing)  # once is enough for this process


def test_what_one_witness_has_said_once_holds_for_good(waiting, caplog):
    """The server can drop that answer the next time; the site keeps it on its disk."""
    sites, needed, answers = waiting
    own = bytes.fromhex(roster_entry(sites.site(SITE))["identity"])
    sites.site("site-2").heads.saw(needed.study, 99, {own: head(50)})
    order = ShareOrder(needed.study, 9)
    told = sites.vouch(SITE, needed, sites.service(SITE).handle)
    assert (type(told), told.kind) == (Refusal, "IntegrityError")
    for _ in range(2):
        again = hand(sites, needed, (b"", b"", *answers[2:]))
        asked = decode_message(sites.service(SITE).handle(order.encode()), REPLIES)
        assert {type(again), type(asked)} == {Refusal}
        assert again.kind == asked.kind == "IntegrityError"
        sites.restart(SITE)
    assert "site-2 saw row 50" in caplog.text
    with open_site(sites.world.root / SITE) as site:  # it is not said of anybody else
        assert site.heads.ahead(own) is None


def test_the_server_tells_the_round_that_a_ledger_is_behind(world, tmp_path):
    run_until(world, 1)
    back_up(world, tmp_path / "saved")
    study = run_until(world, 2)
    restore(world, tmp_path / "saved")
    with world.sites() as sites:
        witnessed = WitnessedSites(sites, study, world.names)
        orders = {SITE: UnmaskOrder(study, 2, b"", 0)}
        ((name, reply),) = witnessed.exchange(orders, 1.0)
    assert (name, type(reply), reply.kind) == (SITE, Refusal, "IntegrityError")


def test_a_member_answers_only_what_is_well_formed_and_never_for_itself(waiting):
    from fedward_common.messages import WitnessOrder, WitnessReply

    sites, needed, _ = waiting
    service = sites.service("site-2")
    for nonces in ((), (needed.nonce,) * 3, (b"short", b"", b"", b""), (needed.nonce,) * 5):
        reply = service.handle(WitnessOrder(needed.study, nonces).encode())
        assert isinstance(decode_message(reply, REPLIES), Refusal)
    unknown = service.handle(WitnessOrder(bytes(32), (needed.nonce,) * 4).encode())
    assert isinstance(decode_message(unknown, REPLIES), Refusal)
    good = service.handle(WitnessOrder(needed.study, (needed.nonce,) * 4).encode())
    reply = decode_message(good, REPLIES)
    assert isinstance(reply, WitnessReply)
    assert [bool(answer) for answer in reply.answers] == [True, False, True, True]


def group(sites: int, t_min: int, colluding: int) -> Group:
    members = tuple(
        Member(f"s{n}", n.to_bytes(32, "big"), n.to_bytes(32, "little")) for n in range(sites)
    )
    return Group(members, t_min, colluding, bytes(32))


@pytest.mark.parametrize("sites", [*range(3, 41), 100, 199, 200])
def test_no_server_with_c_members_hides_a_round_that_ended_in_step_4(sites):
    """Whoever is left out of the answers: one of them is honest and saw the round."""
    t = threshold(sites)
    for colluding in range(sites):
        t_min = max(3, t, colluding + 2)
        if group_problems(sites, t_min, colluding):
            continue
        others = witness.others_needed(group(sites, t_min, colluding))
        assert t - 1 <= others <= sites - 1  # t with the site itself; and it can be met
        # t members of U2 signed the agreement, the site among them; c of the others lie.
        unaware = (sites - 1 - colluding) - (t - 1 - colluding)
        assert others > colluding + unaware


@pytest.fixture
def book(tmp_path: Path) -> HeadBook:
    return HeadBook(open_database(tmp_path / "site.db"))


ONE, TWO, STUDY, OTHER = (bytes([n]) * 32 for n in range(4))


def head(count: int, letter: str = "a") -> Head:
    return Head(count, letter.encode() * 32)


def test_the_highest_head_of_every_identity_is_kept(book, tmp_path, caplog):
    assert book.latest(ONE) == NEVER
    book.saw(STUDY, 1, {ONE: head(3), TWO: head(0, "g")})
    book.saw(OTHER, 7, {ONE: head(2, "b")})  # lower: of a study that lags behind
    book.saw(OTHER, 8, {ONE: head(3, "c")})  # the same count: the first stays
    assert book.latest(ONE) == Seen(head(3), ())
    assert caplog.messages == [f"member {ONE.hex()[:16]} shows two ledgers of one length"]
    book.saw(STUDY, 2, {ONE: head(4, "d")})
    assert HeadBook(open_database(tmp_path / "site.db")).latest(ONE) == Seen(head(4, "d"), ())
    assert book.latest(TWO) == Seen(head(0, "g"), ())


def test_a_debit_is_kept_until_its_study_shows_a_later_head(book, tmp_path):
    book.saw(STUDY, 1, {ONE: head(3), TWO: head(0, "g")})
    book.debited(OTHER, 1, [ONE])  # not an attempt in which a head was seen
    book.debited(STUDY, 2, [ONE])
    assert book.latest(ONE).attempts == ()
    book.debited(STUDY, 1, [ONE])
    again = HeadBook(open_database(tmp_path / "site.db"))
    assert again.latest(ONE).attempts == (attempt_digest(STUDY, 1),)
    assert again.latest(TWO).attempts == ()
    book.saw(STUDY, 2, {ONE: head(4, "d")})
    assert book.latest(ONE) == Seen(head(4, "d"), ())
    book.saw(STUDY, 3, {ONE: head(4, "d")})  # it did not debit attempt 2
    book.debited(STUDY, 3, [ONE])
    assert book.latest(ONE).attempts == (attempt_digest(STUDY, 3),)


def test_debits_of_two_studies_under_one_head_are_both_kept(book):
    """A site in two studies shows one head in both before it debits either."""
    book.saw(STUDY, 1, {ONE: head(3)})
    book.saw(OTHER, 5, {ONE: head(3)})
    book.debited(STUDY, 1, [ONE])
    assert book.latest(ONE).attempts == (attempt_digest(STUDY, 1),)
    book.debited(OTHER, 5, [ONE])
    both = {attempt_digest(STUDY, 1), attempt_digest(OTHER, 5)}
    assert set(book.latest(ONE).attempts) == both
    book.saw(OTHER, 6, {ONE: head(4, "d")})  # says nothing of the debit in the other study
    assert book.latest(ONE) == Seen(head(4, "d"), (attempt_digest(STUDY, 1),))


def test_the_debits_that_an_answer_names_are_bounded_and_the_latest(book):
    for number in range(MAX_ATTEMPTS + 1):
        book.saw(bytes([number]) * 32, 1, {ONE: head(3)})
        book.debited(bytes([number]) * 32, 1, [ONE])
    seen = book.latest(ONE)
    assert len(seen.attempts) == MAX_ATTEMPTS
    assert attempt_digest(bytes(32), 1) not in seen.attempts
    assert Seen.decode(seen.encode()) == seen
