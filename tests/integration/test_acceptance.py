"""The bars of the issue "Foundation", by the code of `make accept-foundation`, reduced."""

from __future__ import annotations

import pytest
from tests.accept.foundation import accept


@pytest.mark.slow
def test_the_bars_hold_at_reduced_size(pneumonia_npz, tmp_path):
    record = accept(tmp_path, reduced=True)
    missed = [check for check in record.checks if not check.passed]
    assert not missed
    assert len(record.checks) == 12
