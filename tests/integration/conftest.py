"""Long runs of several processes that have not been seen to pass from end to end yet."""

from __future__ import annotations

import os

import pytest

UNSEEN = (
    "test_accept_deployment",
    "test_accept_privacy",
    "test_faults",
    "test_operations",
)
"""Their slow tests run with FEDWARD_LONG=1 only: a file leaves this list when they have passed."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("FEDWARD_LONG") == "1":
        return
    reason = pytest.mark.skip(reason="set FEDWARD_LONG=1: never seen to pass as a whole")
    for item in items:
        if item.path.stem in UNSEEN and item.get_closest_marker("slow") is not None:
            item.add_marker(reason)
