"""How the package's command lines end: 0 done, 2 a user's mistake in one line, 3 the training diverged."""

import threading
from collections.abc import Callable

from sparnet.command import REFUSALS, command_line, fail, run


class Diverged(Exception):
    """The loss or a gradient is no longer a number; nothing after the last checkpoint was kept."""


def run_command(function: Callable) -> None:
    """Run the function as a command line and exit."""
    app = command_line()
    app.command()(function)
    threading.excepthook = _from_thread
    try:
        run(app)
    except Diverged as error:
        fail(str(error), 3)


def _from_thread(failed: threading.ExceptHookArgs) -> None:
    """What TensorBoard's writer finds out of a full disk it raises again where it is next used: not told twice."""
    if getattr(failed.exc_value, "errno", None) not in REFUSALS:
        threading.__excepthook__(failed)
