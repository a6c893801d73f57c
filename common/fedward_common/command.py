"""How every fedward command ends: one line for a person, and an exit status for a script.

0 is success, 2 the user's mistake, 1 a failure (disk full, damaged data), 130 an interruption.
"""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable

import typer

from fedward_common.errors import FedwardError
from fedward_common.text import printable

INTERRUPTED = 130
FAILURE, DENIED = 1, 2
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def new_app(name: str, text: str) -> typer.Typer:
    """An empty typer application, or a group of commands, set up as all of fedward's are."""
    return typer.Typer(
        name=name,
        help=text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


def run_command(app: Callable[..., object], name: str) -> None:
    """Run a typer application as the program ``name``; always ends in ``SystemExit``."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # dp_accounting reports the Rényi orders that it leaves out, which only makes epsilon larger.
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        app(prog_name=name)
    except FedwardError as error:
        fail(str(error), error.exit_code)
    except PermissionError as error:
        place = error.filename or "a file"
        fail(f"{place}: permission denied; run it as the user that the folder belongs to", DENIED)
    except OSError as error:
        if error.errno not in FULL:
            raise
        place = error.filename or "a file"
        fail(f"{place}: no space left; free disk space, then run it again", FAILURE)
    except KeyboardInterrupt:
        fail("interrupted; run it again to continue", INTERRUPTED)
    sys.exit(0)


def fail(message: str, status: int) -> None:
    """Print one line to standard error and exit."""
    line = " ".join(printable(message).split())  # a plan's text may hold control characters
    sys.stderr.write(f"error: {line}\n")
    sys.exit(status)
