"""What is new in a plan against the last one of the same coordinator that this site approved.

Every field is compared, so that nothing can be changed unsaid; the words are for the operator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fedward_client.site import Site
from fedward_common.errors import PlanError
from fedward_common.plan.document import Plan, plan_from_canonical
from fedward_common.text import printable

MAX_SHOWN = 60

_WORDS = {
    "study.name": "name of the study",
    "study.title": "title of the study",
    "study.classes": "classes",
    "protocol.version": "version of the protocol",
    "protocol.minimum_package": "oldest fedward that may take part",
    "cohort.source": "kind of data",
    "cohort.images_per_patient": "images of a patient that count",
    "preprocess.size": "side of an image, in pixels",
    "preprocess.channels": "channels of an image",
    "model.kind": "kind of model",
    "model.features": "features that the model sees",
    "model.width": "width of the model",
    "model.init_seed": "number that the first model is drawn from",
    "model.initial_sha256": "digest of the first model",
    "privacy.delta": "delta",
    "privacy.slack": "slack for floating point",
    "secagg.t_min": "hospitals that must contribute",
    "secagg.colluding": "colluding hospitals that are tolerated",
    "schedule.maximum_attempts": "attempts allowed in all",
    "schedule.nominal_patients": "patients that steps are divided by",
    "schedule.reply_delay_seconds": "fixed delay of an answer, in seconds",
    "schedule.round_deadline_seconds": "deadline of a step, in seconds",
    "release.model": "the model is given out",
    "release.metrics": "its metrics are given out",
    "rounds": "rounds",
    "sampling_rate": "share of patients asked in a round",
    "clip": "clipping norm",
    "noise_multiplier": "noise multiplier",
    "scale": "scale of the ring",
    "ring_bound": "bound of the ring",
    "bins": "bins",
    "split": "patients asked",
}
"""Fields in plain words; any other is named by its place in the plan."""


def last_approved(site: Site, plan: Plan) -> Plan | None:
    """The plan of this coordinator that the site approved last before ``plan``, if any.

    The audit log knows the order of decisions. Plans that this package cannot read are left out.
    """
    found = None
    for entry in site.audit.entries():
        if entry.kind != "approve":
            continue
        if entry.study == plan.digest:
            break
        earlier = _approved(site, entry.study)
        if earlier is not None and earlier.roster.coordinator == plan.roster.coordinator:
            found = earlier
    return found


def _approved(site: Site, digest: bytes) -> Plan | None:
    record = site.studies.by_plan(digest)
    if record is None or record.approval is None:
        return None
    try:
        return plan_from_canonical(record.plan)
    except PlanError:  # of a schema that is no more
        return None


def changes(before: Plan, after: Plan) -> tuple[str, ...]:
    """One line for every difference; only the study's random id is passed over."""
    old, new = _document(before), _document(after)
    return (
        *_roster(old.pop("roster"), new.pop("roster")),
        *_queries(old.pop("queries"), new.pop("queries")),
        *_fields(_flat(old), _flat(new), ""),
    )


def _document(plan: Plan) -> dict[str, Any]:
    document: dict[str, Any] = plan.model_dump(mode="json", by_alias=True)
    del document["study"]["id"]
    return document


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in document.items():
        inner = _named(value)
        flat |= {f"{prefix}{name}": value} if inner is None else _flat(inner, f"{prefix}{name}.")
    return flat


def _named(value: object) -> Mapping[str, Any] | None:
    """What has parts with names: a section, or a list such as a table's columns."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and value and all(isinstance(i, dict) for i in value):
        return {item["name"]: item for item in value}
    return None


def _fields(old: Mapping[str, Any], new: Mapping[str, Any], place: str) -> Iterator[str]:
    for name in (*old, *(name for name in new if name not in old)):
        if name not in old or name not in new or old[name] != new[name]:
            words = _WORDS.get(name, name)
            yield f"{place}{words}: {_shown(old.get(name))} -> {_shown(new.get(name))}"


def _queries(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> Iterator[str]:
    for index in range(max(len(old), len(new))):
        number = f"query {index + 1}"
        if index >= len(new):
            yield f"{number} ({old[index]['kind']}) is asked no more"
        elif index >= len(old):
            yield f"{number} ({new[index]['kind']}) is new"
        else:
            place = f"{number} ({new[index]['kind']}): "
            yield from _fields(_flat(old[index]), _flat(new[index]), place)


def _roster(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """Members by name; keys in the words of what they are for."""
    if old["coordinator"] != new["coordinator"]:
        yield f"coordinator: {_shown(old['coordinator'])} -> {_shown(new['coordinator'])}"
    before = {site["name"]: site for site in old["sites"]}
    after = {site["name"]: site for site in new["sites"]}
    for name in [name for name in after if name not in before]:
        yield f"hospital {name} is new"
    for name in [name for name in before if name not in after]:
        yield f"hospital {name} is no more a member"
    for name in [name for name in after if name in before]:
        for key in ("identity", "transport"):
            if before[name][key] != after[name][key]:
                yield f"hospital {name} has another {key} key"
    if list(before) != list(after) and before.keys() == after.keys():
        yield "hospitals stand in another order"


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = printable(f"{value!r}" if isinstance(value, float) else str(value))
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."
