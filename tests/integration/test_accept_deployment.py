"""The bars of the issue "Deployment", by the code of `make accept-deployment`, reduced."""

from __future__ import annotations

import pytest
from tests.accept.deployment import accept


@pytest.mark.slow
def test_the_bars_hold_at_reduced_size(tmp_path):
    record = accept(tmp_path, reduced=True)
    assert [check for check in record.checks if not check.passed] == []
    assert len(record.checks) > 15
