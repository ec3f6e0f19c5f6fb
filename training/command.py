"""How the package's command lines end: 0 done, 2 a user's mistake in one line, 3 the training diverged."""

import sys
from collections.abc import Callable

import typer

from sparnet.errors import UserError


class Diverged(Exception):
    """The loss or a gradient is no longer a number; nothing after the last checkpoint was kept."""


def run_command(function: Callable) -> None:
    """Run the function as a command line and exit."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(function)
    try:
        app()
    except (UserError, Diverged) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3 if isinstance(error, Diverged) else 2)
