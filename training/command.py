"""How the package's command lines end: 0 done, 2 a user's mistake in one line, 3 the training diverged."""

import errno
import sys
import threading
from collections.abc import Callable

import typer

from sparnet.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Diverged(Exception):
    """The loss or a gradient is no longer a number; nothing after the last checkpoint was kept."""


def run_command(function: Callable) -> None:
    """Run the function as a command line and exit."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(function)
    threading.excepthook = _from_thread
    try:
        app()
    except (UserError, Diverged) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3 if isinstance(error, Diverged) else 2)
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(f"error: {error.filename or 'a file'} cannot be written: {error.strerror}; make room", file=sys.stderr)
        sys.exit(2)


def _from_thread(failed: threading.ExceptHookArgs) -> None:
    """What TensorBoard's writer finds out of a full disk it raises again where it is next used: not told twice."""
    if getattr(failed.exc_value, "errno", None) not in FULL:
        threading.__excepthook__(failed)
