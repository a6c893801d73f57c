"""A plan: one encoding, one digest, every field counts, and every defect is explained."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.world import COORDINATOR, example_plan, example_roster, table_document

from fedward_common import keys
from fedward_common.errors import OperatorError, PeerError, PlanError
from fedward_common.plan.document import (
    MAX_PLAN_BYTES,
    Plan,
    load_plan,
    parse_plan,
    plan_from_canonical,
)
from fedward_common.plan.signing import SignedPlan, sign_plan
from fedward_common.secret import SecretBytes
from fedward_common.study import Study

TOML = """\
[study]
name = "chest"
id = "00112233445566778899aabbccddeeff"
classes = ["normal", "pneumonia"]

[roster]
coordinator = "{coordinator}"
sites = [{sites}]

[model]
kind = "cnn"

[[queries]]
kind = "count"
noise_multiplier = 5
scale = 1e6
ring_bound = 100_000_000

[[queries]]
kind = "gradient"
rounds = 10
sampling_rate = 0.5
clip = 0.1
noise_multiplier = 3.5
scale = 4194304.0
ring_bound = 500_000_000
augmentation = {{ copies = 4, shift = 0.07 }}

[privacy]
delta = 1e-5

[secagg]
t_min = 3
colluding = 1

[schedule]
maximum_attempts = 12
"""


def toml_text() -> str:
    sites = ", ".join(
        f'{{ name = "{site["name"]}", identity = "{site["identity"]}" }}'
        for site in example_roster()
    )
    return TOML.format(coordinator=keys.signing_public(COORDINATOR).hex(), sites=sites)


def document() -> dict[str, Any]:
    return json.loads(example_plan().canonical)


def test_toml_and_canonical_bytes_give_the_same_plan(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(toml_text(), encoding="utf-8")
    plan = load_plan(path)
    again = plan_from_canonical(plan.canonical)
    assert again == plan
    assert again.canonical == plan.canonical
    assert again.digest == plan.digest
    assert len(plan.digest) == 32
    reordered = dict(reversed(json.loads(plan.canonical).items()))
    assert parse_plan(reordered, "plan").digest == plan.digest
    assert plan.queries[0].noise_multiplier == 5.0


def leaves(value: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path, value


def put(whole: Any, path: tuple, value: Any) -> Any:
    changed = copy.deepcopy(whole)
    at = changed
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return changed


ALTERNATIVES: dict[str, Any] = {
    "schema": None,  # there is one version of each
    "version": None,
    "kind": None,  # another kind has other fields
    "source": "images",
    "channels": 3,
    "mr_normalisation": "zscore",
    "foreground": "lung",
    "foreground_use": "crop",
    "split": "holdout",
    "multiclass": "crammer-singer",
    "features": "hog",
    "minimum_package": "0.2.0",
    "initial_sha256": "ab" * 32,
    "nominal_patients": 100,
    "name": "other",
    "title": "other",
    "columns": [],
    "transport": "00",
}


def another(path: tuple, value: Any) -> Any:
    name = path[-1] if isinstance(path[-1], str) else path[-2]
    if name in ALTERNATIVES:
        return ALTERNATIVES[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.25
    return value[::-1] if value[::-1] != value else "f" * len(value)


def test_every_field_changes_the_digest():
    whole = document()
    digests = {example_plan().digest}
    changed = 0
    for path, value in leaves(whole):
        other = another(path, value)
        if other is None:
            continue
        digests.add(parse_plan(put(whole, path, other), "plan").digest)
        changed += 1
    assert changed > 50
    assert len(digests) == changed + 1


def test_every_field_is_refused_as_a_wrong_type_and_names_itself():
    whole = document()
    for path, _ in leaves(whole):
        with pytest.raises(PlanError) as caught:
            parse_plan(put(whole, path, {"a": 1}), "plan.toml")
        named = [part for part in path if isinstance(part, str)]
        assert any(named[-1] in problem for problem in caught.value.problems)


@pytest.mark.parametrize("section", ["", "study", "secagg", "privacy", "schedule", "model"])
def test_an_unknown_key_is_refused_by_its_name(section):
    whole = document()
    (whole[section] if section else whole)["epsilom"] = 1.0
    with pytest.raises(PlanError, match="epsilom: unknown key; remove it"):
        parse_plan(whole, "plan.toml")


def test_all_defects_are_told_at_once_with_field_value_and_remedy():
    whole = document()
    whole["privacy"]["delta"] = 0.5
    whole["queries"][1]["noise_multiplier"] = -1.0
    whole["study"]["classes"] = ["one"]
    whole["model"]["kind"] = "transformer"
    del whole["secagg"]["t_min"]
    whole["release"]["weights"] = True
    with pytest.raises(PlanError) as caught:
        parse_plan(whole, "plan.toml")
    lines = caught.value.problems
    assert len(lines) == 6
    told = str(caught.value)
    assert told.startswith("plan.toml: ")
    assert "\n" not in told
    for field, value in (
        ("privacy.delta", "0.5"),
        ("noise_multiplier", "-1.0"),
        ("study.classes", "one"),
        ("model.kind", "transformer"),
        ("secagg.t_min", "missing; add it"),
        ("release.weights", "unknown key"),
    ):
        assert any(field in line and value in line for line in lines)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400])
def test_numbers_that_are_none_are_refused(value):
    whole = document()
    whole["queries"][0]["scale"] = value
    with pytest.raises(PlanError):
        parse_plan(whole, "plan")


def secagg_problems(sites: int, t_min: int, colluding: int) -> str:
    roster = [{"name": f"site-{n}", "identity": bytes([n] * 32).hex()} for n in range(1, sites + 1)]
    whole = document()
    whole["roster"]["sites"] = roster
    whole["secagg"].update(t_min=t_min, colluding=colluding)
    plan = parse_plan(whole, "plan.toml")
    with pytest.raises(PlanError) as caught:
        Study(plan)
    return str(caught.value)


@pytest.mark.parametrize(
    ("sites", "t_min", "colluding", "word"),
    [
        (1, 1, 0, "roster"),
        (2, 2, 0, "roster"),
        (4, 2, 0, "t_min"),  # below three
        (8, 5, 0, "t_min"),  # below t = 6
        (4, 5, 0, "t_min"),  # above n
        (4, 3, -1, "colluding"),
        (4, 3, 2, "colluding"),  # t_min - c below 2, and 2t <= n + c
        (8, 8, 6, "colluding"),  # c >= t
        (3, 3, 2, "colluding"),
    ],
)
def test_groups_that_cannot_be_constructed(sites, t_min, colluding, word):
    assert word in secagg_problems(sites, t_min, colluding)


def test_rules_between_sections_are_told_together():
    whole = document()
    whole["roster"]["sites"][1] = whole["roster"]["sites"][0]
    whole["schedule"] |= {
        "maximum_attempts": 1,
        "reply_delay_seconds": 30.0,
        "round_deadline_seconds": 35.0,
    }
    whole["cohort"]["images_per_patient"] = 2
    whole["cohort"]["columns"][0].update(lower=1.0, upper=1.0)
    whole["queries"] = whole["queries"][1:]  # the count that the divisor came from
    whole["queries"][1]["augmentation"] = {"copies": 2}  # of a table's columns
    with pytest.raises(PlanError) as caught:
        Study(parse_plan(whole, "plan"))
    told = str(caught.value)
    for field in (
        "roster.sites: name site-1 appears twice",
        "roster.sites: identity",
        "maximum_attempts: 1 is below",
        "round_deadline_seconds: 35 is too short for answers that leave after 30; give 40 or more",
        "images_per_patient",
        "lower must be below upper",
        "needs a divisor",
        "queries.1.augmentation: features are fixed",
    ):
        assert field in told


def test_a_pinned_initial_model_must_be_this_packages():
    whole = document()
    assert whole["model"]["initial_sha256"] == Study(example_plan()).initial_sha256
    whole["model"]["initial_sha256"] = "00" * 32
    with pytest.raises(PlanError, match="initial_sha256"):
        Study(parse_plan(whole, "plan"))


@pytest.mark.parametrize(
    "mangle",
    [
        lambda data: data + b"\n",
        lambda data: b" " + data,
        lambda data: data.replace(b'":', b'": ', 1),
        lambda data: data.replace(b'"delta":1e-05', b'"delta":0.00001'),
        lambda data: data.replace(b'"schema":3', b'"schema":3.0'),
        lambda data: data[:-1],
        lambda data: json.dumps(dict(reversed(json.loads(data).items()))).encode(),
        lambda data: data.replace(b'"title":""', b'"title":"\\u0041"'),
        lambda data: b"\xef\xbb\xbf" + data,
        lambda _: b"x" * (MAX_PLAN_BYTES + 1),
        lambda _: b"[]",
        lambda _: b"[" * 100_000,
    ],
)
def test_only_the_canonical_bytes_are_decoded(mangle):
    data = mangle(example_plan().canonical)
    assert data != example_plan().canonical
    with pytest.raises(PlanError):
        plan_from_canonical(data)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_plan_error(data):
    with pytest.raises(PlanError):
        plan_from_canonical(data)


def test_a_signature_by_another_key_or_for_another_plan_is_refused():
    plan = example_plan()
    signed = sign_plan(plan, COORDINATOR)
    assert signed.open() == plan
    assert SignedPlan.from_file(signed.to_file(), "plan.signed").open() == plan
    other = parse_plan(put(document(), ("study", "title"), "other"), "plan")
    for bad in (
        sign_plan(plan, SecretBytes(bytes(32))),
        SignedPlan(plan.canonical, sign_plan(other, COORDINATOR).signature),
        SignedPlan(other.canonical, signed.signature),
        SignedPlan(plan.canonical, signed.signature[:-1]),
        SignedPlan(plan.canonical, b""),
        SignedPlan(plan.canonical[:-1], signed.signature),
    ):
        with pytest.raises(PeerError):
            bad.open()


@pytest.mark.parametrize("data", [b"", b"zz\n{}", b"\xff\n{}"])
def test_a_file_that_is_no_signed_plan(data):
    with pytest.raises((OperatorError, PeerError)):
        SignedPlan.from_file(data, "plan.signed").open()


@pytest.mark.parametrize(
    ("text", "word"), [("a = ", "not valid TOML"), ("\x00", "TOML"), ("[study]", "missing")]
)
def test_a_bad_file_is_one_line_with_its_name(tmp_path, text, word):
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(OperatorError, match=word) as caught:
        load_plan(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    with pytest.raises(OperatorError, match="no such file"):
        load_plan(tmp_path / "absent.toml")


def test_a_plan_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        example_plan().privacy.delta = 0.001
    assert isinstance(example_plan(), Plan)


def test_two_sites_only(tmp_path):
    two = table_document(example_roster()[:2])
    for query in two["queries"]:
        query.update(scale=1e6, ring_bound=10**8)
    with pytest.raises(PlanError, match="roster") as caught:
        Study(parse_plan(two, "plan.toml"), "plan.toml")
    assert caught.value.exit_code == 2
