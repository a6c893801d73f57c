"""How long Flower's grid waits for the parts of a reply.

A reply is announced before its parts are uploaded. ``HttpGrid.pull_messages`` then asks for each
part until it is there: at first after a second, and for two hours if its sender has died. These
numbers are keyword defaults of one function of Flower 1.41, and no parameter leads to them; they
are replaced there, in the process of the ServerApp only. A contract test holds them in view.
"""

from __future__ import annotations

from flwr.supercore.inflatable.inflatable_utils import pull_objects

from fedward_common.errors import MisuseError

FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.5
LONGEST_SECONDS = 60.0
"""For a part: 40 MB of a masked addend at 5 Mbit/s. A sender who died is asked again."""


def bound_pulls() -> None:
    """Ask for parts often, and give up on those that do not come.

    Raises:
        MisuseError: Flower's function is not the one of 1.41.
    """
    defaults = pull_objects.__kwdefaults__
    if defaults is None or "initial_backoff" not in defaults:
        raise MisuseError("flwr's pull_objects is not the one of 1.41: install flwr 1.41")
    defaults.update(
        initial_backoff=FIRST_PAUSE_SECONDS,
        backoff_cap=LONGEST_PAUSE_SECONDS,
        max_time=LONGEST_SECONDS,
        max_tries_per_object=None,
    )


def limit_pulls(seconds: float) -> None:
    """Wait for a part that long from now on, and LONGEST_SECONDS at most."""
    defaults = pull_objects.__kwdefaults__ or {}
    defaults["max_time"] = min(seconds, LONGEST_SECONDS)
