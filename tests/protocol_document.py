"""The parts of docs/protocol.md that come from the code: limits, message formats, state diagrams.

    python -m tests.protocol_document     writes them into the document

``tests/protocol/test_protocol_document.py`` compares, and holds real messages to the formats.
"""

from __future__ import annotations

import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedward_common import codec, keys, messages
from fedward_common.codec import Value, encode
from fedward_common.secagg import (
    kdf,
    parameters,
    ring,
    shamir,
    sharing,
    site_store,
    transcript,
    wire,
)
from fedward_common.secagg import messages as steps
from fedward_common.secagg.server import (
    CollectingAddends,
    CollectingAgreements,
    CollectingReveals,
    CollectingShares,
    Summed,
)
from fedward_common.secagg.site import Agreed, Checked, Masked, Sharing, Unmasked, start

PATH = Path(__file__).resolve().parents[1] / "docs" / "protocol.md"

LIMITS: tuple[tuple[str, object, str], ...] = (
    ("MIN_SITES", parameters, "sites in a study, least"),
    ("MAX_SITES", parameters, "sites in a study, most; items in every list of sites"),
    ("MAX_DIMENSION", ring, "coordinates of one addend"),
    ("MAX_COUNTER", wire, "largest e, round number and ledger count"),
    ("KEY_BYTES", keys, "an Ed25519 or X25519 key"),
    ("SIGNATURE_BYTES", keys, "an Ed25519 signature"),
    ("DIGEST_BYTES", parameters, "a SHA-256 value"),
    ("SEED_BYTES", kdf, "a seed a_i or b_i"),
    ("SHARE_BYTES", shamir, "one Shamir share: a field element, big-endian"),
    ("NONCE_BYTES", sharing, "the nonce of a share record"),
    ("CIPHERTEXT_BYTES", sharing, "a sealed share record: nonce, two shares, tag"),
    ("MAX_SUBSETS", shamir, "sets of shares tried before a seed counts as lost"),
    ("MAX_BYTES", steps, "any message of A3 but a masked addend"),
    ("ADDEND_OVERHEAD", steps, "what a masked addend's message may add to 4 bytes a coordinate"),
    ("MAX_BYTES", transcript, "a published transcript"),
    ("MAX_QUERY", transcript, "characters of a query's name in a transcript"),
    ("MAX_BYTES", site_store, "a stored site state"),
    ("MAX_DEPTH", codec, "nesting of tuples"),
    ("MAX_ITEMS", codec, "items of one message"),
    ("MAX_INT_BYTES", codec, "bytes of one integer"),
    ("PROTOCOL_VERSION", messages, "the version that both sides must name"),
    ("MAX_MESSAGE_BYTES", messages, "any message of the study around the sum"),
    ("MAX_SUMS", messages, "published sums in one message"),
    ("MAX_CHUNK_BYTES", messages, "bytes of a masked addend in one piece of evidence"),
    ("MAX_SHARE_BYTES", messages, "bytes of step 1 riding on an unmasking"),
    ("MAX_ANSWER_BYTES", messages, "bytes of a witness's answer about one member"),
    ("MAX_TEXT", messages, "characters of a text field of the study"),
    ("MAX_NUMBER", messages, "largest number in a message of the study"),
)


@dataclass(frozen=True)
class Number:
    """An integer from 0 to ``most``."""

    most: int

    def __str__(self) -> str:
        return f"integer, 0 to {_power(self.most)}"


@dataclass(frozen=True)
class Octets:
    """Bytes of one of ``lengths``; none given: 4 for each coordinate."""

    lengths: tuple[int, ...] = ()

    def __str__(self) -> str:
        if not self.lengths:
            return "4 d bytes, little-endian uint32"
        return " or ".join(map(str, self.lengths)) + " bytes"


@dataclass(frozen=True)
class Record:
    """A tuple with a fixed number of fields; ``name`` where it stands in several messages."""

    name: str
    fields: tuple[tuple[str, Spec], ...]

    def __str__(self) -> str:
        return f"a {self.name}"


@dataclass(frozen=True)
class Listed:
    """A tuple of at most MAX_SITES items, in roster order."""

    item: Spec

    def __str__(self) -> str:
        return f"list, at most {parameters.MAX_SITES}: {self.item}"


Spec = Number | Octets | Record | Listed

_E = Number(wire.MAX_COUNTER)
_INDEX = Number(parameters.MAX_SITES - 1)
_SIGNATURE = Octets((keys.SIGNATURE_BYTES,))
_DIGEST = Octets((parameters.DIGEST_BYTES,))
_SEALED = Listed(Octets((0, sharing.CIPHERTEXT_BYTES)))
_HEAD = Record("ledger head", (("count", _E), ("hash", _DIGEST)))
_KEY = Record(
    "round key",
    (
        ("index", _INDEX),
        ("A", Octets((keys.KEY_BYTES,))),
        ("B", _DIGEST),
        ("head", _HEAD),
        ("signature", _SIGNATURE),
    ),
)
_HASH = Record("signed hash", (("index", _INDEX), ("H(y)", _DIGEST), ("signature", _SIGNATURE)))
_AGREEMENT = Record("signed agreement", (("index", _INDEX), ("signature", _SIGNATURE)))

RECORDS = (_HEAD, _KEY, _HASH, _AGREEMENT)


@dataclass(frozen=True)
class Format:
    """One message: its class, tag, way and fields."""

    kind: type
    tag: str
    step: str
    way: str
    fields: tuple[tuple[str, Spec], ...]

    def largest(self, sites: int, dimension: int) -> bytes:
        """The message with every field at its largest, for ``sites`` sites."""
        return encode((self.tag, *(largest(spec, sites, dimension) for _, spec in self.fields)))


_UP, _DOWN = "site to server", "server to site"
FORMATS = (
    Format(
        steps.ShareMessage, "shares", "A3.1", _UP, (("e", _E), ("key", _KEY), ("records", _SEALED))
    ),
    Format(
        steps.MaskRequest,
        "mask",
        "A3.2",
        _DOWN,
        (("e", _E), ("keys", Listed(_KEY)), ("records", _SEALED)),
    ),
    Format(
        steps.MaskedAddend,
        "addend",
        "A3.2",
        _UP,
        (
            ("e", _E),
            ("index", _INDEX),
            ("y", Octets()),
            ("signature", _SIGNATURE),
            ("missing", Listed(_INDEX)),
        ),
    ),
    Format(steps.AgreeRequest, "agree", "A3.3", _DOWN, (("e", _E), ("hashes", Listed(_HASH)))),
    Format(
        steps.Agreement,
        "agreed",
        "A3.3",
        _UP,
        (("e", _E), ("index", _INDEX), ("signature", _SIGNATURE)),
    ),
    Format(
        steps.UnmaskRequest,
        "unmask",
        "A3.4",
        _DOWN,
        (("e", _E), ("agreements", Listed(_AGREEMENT))),
    ),
    Format(
        steps.UnmaskReply,
        "unmasked",
        "A3.4",
        _UP,
        (("e", _E), ("index", _INDEX), ("shares", Listed(Octets((0, shamir.SHARE_BYTES))))),
    ),
)


def largest(spec: Spec, sites: int, dimension: int) -> Value:
    """A value of ``spec`` that takes the most bytes."""
    match spec:
        case Number(most):
            return most
        case Octets(lengths):
            return bytes(max(lengths, default=4 * dimension))
        case Record(_, fields):
            return tuple(largest(field, sites, dimension) for _, field in fields)
        case Listed(item):
            return tuple(largest(item, sites, dimension) for _ in range(sites))


@dataclass(frozen=True)
class Transition:
    """What one method of a state does, as its annotations say."""

    state: str
    event: str
    following: str
    sent: str


def transitions(states: Sequence[type]) -> Iterator[Transition]:
    """The transition table: every public method that returns a state, from the annotations."""
    names = {state.__name__ for state in states} | {Checked.__name__}
    for state in states:
        for name, method in vars(state).items():
            if name.startswith("_") or not inspect.isfunction(method):
                continue
            following, sent = _returned(method)
            if following in names:
                event = f"{name}({_taken(method)})"
                if following == Checked.__name__:  # no state: the site keeps the one that it has
                    following, sent = state.__name__, following
                if following == Summed.__name__:  # the end asks for nothing more
                    sent = ""
                yield Transition(state.__name__, event, following, sent)


SITE_STATES = (Sharing, Masked, Agreed, Unmasked)
SERVER_STATES = (
    CollectingShares,
    CollectingAddends,
    CollectingAgreements,
    CollectingReveals,
    Summed,
)


def generated() -> dict[str, str]:
    """Every generated part by its name."""
    return {
        "limits": _table(
            ("constant", "value", "what"),
            (
                (f"`{_place(module)}.{name}`", _value(module, name), what)
                for name, module, what in LIMITS
            ),
        ),
        "messages": _messages(),
        "sizes": _sizes(),
        "site states": _diagram(SITE_STATES, "start()", *_returned(start)),
        "server states": _diagram(SERVER_STATES, "", CollectingShares.__name__, ""),
    }


def updated(document: str) -> str:
    """The document with its generated parts as the code has them now."""
    for name, text in generated().items():
        begin, end = f"<!-- generated: {name} -->", "<!-- end -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if len(pattern.findall(document)) != 1:
            sys.exit(f"{PATH.name}: needs exactly one part between '{begin}' and '{end}'")
        part = f"{begin}\n{text}\n{end}"
        document = pattern.sub(lambda _, part=part: part, document)
    return document


def _messages() -> str:
    blocks = []
    for item in RECORDS:
        title = f"**{item.name}**, inside messages"
        blocks.append(f"{title}\n\n{_fields(item.fields)}")
    for form in FORMATS:
        title = f"**`{form.kind.__name__}`**, tag `{form.tag}`, {form.step}, {form.way}"
        blocks.append(f"{title}\n\n{_fields(form.fields)}")
    return "\n\n".join(blocks)


def _fields(fields: Sequence[tuple[str, Spec]]) -> str:
    return _table(("field", "type and size"), ((f"`{name}`", str(spec)) for name, spec in fields))


def _sizes() -> str:
    counts = (3, 10, 100, parameters.MAX_SITES)
    rows = []
    for form in FORMATS:
        sizes = [len(form.largest(n, 0)) for n in counts]
        addend = "4 d + " if form.kind is steps.MaskedAddend else ""
        rows.append((f"`{form.tag}`", *(f"{addend}{size:,}" for size in sizes)))
    return _table(("message", *(f"n = {n}" for n in counts)), rows)


def _diagram(states: Sequence[type], event: str, first: str, sent: str) -> str:
    """A Mermaid state diagram and the same as a table."""
    table = list(transitions(states))
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}{_label(event, sent)}"]
    lines += [f"    {t.state} --> {t.following}{_label(t.event, t.sent)}" for t in table]
    last = {state.__name__ for state in states} - {t.state for t in table}
    lines += [f"    {name} --> [*]" for name in sorted(last)]
    rows = ((f"`{t.state}`", f"`{t.event}`", f"`{t.following}`", t.sent or "-") for t in table)
    header = ("state", "event", "next state", "returned beside it")
    return "\n".join([*lines, "```", "", _table(header, rows)])


def _label(event: str, sent: str) -> str:
    text = " / ".join(part for part in (event, sent) if part)
    return f": {text}" if text else ""


def _returned(method: Callable[..., object]) -> tuple[str, str]:
    """The state that a method returns, and what comes beside it."""
    hint = typing.get_type_hints(method)["return"]
    if typing.get_origin(hint) is not tuple:
        return getattr(hint, "__name__", ""), ""
    state, beside = typing.get_args(hint)
    if typing.get_origin(beside) is dict:
        return state.__name__, f"one {typing.get_args(beside)[1].__name__} a site"
    return state.__name__, beside.__name__


def _taken(method: Callable[..., object]) -> str:
    """The message, or the checked request, that a method takes."""
    known = {form.kind for form in FORMATS} | {Checked}
    hints = typing.get_type_hints(method)
    return ", ".join(
        hint.__name__ for name, hint in hints.items() if name != "return" and hint in known
    )


def _table(header: Sequence[str], rows: typing.Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _place(module: object) -> str:
    return str(getattr(module, "__name__", "")).removeprefix("fedward_common.")


def _value(module: object, name: str) -> str:
    return _power(getattr(module, name))


def _power(value: int) -> str:
    """Large powers of two, or one less, as such."""
    for number, suffix in ((value, ""), (value + 1, " - 1")):
        if number >= 1 << 16 and number & (number - 1) == 0:
            return f"2^{number.bit_length() - 1}{suffix}"
    return f"{value:,}"


if __name__ == "__main__":
    PATH.write_text(updated(PATH.read_text("utf-8")), "utf-8")
