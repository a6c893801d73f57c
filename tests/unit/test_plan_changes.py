"""What an operator is told of a new plan against the last one that was approved."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from tests.world import example_plan

from fedward_client.plan_changes import changes
from fedward_common.plan.document import Plan, parse_plan


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return json.loads(example_plan().canonical)


def changed(document: dict[str, Any], path: str, value: Any) -> Plan:
    new = copy.deepcopy(document)
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = new
    for part in way:
        place = place[part]
    place[last] = value
    return parse_plan(new, "test")


def said(document: dict[str, Any], path: str, value: Any) -> tuple[str, ...]:
    return changes(parse_plan(document, "test"), changed(document, path, value))


def test_the_same_plan_under_a_new_number_has_no_change(document):
    assert said(document, "study.id", "ab" * 16) == ()


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("study.title", "Another\x07 title", "title of the study:  -> Another  title"),
        ("cohort.columns.0.upper", 2.5, "cohort.columns.radius.upper: 1.0 -> 2.5"),
        ("privacy.delta", 1e-6, "delta: 1e-05 -> 1e-06"),
        ("secagg.colluding", 0, "colluding hospitals that are tolerated: 1 -> 0"),
        ("schedule.maximum_attempts", 99, "attempts allowed in all: 60 -> 99"),
        ("release.model", False, "the model is given out: yes -> no"),
        ("queries.2.rounds", 4, "query 3 (gradient): rounds: 3 -> 4"),
        ("queries.2.sampling_rate", 0.25, "share of patients asked in a round: 0.5 -> 0.25"),
        ("queries.2.augmentation.copies", 4, "query 3 (gradient): augmentation.copies: 1 -> 4"),
        ("model.initial_sha256", None, "digest of the first model:"),
        ("roster.coordinator", "ab" * 32, "coordinator:"),
        ("roster.sites.0.identity", "ab" * 32, "hospital site-1 has another identity key"),
        ("roster.sites.0.transport", "abcd", "hospital site-1 has another transport key"),
    ],
)
def test_one_changed_field_is_one_line(document, path, value, line):
    (told,) = said(document, path, value)
    assert line in told
    assert told.isprintable()


def test_members_and_queries_that_come_and_go_are_named(document):
    before = parse_plan(document, "test")
    new = copy.deepcopy(document)
    new["roster"]["sites"][0]["name"] = "newcomer"
    del new["queries"][-1]
    after = parse_plan(new, "test")
    assert changes(before, after) == (
        "hospital newcomer is new",
        "hospital site-1 is no more a member",
        "query 4 (histogram) is asked no more",
    )
    assert "query 4 (histogram) is new" in changes(after, before)
    new["roster"]["sites"].reverse()
    assert "hospitals stand in another order" in changes(after, parse_plan(new, "test"))


def leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for k, v in value.items() for leaf in leaves(v, f"{path}.{k}")]
    if isinstance(value, list):
        return [leaf for i, v in enumerate(value) for leaf in leaves(v, f"{path}.{i}")]
    return [(path[1:], value)]


def test_no_field_can_be_changed_unsaid(document):
    """Every leaf of the plan, the study's random id aside; not all values make a valid plan."""
    before, unsaid, tried = parse_plan(document, "test"), [], 0
    for path, value in leaves(document):
        if path == "study.id":
            continue
        for other in _others(value):
            try:
                after = changed(document, path, other)
            except Exception:  # noqa: BLE001  (not a plan: cannot be proposed either)
                continue
            if after.digest == before.digest:
                continue
            tried += 1
            if not changes(before, after):
                unsaid.append(path)
    assert unsaid == []
    assert tried > 60


def _others(value: Any) -> list[Any]:
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1, value - 1]
        case float():
            return [value * 1.5, value / 2]
        case str():
            return [value + "x", "ab" * (len(value) // 2)]
        case _:
            return [1, 1.0, "hog"]
