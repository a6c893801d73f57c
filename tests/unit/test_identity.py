from __future__ import annotations

import dataclasses

import pytest

from fedward_common.errors import OperatorError, PeerError
from fedward_common.identity import (
    Approval,
    SiteIdentity,
    SitePublic,
    approve,
    approved_digest,
    fingerprint,
    name_problem,
    parse_site_public,
    spell,
)
from fedward_common.keys import encryption_public, new_key
from fedward_common.randomness import os_random

SITE = SiteIdentity.generate("spital-west", os_random)
PUBLIC = SITE.public()
PLAN = bytes(range(32))


def test_the_file_returns_what_was_written():
    text = PUBLIC.to_text()
    assert max(map(len, text.splitlines())) <= 78
    assert parse_site_public(text) == PUBLIC


def test_mail_programs_may_change_line_ends_and_indents():
    text = "\n\n" + PUBLIC.to_text().replace("\n", "\r\n").replace("  ", "\t") + "\n\n"
    assert parse_site_public(text) == PUBLIC


def test_the_fingerprint_covers_name_and_both_keys_and_can_be_read_aloud():
    assert PUBLIC.fingerprint == fingerprint(PUBLIC.name, PUBLIC.identity, PUBLIC.transport)
    other = SiteIdentity.generate(SITE.name, os_random).public()
    prints = {
        PUBLIC.fingerprint,
        fingerprint("Spital", PUBLIC.identity, PUBLIC.transport),
        fingerprint(PUBLIC.name, other.identity, PUBLIC.transport),
        fingerprint(PUBLIC.name, PUBLIC.identity, other.transport),
    }
    assert len(prints) == 4
    words = spell(PUBLIC.fingerprint).split(" ")
    assert len(words) == 16
    assert b"".join(map(unspelt, words)) == PUBLIC.fingerprint


def unspelt(word: str) -> bytes:
    """The two bytes of a word, worked out from the letters' places in the two alphabets."""
    number = 0
    for place, letter in enumerate(word):
        alphabet = "aiou" if place % 2 else "bdfghjklmnprstvz"
        number = number * len(alphabet) + alphabet.index(letter)
    return number.to_bytes(2, "big")


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        ((127, 0, 0, 1), "lusab babad"),
        ((63, 84, 220, 193), "gutih tugad"),
        ((63, 118, 7, 35), "gutuk bisog"),
        ((140, 98, 193, 141), "mudof sakat"),
        ((64, 255, 6, 200), "haguz biram"),
    ],
)
def test_words_are_those_of_the_specification(octets, words):
    """The examples of arXiv:0901.4016."""
    assert spell(bytes(octets)) == words


@pytest.mark.parametrize("field", ["name", "identity", "transport", "signature"])
def test_another_sites_field_in_the_file_is_found(field):
    other = SiteIdentity.generate("other", os_random).public()
    forged = dataclasses.replace(PUBLIC, **{field: getattr(other, field)})
    with pytest.raises(OperatorError, match="ask the site for its file again") as caught:
        parse_site_public(forged.to_text(), "A.pub")
    assert str(caught.value).startswith("A.pub: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: "",
        lambda _: "hello",
        lambda text: text.replace("site 1", "site 2"),
        lambda text: text.replace("name: ", "name "),
        lambda text: text.replace("identity: ", "identity: !"),
        lambda text: text + "extra: 1\n",
        lambda text: text + "name: again\n",
        lambda text: text.rsplit("signature", 1)[0],
        lambda text: text + " " * 5000,
        lambda text: text.replace("spital", "spital\x1b[31m"),
    ],
)
def test_a_damaged_file_is_one_line_with_its_name(damage):
    with pytest.raises(OperatorError) as caught:
        parse_site_public(damage(PUBLIC.to_text()), "B.pub")
    assert str(caught.value).startswith("B.pub: ")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "name", ["", " a", "a ", "a\nb", "a/b", "../a", "A", "-a", "a\u202eb", "x" * 64]
)
def test_a_name_must_be_fit_to_show(name):
    assert name_problem(name)
    with pytest.raises(OperatorError):
        SiteIdentity.generate(name, os_random)


def test_keys_follow_their_random_bytes_and_do_not_print():
    def fixed(count: int, /) -> bytes:
        return b"\x07" * count

    one, two = SiteIdentity.generate("a", fixed), SiteIdentity.generate("a", fixed)
    assert one == two
    assert "07" not in repr(one)
    assert SiteIdentity.generate("a", os_random) != one


def test_an_approval_binds_site_plan_and_key():
    approval = approve(SITE.identity, PLAN, encryption_public(new_key(os_random)))
    assert Approval.decode(approval.encode()) == approval
    assert approval.identity == PUBLIC.identity
    other = approve(new_key(os_random), bytes(32), encryption_public(new_key(os_random)))
    for field in ("identity", "plan_digest", "encryption", "signature"):
        forged = dataclasses.replace(approval, **{field: getattr(other, field)})
        with pytest.raises(PeerError):
            Approval.decode(forged.encode())


def test_a_malformed_approval_is_refused():
    approval = approve(SITE.identity, PLAN, encryption_public(new_key(os_random)))
    data = approval.encode()
    short = dataclasses.replace(approval, signature=approval.signature[:-1]).encode()
    for bad in (b"", data[:-1], data + b"\0", data.replace(b"approval", b"approvaX"), short):
        with pytest.raises(PeerError):
            Approval.decode(bad)
    with pytest.raises(PeerError, match="low order"):
        approve(SITE.identity, PLAN, bytes(32))


def test_the_plans_digest_covers_all_approvals_in_order():
    one, two = (
        approve(new_key(os_random), PLAN, encryption_public(new_key(os_random))) for _ in range(2)
    )
    digests = {
        approved_digest(PLAN, items) for items in ([], [one], [one, two], [two, one], [one, one])
    }
    assert len(digests | {approved_digest(bytes(32), [one, two])}) == 6


def test_verification_refuses_an_unprintable_name():
    forged = SitePublic("a\nb", PUBLIC.identity, PUBLIC.transport, PUBLIC.signature)
    with pytest.raises(PeerError, match="name"):
        forged.verify()
