"""Numbers of single faces, and what they say together.

    Row per face -> Ledger: SQLite files beside the report, so that an interrupted evaluation resumes
    Ledger -> rows in order -> Results: a column of numbers for each method and metric -> bootstrap over the faces
                            |           '-> minus bicubic's, face by face -> the same of the paired difference
                            '-> the report's "rows", line by line

The rows are in memory one at a time: what is kept of a face is eight bytes a number. JSON has no infinity and no NaN:
they are written as "inf" and null. A PSNR is infinite where a picture is identical to the sharp one: such pictures are
counted, and the mean is that of the rest.
"""

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from heapq import merge
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from sparnet.errors import UserError
from sparnet.files import write_whole
from sparnet.metrics import Estimate, estimates
from training.state import differences

FAULTS = {  # kind: what follows from it
    "unreadable": "not scored",
    "size": "restored and sharp differ in size, not scored",
    "enlarged": "the sharp face was smaller than the common size, scored",
    "grey": "no colour in the sharp face, or in a restored one whose sharp face has some; scored",
    "no landmarks": "in the restored face a failure; in the sharp face no score by landmarks",
    "no face": "not aligned, so no identity",
}
MOST_NAMED = 1000  # faults of each kind that the report lists; the others stand in its rows
SHARP = "sharp"  # in the place of a method's name: what is measured on the sharp picture itself
TABLES = """
    CREATE TABLE IF NOT EXISTS record (json TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS rows (condition INTEGER, picture INTEGER, json TEXT NOT NULL,
                                     PRIMARY KEY (condition, picture)) WITHOUT ROWID;
"""

Columns = Mapping[tuple[str, str], ndarray]
"""(method, metric) -> (N,) float64, one number a picture; NaN: no value."""


class Fault(NamedTuple):
    """Why one picture has no score, or a doubtful one."""

    kind: str  # of `FAULTS`
    whose: str  # the method that made the picture, or `SHARP`
    why: str


@dataclass(frozen=True)
class Row:
    """What one face gave under one condition."""

    condition: int
    index: int  # of the picture
    name: str
    values: dict[str, dict[str, float]]  # of each method that has a picture of this face, by metric
    faults: Sequence[Fault] = ()  # lists of the three, where they come from a file
    embeddings: dict[str, list[float]] = field(default_factory=dict)  # of "sharp" and the methods; of some faces only
    known: bool = False  # whether the landmarks are those of the file beside the picture
    floor: dict[str, float] = field(default_factory=dict)  # by metric: the sharp picture's own points against those
    celebas: bool = False  # whether the picture was cut as one of CelebA's


@dataclass(frozen=True)
class Score(Estimate):
    """Of a method by a metric: the mean over the faces, and that of the paired differences to bicubic."""

    identical: int = 0  # pictures left out of the mean, because they are the sharp ones exactly
    difference: Estimate | None = None  # over the faces for which both have a value


Scores = dict[str, dict[str, Score]]
"""Of each method, by metric."""


class Ledger:
    """The rows as SQLite files beside the report, one of each process: a host locks only files that it writes itself.

    `done` (conditions, pictures) says which rows there are. Every process makes its own, and when all have, begins.
    `UserError` if there are rows of an evaluation that is not to be resumed, or that was another.
    """

    def __init__(self, report: Path, record: dict, shape: tuple[int, int], resume: bool, process: int = 0):
        self.report, self.record, self.file = report, json.dumps(record), self._of(report, process)
        self.done = np.zeros(shape, bool)
        if self.files and not resume:
            raise UserError(f"{self.files[0]} is of an interrupted evaluation: go on with --resume, or take it away.")
        for file in self.files:
            with self._opened(file) as rows:
                for (then,) in rows.execute("SELECT json FROM record"):
                    for name, was, now in differences(json.loads(then), json.loads(self.record)):
                        raise UserError(f"Cannot resume {file}: {name} was {was!r} and is now {now!r}; take it away.")
                for condition, picture in rows.execute("SELECT condition, picture FROM rows"):
                    self.done[condition, picture] = True

    @property
    def files(self) -> list[Path]:
        return sorted(self.report.parent.glob(f"{self.report.name}.rows-*[0-9]"))

    def begin(self) -> None:
        """Make this process's file, if it is not there from before."""
        with self._opened(self.file) as rows:
            rows.executescript(TABLES)
            rows.execute("INSERT INTO record SELECT ? WHERE NOT EXISTS (SELECT * FROM record)", [self.record])

    def check(self, processes: int) -> None:
        """`UserError` unless the files of all processes are seen from here; when all have begun."""
        if lost := sum(not self._of(self.report, process).exists() for process in range(processes)):
            raise UserError(
                f"The rows of {lost} of {processes} processes are not visible in {self.report.absolute().parent}: "
                "on several hosts, give --json in a folder that all of them share."
            )

    def add(self, rows: Iterable[Row]) -> None:
        """All of them or, if the process is killed meanwhile, none."""
        with self._opened(self.file) as stored:
            lines = [(row.condition, row.index, json.dumps(asdict(row))) for row in rows]
            stored.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", lines)

    def rows(self) -> Iterator[Row]:
        """The rows of all processes, by condition and picture; when all have ended."""
        with ExitStack() as stack:
            opened = [stack.enter_context(self._opened(file)) for file in self.files]
            count = sum(rows.execute("SELECT count(*) FROM rows").fetchone()[0] for rows in opened)
            if count < self.done.size:
                raise UserError(f"{self.done.size - count} rows of {self.report} are missing: go on with --resume.")
            for *_, row in merge(*(rows.execute("SELECT * FROM rows ORDER BY condition, picture") for rows in opened)):
                yield Row(**json.loads(row))

    @staticmethod
    def _of(report: Path, process: int) -> Path:
        return report.with_name(f"{report.name}.rows-{process}")

    @contextmanager
    def _opened(self, file: Path) -> Iterator[sqlite3.Connection]:
        """What is written within is kept whole or not at all; `UserError` if the file cannot be read or written."""
        try:
            with closing(sqlite3.connect(file)) as rows, rows:
                yield rows
        except sqlite3.Error as error:
            raise UserError(f"{file} cannot be used ({error}): make room, or take it away.") from error


class Results:
    """What is kept of the rows: of each picture eight bytes a number of the first condition, whatever others follow.

    `scored`, `known` and `celebas` count pictures of the first condition. Embeddings are there for some of them only.
    """

    def __init__(self, pictures: int):
        self.pictures = pictures
        self.columns: Columns = {}  # of the first condition
        self.scored = self.known = self.celebas = 0
        self.embeddings: dict[int, dict[str, ndarray]] = {}
        self.faults: dict[str, list[dict[str, str]]] = {}  # by kind, the first `MOST_NAMED` of each
        self.fault_counts: Counter[str] = Counter()
        self._faulty = defaultdict(lambda: np.zeros(pictures, bool))  # (kind, whose picture) -> (N,)

    def add(self, rows: Iterable[Row]) -> Columns:
        """The rows of one condition after the other, in order; -> the condition's columns."""
        columns = defaultdict(lambda: np.full(self.pictures, np.nan))
        for row in rows:
            for method, numbers in (row.values | {SHARP: row.floor}).items():
                for metric, value in numbers.items():
                    columns[method, metric][row.index] = value
            for kind, whose, why in row.faults:
                if not self._faulty[kind, whose][row.index]:  # a picture is named once, whatever the conditions
                    self._faulty[kind, whose][row.index] = True
                    self.fault_counts[kind] += 1
                    if self.fault_counts[kind] <= MOST_NAMED:
                        self.faults.setdefault(kind, []).append({"name": row.name, "of": whose, "why": why})
            if row.condition == 0:
                self.columns = columns
                self.scored += bool(row.values)
                self.known += row.known
                self.celebas += row.celebas
                if row.embeddings:
                    self.embeddings[row.index] = {whose: np.array(numbers) for whose, numbers in row.embeddings.items()}
        return dict(columns)

    def column(self, method: str, metric: str) -> ndarray:
        """(N,) float64, one number a picture under the first condition; NaN: no value."""
        return self.columns.get((method, metric), np.full(self.pictures, np.nan))


def write_report(report: Mapping, rows: Iterable[Row], file: Path) -> None:
    """The report as JSON with the rows, a line each, under "rows" at its end; whole or not at all."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(plain_numbers(report), indent=1, allow_nan=False).removesuffix("\n}"))
            before = ',\n "rows": [\n  '
            for row in rows:
                plain = plain_numbers({key: value for key, value in vars(row).items() if key != "embeddings"})
                stream.write(before + json.dumps(plain, allow_nan=False))
                before = ",\n  "
            stream.write("\n ]\n}\n")

    write_whole(file, write)


def plain_numbers(value: object) -> object:
    """The same as strict JSON has it: every infinity is "inf" or "-inf", every NaN None, an Estimate a dictionary."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: plain_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain_numbers(inner) for inner in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else str(value)
    return value


def summary(columns: Columns, methods: Sequence[str], anchor: str | None, seed: int) -> Scores:
    """The columns of one condition -> Scores; the differences are paired ones to the `anchor`.

    Where some pictures are identical to the sharp ones, the mean, its interval and n are those of the others.
    """
    single = [key for key in columns if key[0] in methods]
    scores: Scores = {method: {} for method in methods}
    if not single:
        return scores
    finite = {key: np.where(np.isinf(column), np.nan, column) for key, column in columns.items()}
    paired = {
        (method, metric): finite[method, metric] - finite[anchor, metric]
        for method, metric in single
        if anchor is not None and method != anchor and (anchor, metric) in columns
    }
    means = estimates(np.column_stack([*(finite[key] for key in single), *paired.values()]), seed)
    gains = dict(zip(paired, means[len(single) :], strict=True))
    for key, mean in zip(single, means, strict=False):
        identical, gain = int(np.isposinf(columns[key]).sum()), gains.get(key)
        if mean.n or identical:
            method, metric = key
            difference = gain if gain and gain.n else None
            scores[method][metric] = Score(**vars(mean), identical=identical, difference=difference)
    return scores
