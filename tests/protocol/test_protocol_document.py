"""docs/protocol.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from tests.protocol_document import (
    FORMATS,
    PATH,
    Listed,
    Number,
    Octets,
    Record,
    generated,
    updated,
)
from tests.secagg_world import Round, World

from fedward_common.codec import decode, encode
from fedward_common.errors import PeerError
from fedward_common.randomness import os_random
from fedward_common.secagg import messages as steps
from fedward_common.secagg.parameters import MAX_SITES

ROOT = Path(__file__).resolve().parents[2]
DIMENSION = 3


@pytest.fixture(scope="module")
def sent():
    """One real message of each kind, as bytes."""
    world = World.make(4, os_random)
    attempt = Round(world, [np.arange(DIMENSION, dtype=np.uint32)] * 4, drop={3: 2})
    attempt.run()
    wire = attempt.wire
    return {
        "shares": wire["share", 0],
        "mask": attempt.mask_asked[0].encode(),
        "addend": wire["addend", 0],
        "agree": attempt.agree_asked[0].encode(),
        "agreed": wire["agree", 0],
        "unmask": attempt.unmask_asked[0].encode(),
        "unmasked": wire["unmask", 0],
    }


def test_the_generated_parts_are_what_the_code_says():
    text = PATH.read_text("utf-8")
    assert updated(text) == text, "run: python -m tests.protocol_document"


def test_the_diagrams_hold_every_state():
    parts = generated()
    for state in ("Sharing", "Masked", "Agreed", "Unmasked"):
        assert f"{state} -->" in parts["site states"]
    for state in ("Shares", "Addends", "Agreements", "Reveals"):
        assert f"Collecting{state} --> Collecting{state}: receive(" in parts["server states"]
    assert "CollectingReveals --> Summed: close()" in parts["server states"]


def test_every_step_that_the_code_cites_is_in_the_document():
    headings = re.findall(r"^#+ (A\d(?:\.\d)?)\.? ", PATH.read_text("utf-8"), re.MULTILINE)
    sources = [p for side in ("common", "client", "server") for p in (ROOT / side).rglob("*.py")]
    cited = {
        step
        for source in sources
        for step in re.findall(r"\bA[1-6](?:\.[1-9])?\b", source.read_text("utf-8"))
    }
    assert {"A3.1", "A3.2", "A3.3", "A3.4", "A3.5", "A5"} <= cited
    assert cited <= set(headings)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.tag)
def test_a_real_message_has_the_documented_format(form, sent):
    tag, *fields = decode(sent[form.tag], max_bytes=1 << 16)
    assert tag == form.tag
    assert len(fields) == len(form.fields)
    for value, (name, spec) in zip(fields, form.fields, strict=True):
        assert _conforms(value, spec), name
    assert _decode(form, sent[form.tag]).encode() == sent[form.tag]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.tag)
def test_the_largest_message_fits_and_the_limits_are_enforced(form, sent):
    dimension = 1000
    extra = 4 * dimension + steps.ADDEND_OVERHEAD
    limit = extra if form.kind is steps.MaskedAddend else steps.MAX_BYTES
    assert len(form.largest(MAX_SITES, dimension)) <= limit
    tag, *fields = decode(sent[form.tag], max_bytes=1 << 16)
    broken = 0
    for place, (name, spec) in enumerate(form.fields):
        for bad in _violations(fields[place], spec):
            changed = encode((tag, *fields[:place], bad, *fields[place + 1 :]))
            assert _refused(form, changed), f"{form.tag}.{name} accepts {bad!r:.80}"
            broken += 1
    assert broken >= 2 * len(form.fields)


def _refused(form, data):
    try:
        _decode(form, data)
    except PeerError:
        return True
    return False


def _decode(form, data):
    if form.kind is steps.MaskedAddend:
        return form.kind.decode(data, DIMENSION)
    return form.kind.decode(data)


def _conforms(value, spec):
    match spec:
        case Number(most):
            return type(value) is int and 0 <= value <= most
        case Octets(lengths):
            return type(value) is bytes and len(value) in (lengths or (4 * DIMENSION,))
        case Record(_, fields):
            pairs = zip(value, fields, strict=True)
            return all(_conforms(item, field) for item, (_, field) in pairs)
        case Listed(item):
            return len(value) <= MAX_SITES and all(_conforms(one, item) for one in value)


def _violations(value, spec):
    """The value with one limit of ``spec`` broken, every limit in turn."""
    yield True
    match spec:
        case Number(most):
            yield from (-1, most + 1, b"")
        case Octets(lengths):
            longest = max(lengths or (4 * DIMENSION,))
            yield from (bytes(longest + 1), bytes(longest - 1), 0)
        case Record(_, fields):
            yield from (value[:-1], (*value, 0))
            for place, (_, field) in enumerate(fields):
                for bad in _violations(value[place], field):
                    yield (*value[:place], bad, *value[place + 1 :])
        case Listed(item):
            one = value[0] if value else 0
            yield (one,) * (MAX_SITES + 1)
            if value and not isinstance(item, Octets):
                yield (one, *value)
            for bad in _violations(value[0], item) if value else ():
                yield (bad, *value[1:])
