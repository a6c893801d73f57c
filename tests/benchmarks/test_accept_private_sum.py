"""The bars of the issue "Private sum", by the code of its acceptance, reduced."""

from __future__ import annotations

import pytest
from tests.accept.private_sum import accept


@pytest.mark.slow
def test_the_bars_on_sizes_and_messages_hold_at_reduced_size(tmp_path):
    record = accept(tmp_path, reduced=True)
    missed = [check for check in record.checks if not check.passed]
    assert not missed
    assert len(record.checks) == 3
    assert (tmp_path / "secagg.png").is_file()
