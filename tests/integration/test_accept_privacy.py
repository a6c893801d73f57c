"""The bars of the issue "Privacy that holds", by the code of its acceptance, reduced."""

from __future__ import annotations

import pytest
from tests.accept.privacy import accept


@pytest.mark.slow
def test_the_bars_hold_at_reduced_size(pneumonia_npz, tmp_path):
    record = accept(tmp_path, reduced=True)
    missed = [check.name for check in record.checks if not check.passed]
    assert not missed
    assert len(record.checks) == 9
