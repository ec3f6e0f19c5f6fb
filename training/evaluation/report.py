"""A whole evaluation: every face of the trial measured, and what the numbers of all faces say together.

Trial, data -> record: all that decides the numbers -> Ledger of rows, in any number of processes
rows -> Results -> mean, interval, gain over bicubic; identity of the crowd -> report: JSON values
"""

import platform
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import groupby
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy import ndarray

from sparnet.errors import UserError
from training.data import Index, content_hash
from training.evaluation.comparison import Trial, run
from training.evaluation.frechet import InceptionDistances, frechet_distance
from training.evaluation.identity import impostor_cosines, verification_auc
from training.evaluation.judges import known_file
from training.evaluation.ledger import FAULTS, SHARP, Ledger, Results, Score, Scores, summary, write_report
from training.processes import agreed, device_of, process_state


def evaluate(
    trial: Trial,
    data: Index,
    data_name: str,
    json_file: Path | None = None,
    resume: bool = False,
    distances: InceptionDistances | None = None,
) -> tuple[dict, Results] | None:
    """The report, without its rows, and the numbers of each face; None but in the main process.

    The report has values that JSON knows, and Scores. `json_file` gets both. They are the same in any number of
    processes but for the part "run".
    """
    state, started = process_state(), time.monotonic()
    with TemporaryDirectory() as scratch:
        record = agreed(lambda: record_of(trial, data, data_name))
        place = json_file or agreed(lambda: Path(scratch, "scores.json"))  # the rows have to be somewhere
        ledger = Ledger(place, record, (len(trial.protocol.conditions), len(trial.items)), resume, state.process_index)
        state.wait_for_everyone()  # before the first row is written, all have read what there was
        ledger.begin()
        state.wait_for_everyone()
        ledger.check(state.num_processes)
        clock = run(trial, ledger, distances, state)
        fids = distances.values() if distances else {}
        state.wait_for_everyone()  # the last row is written
        if not state.is_main_process:
            return None
        results, scores, names = Results(len(trial.items)), [], list(record["methods"])
        for _, rows in groupby(ledger.rows(), lambda row: row.condition):
            scores.append(summary(results.add(rows), names, trial.anchor, trial.seed))
        report = record | report_of(trial, data, results, scores, fids)
        report["run"] = {
            "seconds": time.monotonic() - started,
            "seconds_per_face": {name: clock[name] / 1e9 / clock["faces"] for name in names if clock["faces"]},
            "faces_timed": clock["faces"],
            "peak_memory_gb": peak_memory(device_of(state)),
            "processes": state.num_processes,
            "device": str(state.device),
            "threads": torch.get_num_threads(),
        }
        if json_file:
            write_report(report, ledger.rows(), json_file)
            for file in ledger.files:
                file.unlink()
    return report, results


def record_of(trial: Trial, data: Index, data_name: str) -> dict:
    """Everything that decides the numbers, as JSON values: a resumed evaluation must agree with it."""
    needs_points = trial.judges.need_points and trial.protocol.sharp
    sha256 = content_hash(data.items, known_file if needs_points else lambda item: None)
    return {
        "protocol": {"name": trial.protocol.name, "about": trial.protocol.about, "line": trial.describe(),
                     "degradation": trial.degradation, "size": trial.size, "crop": trial.crop, "seed": trial.seed},
        "data": {"name": data_name, "description": f"{len(data.items)} pictures, SHA-256 {sha256[:12]}",
                 "sha256": sha256},
        "methods": {method.name: method.describe() for method in trial.methods},
        "instruments": {**trial.judges.record, "truncate": trial.judges.truncate, "rgb": trial.judges.rgb,
                        "regions": trial.judges.regions},
        "versions": {"python": platform.python_version()} | {
            name: version(name) for name in ("torch", "opencv-python", "numpy", "scikit-image", "pillow")},
    }  # fmt: skip


def report_of(trial: Trial, data: Index, results: Results, scores: Sequence[Scores], fids: Mapping[str, float]) -> dict:
    """What the numbers of all faces say together, `scores` by condition; `UserError` where no face was scored."""
    if not results.scored:
        raise UserError(f"None of the {len(trial.items)} pictures can be read or paired, so there is nothing to score.")
    conditions = [
        {"sweep": condition.sweep, "level": condition.level, "scores": numbers}
        for condition, numbers in zip(trial.protocol.conditions, scores, strict=True)
    ]
    for name, value in fids.items():
        scores[0][name]["fid"] = Score(value, None, None, int((~np.isnan(results.column(name, "psnr"))).sum()))
    return {
        "faces": {
            "pictures": len(trial.items),
            "scored": results.scored,
            "known_landmarks": results.known,
            "cut_as_celebas": results.celebas,
            "ignored_files": ignored(trial, data),
            "faults": {kind: results.faults[kind] for kind in FAULTS if kind in results.faults},
            "fault_counts": dict(results.fault_counts),
        },
        "scores": scores[0],
        "landmark_floor": summary(results.columns, [SHARP], None, trial.seed)[SHARP] or None,
        "identity": crowd(trial, results.embeddings),
        "conditions": conditions[1:],
    }


def ignored(trial: Trial, data: Index) -> list[str]:
    """The files not named like pictures, but for the landmarks that were read."""
    if not trial.judges.need_points:
        return data.ignored
    files = ((item, known_file(item)) for item in data.items)
    read = {PurePosixPath(item.name).with_suffix(file.suffix).as_posix() for item, file in files if file}
    return [name for name in data.ignored if name not in read]


def crowd(trial: Trial, embeddings: Mapping[int, Mapping[str, ndarray]]) -> dict | None:
    """What cosines of single faces do not say: strangers' cosines, how well they are told apart, Frechet distance.

    A pair is a restored and a sharp face: of the same person, its own sharp face among them, or of two people.
    """
    kept = sorted(embeddings)
    if len(kept) < 2:
        return None
    sharp = np.array([embeddings[i][SHARP] for i in kept])
    people = np.array([trial.people[i] if trial.people else str(i) for i in kept])
    strangers, same = impostor_cosines(sharp, people), np.equal.outer(people, people)
    methods = {}
    for name in (method.name for method in trial.methods):
        scored = [place for place, i in enumerate(kept) if name in embeddings[i]]
        if len(scored) > 1:
            restored = np.array([embeddings[kept[place]][name] for place in scored])
            cosines, pairs = restored @ sharp.T, same[scored]
            methods[name] = {"frechet_on_identity": frechet_distance(restored, sharp)}
            if strangers.size:
                methods[name]["verification_auc"] = verification_auc(cosines[pairs], cosines[~pairs])
    numbers = {"faces": len(kept), "people": len(set(people.tolist())), "methods": methods}
    if strangers.size:
        numbers["impostors"] = {"mean": float(strangers.mean()), "highest_of_20": float(np.quantile(strangers, 0.95))}
    return numbers


def peak_memory(device: torch.device) -> float:
    """Highest so far, in GB: of the accelerator where there is one, else of this process, all methods together."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
