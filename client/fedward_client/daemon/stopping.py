"""A flag that a signal handler may set while the very thread that it interrupts waits for it.

``threading.Event`` may not: its lock is not reentrant, and a handler that runs while the main
thread holds it never returns.
"""

from __future__ import annotations

import os
import select
import weakref


class Stop:
    """Set once and for good, from a signal handler or any thread."""

    def __init__(self) -> None:
        self._set = False
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def set(self) -> None:
        """End every wait, now and later."""
        self._set = True
        os.eventfd_write(self._descriptor, 1)

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._set

    def wait(self, seconds: float) -> None:
        """Sleep, but no longer than until it is set."""
        select.select([self._descriptor], [], [], seconds)
