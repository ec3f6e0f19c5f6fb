"""Numbers of single faces, and what they say together.

    Row per face -> Ledger: a line of JSON each, beside the report, so that an interrupted evaluation resumes
    rows -> columns (faces, methods x metrics) -> bootstrap over faces -> mean, its 95 % interval, over how many faces
                      '-> minus bicubic's, face by face -> the same of the paired difference

JSON has no infinity and no NaN: they are written as "inf" and null.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sparnet.bootstrap import mean_interval
from sparnet.errors import UserError
from training.run import differences

FAULTS = {  # kind: what follows from it
    "unreadable": "not scored",
    "size": "restored and sharp differ in size, not scored",
    "enlarged": "the sharp face was smaller than the common size, scored",
    "grey": "no colour in the sharp face, scored",
    "no landmarks": "in the restored face a failure; in the sharp face no score by landmarks",
    "no face": "not aligned, so no identity",
}


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

    @property
    def key(self) -> tuple[int, int]:
        return self.condition, self.index


class Ledger:
    """The rows as files beside the report, one of each process: a line for the record, then a line for each row.

    `UserError` if there are rows of an evaluation that is not to be resumed, or that was another.
    """

    def __init__(self, report: Path, record: dict, resume: bool, process: int = 0):
        self.file = report.with_name(f"{report.name}.rows-{process}")
        self.rows: dict[tuple[int, int], Row] = {}
        found = sorted(report.parent.glob(f"{report.name}.rows-*"))
        if found and not resume:
            raise UserError(f"{found[0]} is of an interrupted evaluation: go on with --resume, or take it away")
        for file in found:
            self._read(file, record)
        self.head = "" if self.file.exists() else json.dumps(record) + "\n"

    def _read(self, file: Path, record: dict) -> None:
        lines = file.read_bytes().split(b"\n")
        whole, torn = lines[:-1], lines[-1]
        if torn:  # the process ended while it wrote
            with file.open("r+b") as stream:
                stream.truncate(file.stat().st_size - len(torn))
        if not whole:
            file.unlink()
            return
        for name, then, now in differences(json.loads(whole[0]), json.loads(json.dumps(record))):
            raise UserError(f"cannot resume {file}: {name} was {then!r} and is now {now!r}; take the file away")
        for line in whole[1:]:
            row = row_from(json.loads(line))
            self.rows[row.key] = row

    def add(self, rows: Iterable[Row]) -> None:
        """Append and flush; a row is a line, and a torn last line is found when resuming."""
        lines = "".join(json.dumps(row_to(row), allow_nan=False) + "\n" for row in rows)
        try:
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(self.head + lines)
        except OSError as error:
            raise UserError(f"{self.file} cannot be written: {error.strerror}") from error
        self.head = ""


def row_to(row: Row) -> dict:
    """The row as JSON values; fields that are empty are left out, but for `values`."""
    plain = {"condition": row.condition, "index": row.index, "name": row.name, "values": plain_numbers(row.values)}
    more = {"faults": row.faults, "embeddings": row.embeddings, "known": row.known}
    return plain | {name: value for name, value in more.items() if value}


def row_from(plain: dict) -> Row:
    values = {
        method: {metric: number(value) for metric, value in some.items()} for method, some in plain["values"].items()
    }
    faults = tuple(tuple(fault) for fault in plain.get("faults", ()))
    more = {name: plain[name] for name in ("embeddings", "known") if name in plain}
    return Row(plain["condition"], plain["index"], plain["name"], values, faults, **more)


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


def summary(rows: Sequence[Row], methods: Sequence[str], anchor: str | None, seed: int) -> dict[str, dict]:
    """{method: {metric: {mean, low, high, n, difference: {mean, low, high, n}}}} of the rows of one condition.

    The difference is the paired one to the `anchor`, over the faces for which both have a value.
    """
    metrics = list(dict.fromkeys(metric for row in rows for some in row.values.values() for metric in some))
    column = {
        (method, metric): np.array([row.values.get(method, {}).get(metric, np.nan) for row in rows], float)
        for method in methods
        for metric in metrics
    }
    with np.errstate(invalid="ignore"):  # the difference of two infinite values is none
        paired = {
            (method, metric): column[method, metric] - column[anchor, metric]
            for method, metric in column
            if anchor is not None and method != anchor
        }
    everything = [*column.values(), *paired.values()]
    if not everything:
        return {method: {} for method in methods}
    columns = np.column_stack(everything)
    ends, counts = mean_interval(columns, seed), (~np.isnan(columns)).sum(axis=0)
    found = [
        {"mean": float(mean), "low": float(low), "high": float(high), "n": int(n)}
        for mean, low, high, n in zip(*ends, counts, strict=True)
    ]
    table: dict[str, dict] = {method: {} for method in methods}
    for (method, metric), estimate in zip(column, found[: len(column)], strict=True):
        if estimate["n"]:
            table[method][metric] = estimate
    for (method, metric), estimate in zip(paired, found[len(column) :], strict=True):
        if estimate["n"]:
            table[method][metric]["difference"] = estimate
    return table


def faults(rows: Sequence[Row]) -> dict[str, list[dict[str, str]]]:
    """Every fault by kind, with the names; a picture is named once, whatever the conditions."""
    found: dict[str, dict[tuple, dict[str, str]]] = {}
    for row in rows:
        for kind, whose, why in row.faults:
            found.setdefault(kind, {})[row.name, whose, why] = {"name": row.name, "of": whose, "why": why}
    return {kind: list(found[kind].values()) for kind in FAULTS if kind in found}
