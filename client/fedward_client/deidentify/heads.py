"""Does a file declare that it shows a head? A face can be rendered from CT or MR of one.

BodyPartExamined and AnatomicRegionSequence declare it, the latter also within the functional groups
of enhanced images. They are read as the file has them, before cleaning: "HEAD_NECK" or a local code
is no term that is kept, but it says enough to refuse. A whole body has a head.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydicom.dataset import Dataset

from fedward_client.deidentify.codes import MEANING, public_meaning
from fedward_client.deidentify.reading import items_of, text_value
from fedward_client.deidentify.rules import tag_of

BODY_PART, REGION = tag_of("BodyPartExamined"), tag_of("AnatomicRegionSequence")
_ANATOMY = tag_of("FrameAnatomySequence")
_GROUPS = (
    tag_of("SharedFunctionalGroupsSequence"), tag_of("PerFrameFunctionalGroupsSequence"),
)  # fmt: skip
_WORD = re.compile(r"[^\W\d_]+")
_STEM = re.compile(r"head(?!ache)|brain|skull|crani|cereb|facial|orbit|kopf|schädel|schaedel|tête")
_WORDS = re.compile(
    r"face|wholebody|sinus(es)?|jaw|mandible|maxilla|nose|nasal|scalp|zygoma|mouth|cheek|eye(s|lid)?"
    r"|ears?|circleofwillis|pituitary|iac|tmj|gesicht|crane|crâne|cabeza|cara"
)
_OTHER_HEADS = re.compile(
    r"\b(femur|femoral|humer(us|al)|radi(us|al)|ulnar?|fibular?|pancrea(s|tic)|meta(car|tar)[ps]al)\b"
)


def declares_head(source: Dataset) -> bool | None:
    """Return whether a head is declared; None if no region of the body is declared at all."""
    texts = [text for text in _declared(source) if text]
    return any(map(_is_head, texts)) if texts else None


def _declared(source: Dataset) -> Iterator[str]:
    yield text_value(source, BODY_PART)
    yield from _regions(source)
    for tag in _GROUPS:
        for group in items_of(source, tag):
            for anatomy in items_of(group, _ANATOMY):
                yield from _regions(anatomy)


def _regions(source: Dataset) -> Iterator[str]:
    for item in items_of(source, REGION):
        yield text_value(item, MEANING)
        yield public_meaning(item)


def _is_head(text: str) -> bool:
    folded = text.casefold().replace("whole body", "wholebody")
    words = _WORD.findall(folded)
    named = any(_WORDS.fullmatch(word) or _STEM.search(word) for word in words)
    return named and _OTHER_HEADS.search(folded) is None
