"""How the package's command lines end: 0 done, 2 a user's mistake in one line, 3 the training diverged."""

from collections.abc import Callable

import typer

from sparnet.command import fail, run


class Diverged(Exception):
    """The loss or a gradient is no longer a number; nothing after the last checkpoint was kept."""


def run_command(function: Callable) -> None:
    """Run the function as a command line and exit."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(function)
    try:
        run(app)
    except Diverged as error:
        fail(str(error), 3)
