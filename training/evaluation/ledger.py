"""Numbers of single faces, and what they say together.

    Row per face -> Ledger: a line of JSON each, in files beside the report, so that an interrupted evaluation resumes
    Ledger -> rows in order -> Results: a column of numbers for each method and metric -> bootstrap over the faces
                            |           '-> minus bicubic's, face by face -> the same of the paired difference
                            '-> the report's "rows", line by line

The rows are in memory one at a time: what is kept of a face is eight bytes a number. JSON has no infinity and no NaN:
they are written as "inf" and null. A PSNR is infinite where a picture is identical to the sharp one: such pictures are
counted, and the mean is that of the rest.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy import ndarray

from sparnet.errors import UserError
from sparnet.files import write_whole
from sparnet.metrics import mean_interval
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
FILE_SIZE = 2**48  # bytes that a file of rows has at most
SHARP = "sharp"  # in the place of a method's name: what is measured on the sharp picture itself

Columns = Mapping[tuple[str, str], ndarray]
"""(method, metric) -> (N,) float64, one number a picture; NaN: no value."""


@dataclass(frozen=True)
class Row:
    """What one face gave under one condition; `faults` are (kind, whose picture, why)."""

    condition: int
    index: int  # of the picture
    name: str
    values: dict[str, dict[str, float]]  # of each method that has a picture of this face, by metric
    faults: tuple[tuple[str, str, str], ...] = ()
    embeddings: dict[str, list[float]] = field(default_factory=dict)  # of "sharp" and the methods; of some faces only
    known: bool = False  # whether the landmarks are those of the file beside the picture
    floor: dict[str, float] = field(default_factory=dict)  # by metric: the sharp picture's own points against those
    celebas: bool = False  # whether the picture was cut as one of CelebA's


class Ledger:
    """The rows as files beside the report, one of each process: a line for the record, then a line for each row.

    `done` (conditions, pictures) says which rows there are. Every process makes its own, and when all have, begins.
    `UserError` if there are rows of an evaluation that is not to be resumed, or that was another.
    """

    def __init__(self, report: Path, record: dict, shape: tuple[int, int], resume: bool, process: int = 0):
        self.report, self.record = report, json.loads(json.dumps(record))
        self.file = self._of(process)
        self.done = np.zeros(shape, bool)
        if self.files and not resume:
            raise UserError(f"{self.files[0]} is of an interrupted evaluation: go on with --resume, or take it away.")
        for file in self.files:
            for _, row in self._read(file):
                self.done[row["condition"], row["index"]] = True

    @property
    def files(self) -> list[Path]:
        return sorted(self.report.parent.glob(f"{self.report.name}.rows-*"))

    def begin(self) -> None:
        """Make this process's file ready for more lines: without a torn last one, and with the record."""
        try:
            with self.file.open("a+b") as stream:
                stream.seek(0)
                whole = sum(len(line) for line in stream if line.endswith(b"\n"))
                stream.truncate(whole)
                if not whole:
                    stream.write(json.dumps(self.record).encode() + b"\n")
        except OSError as error:
            raise self._unwritable(error) from error

    def check(self, processes: int) -> None:
        """`UserError` unless the files of all processes are seen from here; when all have begun."""
        if lost := [process for process in range(processes) if not self._of(process).exists()]:
            raise UserError(
                f"The rows of {len(lost)} of {processes} processes are not visible in {self.report.absolute().parent}: "
                "on several hosts, give --json in a folder that all of them share."
            )

    def add(self, rows: Iterable[Row]) -> None:
        """Append and close; a row is a line, and a torn last line is found when resuming."""
        lines = "".join(json.dumps(row_to(row), allow_nan=False) + "\n" for row in rows)
        try:
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(lines)
        except OSError as error:
            raise self._unwritable(error) from error

    def rows(self) -> Iterator[dict]:
        """The rows of all processes as JSON values, by condition and picture; when all have ended."""
        files, places = self._places
        with ExitStack() as stack:
            streams = [stack.enter_context(file.open("rb")) for file in files]
            for place in places.ravel().tolist():
                file, byte = divmod(place, FILE_SIZE)
                streams[file].seek(byte)
                yield json.loads(streams[file].readline())

    @cached_property
    def _places(self) -> tuple[list[Path], ndarray]:
        """The files, and where each row lies, (conditions, pictures): byte + number of the file x `FILE_SIZE`."""
        files, places = self.files, np.full(self.done.shape, -1, np.int64)
        for number, file in enumerate(files):
            for byte, row in self._read(file):
                places[row["condition"], row["index"]] = number * FILE_SIZE + byte
        if missing := int((places < 0).sum()):
            raise UserError(f"{missing} rows are not in {', '.join(map(str, files))}: go on with --resume.")
        return files, places

    def _read(self, file: Path) -> Iterator[tuple[int, dict]]:
        """(byte, row) of every row whose line is whole; the last is torn where the process ended while it wrote."""
        byte = 0
        with file.open("rb") as stream:
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                try:
                    value = json.loads(line)
                except ValueError as error:
                    raise UserError(f"{file} is damaged at byte {byte} ({error}); take it away.") from error
                if byte:
                    yield byte, value
                else:
                    self._compare(file, value)
                byte += len(line)

    def _compare(self, file: Path, record: dict) -> None:
        for name, then, now in differences(record, self.record):
            raise UserError(f"Cannot resume {file}: {name} was {then!r} and is now {now!r}; take the file away.")

    def _of(self, process: int) -> Path:
        return self.report.with_name(f"{self.report.name}.rows-{process}")

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"{self.file} cannot be written: {error.strerror}")


class Results:
    """What is kept of the rows: of each picture eight bytes a number of the first condition, whatever others follow.

    `scored`, `known` and `celebas` count pictures of the first condition. Embeddings are there for some of them only.
    """

    def __init__(self, pictures: int):
        self.pictures = pictures
        self.columns: Columns = {}  # of the first condition
        self.scored = self.known = self.celebas = 0
        self.embeddings: dict[int, dict[str, ndarray]] = {}
        self.faults: dict[str, list[dict[str, str]]] = {kind: [] for kind in FAULTS}  # the first `MOST_NAMED` of each
        self.fault_counts: dict[str, int] = dict.fromkeys(FAULTS, 0)
        self._faulty: dict[tuple[str, str], ndarray] = {}  # (kind, whose picture) -> (N,) bool

    def add(self, rows: Iterable[Row]) -> Columns:
        """The rows of one condition after the other, in order; -> the condition's columns."""
        columns = {}
        for row in rows:
            for method, numbers in (row.values | {SHARP: row.floor}).items():
                for metric, value in numbers.items():
                    if (method, metric) not in columns:
                        columns[method, metric] = np.full(self.pictures, np.nan)
                    columns[method, metric][row.index] = value
            for fault in row.faults:
                self._note(row, *fault)
            if row.condition == 0:
                self.columns = columns
                self.scored += bool(row.values)
                self.known += row.known
                self.celebas += row.celebas
                if row.embeddings:
                    self.embeddings[row.index] = {whose: np.array(numbers) for whose, numbers in row.embeddings.items()}
        return columns

    def column(self, method: str, metric: str) -> ndarray:
        """(N,) float64, one number a picture under the first condition; NaN: no value."""
        return self.columns.get((method, metric), np.full(self.pictures, np.nan))

    def _note(self, row: Row, kind: str, whose: str, why: str) -> None:
        """A picture is named once, whatever the conditions."""
        seen = self._faulty.setdefault((kind, whose), np.zeros(self.pictures, bool))
        if seen[row.index]:
            return
        seen[row.index] = True
        self.fault_counts[kind] += 1
        if len(self.faults[kind]) < MOST_NAMED:
            self.faults[kind].append({"name": row.name, "of": whose, "why": why})


def write_report(report: Mapping, rows: Iterable[Mapping], file: Path) -> None:
    """The report as JSON with the rows, a line each, under "rows" at its end; whole or not at all."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(report, indent=1, allow_nan=False).removesuffix("\n}") + ',\n "rows": [')
            for i, row in enumerate(rows):
                plain = {key: value for key, value in row.items() if key != "embeddings"}
                stream.write(",\n  " * bool(i) + "\n  " * (not i) + json.dumps(plain, allow_nan=False))
            stream.write("\n ]\n}\n")

    write_whole(file, write)


def row_to(row: Row) -> dict:
    """The row as JSON values; fields that are empty are left out, but for `values`."""
    plain = {"condition": row.condition, "index": row.index, "name": row.name, "values": plain_numbers(row.values)}
    more = {
        "faults": row.faults,
        "embeddings": row.embeddings,
        "known": row.known,
        "floor": plain_numbers(row.floor),
        "celebas": row.celebas,
    }
    return plain | {name: value for name, value in more.items() if value}


def row_from(plain: Mapping) -> Row:
    values = {
        method: {metric: number(value) for metric, value in numbers.items()}
        for method, numbers in plain["values"].items()
    }
    faults = tuple(tuple(fault) for fault in plain.get("faults", ()))
    floor = {metric: number(value) for metric, value in plain.get("floor", {}).items()}
    more = {name: plain[name] for name in ("embeddings", "known", "celebas") if name in plain}
    return Row(plain["condition"], plain["index"], plain["name"], values, faults, floor=floor, **more)


def plain_numbers(value: object) -> object:
    """The same with every infinity as "inf" or "-inf" and every NaN as None, as strict JSON has it."""
    if isinstance(value, dict):
        return {key: plain_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain_numbers(inner) for inner in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else str(value)
    return value


def number(value: float | str | None) -> float:
    return np.nan if value is None else float(value)


def summary(columns: Columns, methods: Sequence[str], anchor: str | None, seed: int) -> dict[str, dict]:
    """{method: {metric: {mean, low, high, n, difference: {mean, low, high, n}}}} of the columns of one condition.

    The difference is the paired one to the `anchor`, over the faces for which both have a value. Where some pictures
    are identical to the sharp ones, `identical` counts them, and mean, interval and n are those of the others.
    """
    table: dict[str, dict] = {method: {} for method in methods}
    single = [key for key in columns if key[0] in table]
    paired = [(method, metric) for method, metric in single if method != anchor and (anchor, metric) in columns]
    if not single:
        return table
    numbers = np.empty((len(columns[single[0]]), len(single) + len(paired)))
    for i, key in enumerate(single):
        numbers[:, i] = columns[key]
    identical = np.isposinf(numbers[:, : len(single)]).sum(axis=0)
    numbers[np.isinf(numbers)] = np.nan
    place = {key: i for i, key in enumerate(single)}
    for i, (method, metric) in enumerate(paired, len(single)):
        np.subtract(numbers[:, place[method, metric]], numbers[:, place[anchor, metric]], out=numbers[:, i])
    ends, counts = mean_interval(numbers, seed), (~np.isnan(numbers)).sum(axis=0)
    estimates = [
        {"mean": float(mean), "low": float(low), "high": float(high), "n": int(n)}
        for mean, low, high, n in zip(*ends, counts, strict=True)
    ]
    for (method, metric), estimate, same in zip(single, estimates[: len(single)], identical.tolist(), strict=True):
        if same:
            estimate["identical"] = same
        if same and not estimate["n"]:  # all of them
            estimate["mean"] = np.inf
        if same or estimate["n"]:
            table[method][metric] = estimate
    for (method, metric), estimate in zip(paired, estimates[len(single) :], strict=True):
        if estimate["n"]:
            table[method][metric]["difference"] = estimate
    return table
