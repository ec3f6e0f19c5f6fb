"""What an instrument is: one file, `viz/instruments/NAME.py`, that ends with one `Instrument`.

    def study(subject, steps: Annotated[int, Option("Of the path.", 1, 1000)] = 25, progress=silent) -> Finding
    INSTRUMENT = Instrument("query", MATTERS, "Where ...?", "...", study)
        -> command, tab, endpoint, report section, survey

Beside `subject` and `progress` each parameter of `study` is annotated by what it is: an Option, a plain value that all
who run it check alike, or a Source, which they open: the command line in cli.py, the page in tabs/controls.py.
"""

import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from inspect import Parameter, signature
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from sparnet.errors import UserError
from viz.finding import Finding

WHERE, MATTERS = "Where does each unit look?", "Does it matter?"
REAL, WHAT_IF = "Is it real?", "What if it looked elsewhere?"
QUESTIONS = (WHERE, MATTERS, REAL, WHAT_IF)
PLACES = ("2d", "3d", "2d+channel")  # kinds of attention that weigh places
ATTENTION = (*PLACES, "channel")


@dataclass(frozen=True)
class Option:
    """A value that a study can be told."""

    about: str
    least: float | None = None
    most: float | None = None
    units: bool = False  # whether it names units, so that a page can offer them
    shown: bool = False  # on the page, rather than folded away


@dataclass(frozen=True)
class Source:
    """What a study is given that is no plain value, such as a second face."""

    missing: str  # what to do where it is not given, in a sentence


Seed = Annotated[int, Option("Where chance begins; the same number gives the same result.", 0, 2**32 - 1)]
Units = Annotated[list[str] | None, Option("Only these units, such as body.0.", units=True)]

OTHER = Source("There is nothing to compare with: give --other-model or --other-face.")
OTHER_FACES = Source("There are no other faces: give a folder of aligned ones with --faces.")
POPULATION = Source("There are no other faces to compare this one with: give a folder of aligned ones with --faces.")
EDITS = Source("Nobody has painted on a map: give a file of edits with --edits.")
PATCH = Source("There is no part to ask about: give --patch.")
TRAINING = Source("There is no training to look at: give the folder of a run with --run.")
KEEP = Source("Nobody said which faces they are: give --keep.")


@dataclass(frozen=True)
class Setting:
    """An option as the signature has it."""

    name: str
    option: Option
    kind: type  # bool, int, float or str
    many: bool  # whether it is a list of these
    choices: tuple[str, ...]  # all that each can be; none: anything of the kind
    default: Any

    @classmethod
    def of(cls, parameter: Parameter, hint: Any, option: Option) -> "Setting":
        if isinstance(hint, UnionType):
            hint = next(part for part in get_args(hint) if part is not type(None))
        many = get_origin(hint) is list
        if many:
            (hint,) = get_args(hint)
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        return cls(parameter.name, option, str if choices else hint, many, choices, parameter.default)

    def checked(self, value: Any, most: float | None = None) -> Any:
        """The value; `UserError` unless it is of the kind and between `least` and `most`, here or of the option.

        Nothing, which is None, no text or an empty list, is the default.
        """
        if value is None or value in ("", []):
            return self.default
        kind: Any = Literal[self.choices] if self.choices else self.kind
        if self.kind in (int, float):
            limits = [limit for limit in (most, self.option.most) if limit is not None]
            kind = Annotated[kind, Field(ge=self.option.least, le=min(limits, default=None))]
        kind = list[kind] if self.many else kind
        try:
            TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(value)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]["msg"]
            raise UserError(f"{self.name} is {reprlib.repr(value)}. {problem}.") from error
        return value


@dataclass(frozen=True)
class Instrument:
    """Everything that a command line, a page and a report need to know of an instrument."""

    name: str  # of its file, command, tab, endpoint and report section
    question: str  # of QUESTIONS
    title: str  # what it asks
    about: str  # what is done, in a sentence
    study: Callable[..., Finding]  # of one face
    over_faces: Callable[..., Finding] | None = None  # of many: its first parameter is the faces
    slow: bool = False  # seconds rather than moments: only when asked for, and in a lane of its own
    label: str = ""  # of its tab, where not as the name
    attention: tuple[str, ...] = PLACES  # the kinds that it has something to say about
    needs_sharp: bool = False  # whether it compares with the face before it was degraded
    pick: str | None = None  # the picture on which a part can be marked, its PATCH
    more_files: tuple[str, ...] = ()  # what its findings may be called beside `name`

    @property
    def tab(self) -> str:
        return self.label or self.name.capitalize()

    @cached_property
    def needs_face(self) -> bool:
        return "subject" in signature(self.study).parameters

    @cached_property
    def settings(self) -> dict[str, Setting]:
        return settings_of(self.study)

    @cached_property
    def sources(self) -> dict[str, Source]:
        return sources_of(self.study)

    @cached_property
    def required(self) -> list[Source]:
        """The sources that it cannot do without."""
        parameters = signature(self.study).parameters
        return [source for name, source in self.sources.items() if parameters[name].default is Parameter.empty]


def settings_of(study: Callable) -> dict[str, Setting]:
    parameters = signature(study).parameters
    return {name: Setting.of(parameters[name], *annotation) for name, annotation in _annotated(study, Option).items()}


def sources_of(study: Callable) -> dict[str, Source]:
    return {name: source for name, (_, source) in _annotated(study, Source).items()}


def _annotated(study: Callable, kind: type) -> dict[str, tuple[Any, Any]]:
    """Type and annotation of each parameter that is annotated by one of this kind."""
    hints = get_type_hints(study, include_extras=True)
    annotated = {name: get_args(hint)[:2] for name, hint in hints.items() if get_origin(hint) is Annotated}
    return {name: annotation for name, annotation in annotated.items() if isinstance(annotation[1], kind)}
