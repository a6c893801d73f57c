from __future__ import annotations

import copy
import logging
import pickle

import pytest

from fedward_common.randomness import os_random
from fedward_common.secret import SecretBytes

VALUE = b"correct horse battery"


def test_it_never_prints(caplog):
    secret = SecretBytes(VALUE)
    with caplog.at_level(logging.INFO):
        logging.getLogger("t").info("%s %r", secret, [secret])
    shown = f"{secret} {secret!r} {secret!s} {(secret,)} {secret.__class__}" + caplog.text
    assert "horse" not in shown
    assert VALUE.hex() not in shown
    assert repr(secret) == "SecretBytes(<21 bytes>)"


def test_it_reveals_compares_and_measures():
    secret = SecretBytes(VALUE)
    assert secret.reveal() == VALUE
    assert len(secret) == len(VALUE)
    assert secret == SecretBytes(VALUE)
    assert secret != SecretBytes(VALUE + b"!")
    assert secret != VALUE


def test_it_copies_what_it_is_given():
    buffer = bytearray(VALUE)
    secret = SecretBytes(buffer)
    buffer[0] = 0
    assert secret.reveal() == VALUE


@pytest.mark.parametrize("leak", [pickle.dumps, copy.deepcopy, copy.copy, hash])
def test_it_is_neither_pickled_nor_hashed(leak):
    with pytest.raises(TypeError):
        leak(SecretBytes(VALUE))


def test_the_operating_systems_bytes_do_not_repeat():
    drawn = [os_random(32) for _ in range(100)]
    assert {len(item) for item in drawn} == {32}
    assert len(set(drawn)) == 100
