"""How every command line of the project ends: 0 done, 2 after one line on stderr that says what to put right.

Typer app -> run -> exit; a bug keeps its traceback
"""

import errno
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_origin

import typer

from sparnet.errors import UserError
from sparnet.text import plain

REFUSALS = (  # of the system, about a path or a disk of the user's
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EIO,
)  # fmt: skip


# options that several commands have
ModelName = Annotated[
    str, typer.Option(help="A name of `python -m sparnet models`, folder, released .pth or Hub repo.")
]
Simulate = Annotated[
    bool | None,
    typer.Option(
        "--simulate/--as-is",
        help="Reduce faces first to the size that the model enlarges, or do not. Without either: reduce if the model "
        "has such a size.",
    ),
]
Whole = Annotated[bool, typer.Option("--whole", help="The picture is already a face.")]
Yunet = Annotated[Path | None, typer.Option(metavar="FILE", help="YuNet's .onnx, to find faces with.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; without it, cuda if there is one.")]
Revision = Annotated[str | None, typer.Option(help="Commit, tag or branch of a Hub repo.")]


def command_line(**settings: Any) -> typer.Typer:
    """A Typer app as all of the project are: help in plain text, and Python's own traceback for bugs."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, **settings)


def taking(kind: type, own: Iterable[Parameter], function: Callable) -> Callable:
    """`function(options, **own)` as a command: options of type `kind`, a dataclass, one for each annotated field."""
    fields = [field for field in signature(kind).parameters.values() if get_origin(field.annotation) is Annotated]
    parameters = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in (*fields, *own)]

    def run(**given: Any) -> Any:
        return function(kind(**{field.name: given.pop(field.name) for field in fields if field.name in given}), **given)

    run.__doc__, run.__signature__ = function.__doc__, Signature(parameters)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def with_options(kind: type) -> Callable[[Callable], Callable]:
    """For a function whose first argument is what its command's options of `kind` are collected in."""
    return lambda function: taking(kind, [*signature(function).parameters.values()][1:], function)


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name may have characters that the terminal does not know
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments and app.info.no_args_is_help is True:
        arguments = ["--help"]
    try:
        code = app(arguments, standalone_mode=False)
    except UserError as error:
        fail(str(error))
    except typer.TyperException as error:  # options that do not exist or do not fit
        fail(f"{error.format_message()} --help tells what there is.")
    except typer.Abort:
        fail("Stopped by you.", 1)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        fail(f"{error.filename or 'A file'}: {error.strerror}. Make room or choose another place.")
    sys.exit(code or 0)


def fail(message: str, code: int = 2) -> NoReturn:
    """One line on stderr, and exit."""
    print("error:", plain(" ".join(message.split())), file=sys.stderr)
    sys.exit(code)
