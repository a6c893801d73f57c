"""The vectors are made again byte for byte, and a second implementation agrees with them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests import secagg_reference as reference
from tests.vectors import generate_secagg

from fedward_common.errors import PeerError
from fedward_common.secagg.context import RoundContext
from fedward_common.secagg.messages import (
    AgreeRequest,
    MaskedAddend,
    MaskRequest,
    ShareMessage,
    UnmaskReply,
    UnmaskRequest,
)
from fedward_common.secagg.parameters import Group, Member, SiteKeys
from fedward_common.secagg.site_store import decode_state, encode_state
from fedward_common.secagg.transcript import Transcript, verify_transcript
from fedward_common.secret import SecretBytes

VECTORS = json.loads(generate_secagg.PATH.read_text())
ROUND, PRIMITIVES = VECTORS["round"], VECTORS["primitives"]


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text)


def _group() -> Group:
    members = tuple(
        Member(site["name"], _bytes(site["identity_public"]), _bytes(site["encryption_public"]))
        for site in ROUND["sites"]
    )
    return Group(members, ROUND["t_min"], ROUND["colluding"], _bytes(ROUND["plan_digest"]))


def _keys(i: int) -> SiteKeys:
    site = ROUND["sites"][i]
    return SiteKeys(
        i, SecretBytes(_bytes(site["identity"])), SecretBytes(_bytes(site["encryption"]))
    )


def _state(name: str):
    stored = SecretBytes(_bytes(ROUND["states_of_site_0"][name]))
    return decode_state(stored, _group(), _keys(0))


def _check(state, request: MaskRequest):
    public_input = _bytes(ROUND["public_input_digest"])
    return state.check(request, ROUND["query"], ROUND["round_number"], public_input)


def test_the_file_is_what_the_generator_makes():
    assert generate_secagg.text() == generate_secagg.PATH.read_text()


def test_primitives_equal_the_textbook():
    p = PRIMITIVES
    words = reference.stream(_bytes(p["keystream"]["key"]), 10)
    assert np.frombuffer(_bytes(p["keystream"]["first_40"]), "<u4").tolist() == words
    assert reference.H("commit", _bytes(p["commitment"]["b"])).hex() == p["commitment"]["B"]
    expanded = reference.hkdf(
        _bytes(p["round_private"]["a"]), "round-key", _bytes(p["round_private"]["pre"]), 2
    )
    assert expanded.hex() == p["round_private"]["private"]
    own = reference.hkdf(
        _bytes(p["self_mask_key"]["b"]), "self", _bytes(p["self_mask_key"]["ctx"]), 2
    )
    assert own.hex() == p["self_mask_key"]["key"]


def test_shares_interpolate_to_the_seed():
    shares = {x: int(share, 16) for x, share in enumerate(PRIMITIVES["shamir"]["shares"], start=1)}
    seed = int(PRIMITIVES["shamir"]["seed"], 16)
    for chosen in ((1, 2, 3), (3, 4, 5), (1, 3, 5)):
        assert reference.interpolate_at_zero({x: shares[x] for x in chosen}) == seed
    assert reference.interpolate_at_zero({x: shares[x] for x in (1, 2)}) != seed


def test_equivalent_points_agree_on_a_secret_and_not_on_a_mask():
    vectors = PRIMITIVES["equivalent_points"]
    assert set(vectors) == {"equal", "top_bit_set", "inverse"}
    for vector in vectors.values():
        secret = reference.x25519(_bytes(vector["private"]), _bytes(vector["public"]))
        for site in (1, 2):
            expected = reference.hkdf(secret, "pair", bytes(32), 0, site)
            assert expected.hex() == vector[f"as_site_{site}"]
        assert vector["as_site_1"] != vector["as_site_2"]
    assert len({vector["as_site_1"] for vector in vectors.values()}) == 1
    assert len({vector["public"] for vector in vectors.values()}) == 3


def test_the_masked_addends_and_the_sum_equal_the_textbook():
    plan, e = _bytes(ROUND["plan_digest"]), ROUND["e"]
    wire = ROUND["site_to_server"]
    keys = [ShareMessage.decode(_bytes(wire[f"share {i}"])).key for i in range(4)]
    announced = tuple((key.index, key.A, key.B, key.head) for key in keys)
    public_input = _bytes(ROUND["public_input_digest"])
    ctx = reference.H("ctx", plan, e, ROUND["query"], 0, (0, 1, 2, 3), public_input, announced)
    transcript = Transcript.decode(_bytes(ROUND["transcript"]))
    seeds = dict(enumerate(transcript.seeds))
    assert transcript.survivors == (0, 1, 2)
    # The transcript opens b of the survivors and a of the dropped site; site 0's own state holds
    # its a. That is enough to compute y_0 without the others' secrets.
    own = _state("sharing")
    assert reference.H("commit", seeds[0]) == keys[0].B
    y = list(ROUND["sites"][0]["addend"])
    private = reference.round_private(own.a.reveal(), plan, e, 0)
    terms = [reference.hkdf(seeds[0], "self", ctx, 0)]
    terms += [
        reference.hkdf(reference.x25519(private, keys[j].A), "pair", ctx, 0, j) for j in (1, 2, 3)
    ]
    for key in terms:
        y = [(v + m) % 2**32 for v, m in zip(y, reference.stream(key, 5), strict=True)]
    addend = MaskedAddend.decode(_bytes(wire["addend 0"]), 5)
    assert np.frombuffer(addend.y, "<u4").tolist() == y
    addends = [ROUND["sites"][i]["addend"] for i in transcript.survivors]
    assert ROUND["sum"] == [sum(column) % 2**32 for column in zip(*addends, strict=True)]


def test_the_shares_on_the_wire_interpolate_to_the_published_seeds():
    replies = {
        i: UnmaskReply.decode(_bytes(ROUND["site_to_server"][f"unmask {i}"])) for i in range(3)
    }
    transcript = Transcript.decode(_bytes(ROUND["transcript"]))
    for position, seed in enumerate(transcript.seeds):
        points = {i + 1: int.from_bytes(r.shares[position], "big") for i, r in replies.items()}
        assert reference.interpolate_at_zero(points) == int.from_bytes(seed, "big")


def test_the_transcript_verifies():
    wire = ROUND["site_to_server"]
    ys = {i: MaskedAddend.decode(_bytes(wire[f"addend {i}"]), 5).y for i in range(3)}
    context = RoundContext(ROUND["e"], ROUND["query"], 0, _bytes(ROUND["public_input_digest"]))
    transcript = Transcript.decode(_bytes(ROUND["transcript"]))
    assert verify_transcript(_group(), context, transcript, ys).tolist() == ROUND["sum"]


def test_site_0_answers_the_recorded_requests_with_the_recorded_bytes():
    asked, sent = ROUND["server_to_site_0"], ROUND["site_to_server"]
    checked = _check(sharing := _state("sharing"), MaskRequest.decode(_bytes(asked["mask"])))
    addend = np.array(ROUND["sites"][0]["addend"], dtype=np.uint32)
    masked, message = sharing.mask(checked, addend)
    assert message.encode().hex() == sent["addend 0"]
    assert masked == _state("masked")
    agreed, message = masked.agree(AgreeRequest.decode(_bytes(asked["agree"])))
    assert message.encode().hex() == sent["agree 0"]
    assert agreed == _state("agreed")
    unmasked, message = agreed.unmask(UnmaskRequest.decode(_bytes(asked["unmask"])))
    assert message.encode().hex() == sent["unmask 0"]
    assert unmasked == _state("unmasked")


def _answer(state, step: str, request: bytes) -> None:
    if step == "mask":
        _check(state, MaskRequest.decode(request))
    elif step == "agree":
        state.agree(AgreeRequest.decode(request))
    else:
        state.unmask(UnmaskRequest.decode(request))


@pytest.mark.parametrize("bad", VECTORS["bad"], ids=lambda bad: bad["name"])
def test_a_bad_request_is_refused_for_its_defect(bad):
    state = _state({"mask": "sharing", "agree": "masked", "unmask": "agreed"}[bad["step"]])
    before = encode_state(state)
    with pytest.raises(PeerError, match=bad["error"]):
        _answer(state, bad["step"], _bytes(bad["request"]))
    assert encode_state(state) == before


def test_the_bad_requests_cover_every_step():
    names = [bad["name"] for bad in VECTORS["bad"]]
    assert len(names) == len(set(names)) >= 20
    assert {bad["step"] for bad in VECTORS["bad"]} == {"mask", "agree", "unmask"}
