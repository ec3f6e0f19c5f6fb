"""The evaluator: models, bicubic and anyone's pictures, side by side on the same degraded faces.

    picture -> centre view -> sharp (S,S,3) -> condition, degradation -> degraded -> every method -> restored (S,S,3)
                                '--------------------------- instruments -------------------------------'
    -> Row per face -> Ledger on disk -> Results -> mean, interval, gain over bicubic -> terminal, Markdown, LaTeX, HTML
                                   '---> JSON, with every row

`python -m training.evaluate --model M [--model N ...] --data DIR`, or `--restored DIR --sharp DIR`. The same under
`accelerate launch` for several processes, or on a CPU `ACCELERATE_USE_CPU=true torchrun --nproc_per_node N -m ...`;
processes on several hosts need --json in a folder that all of them share.
"""

import platform
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from itertools import groupby
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import torch
import typer
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env
from numpy import ndarray

from sparnet import images
from sparnet.checkpoints import weights_file
from sparnet.errors import UserError
from sparnet.files import check_folder, check_targets, save_bytes
from sparnet.folders import check_outside
from sparnet.hub import CONFIG
from sparnet.model import SPARNet
from training import report as tables
from training.command import run_command
from training.comparison import BATCH, Trial, compare, measure, run
from training.data import Crop, Index, Item, content_hash, face_square, index_pictures
from training.frechet import InceptionDistances, frechet_on
from training.identity import identities, impostor_cosines, verification_auc
from training.instruments import Instruments, choose, known_file
from training.methods import Bicubic, Network, Pictures, labelled, load_network
from training.perceptual import Lpips
from training.protocols import PROTOCOLS, Protocol, factor_of, find_protocol
from training.scores import SHARP, Ledger, Results, finite_mean, plain_numbers, row_from, summary, write_report


def evaluate(
    trial: Trial,
    data: Index,
    data_name: str,
    json_file: Path | None = None,
    resume: bool = False,
    distances: InceptionDistances | None = None,
) -> tuple[dict, Results] | None:
    """The report as JSON values, without its rows, and the numbers of each face; None but in the main process.

    `json_file` gets both. They are the same in any number of processes but for the part "run".
    """
    state, started = process_state(), time.monotonic()
    record = agreed(lambda: record_of(trial, data, data_name), state)
    with ExitStack() as scratch:
        if json_file is None:  # the rows have to be somewhere
            made = agreed(lambda: scratch.enter_context(TemporaryDirectory(prefix="evaluation-")), state)
        place = json_file or Path(made) / "scores.json"
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
        for _, rows in groupby(map(row_from, ledger.rows()), lambda row: row.condition):
            scores.append(summary(results.add(rows), names, trial.anchor, trial.seed))
        report = record | plain_numbers(report_of(trial, data, results, scores, fids))
        report["run"] = {
            "seconds": time.monotonic() - started,
            "seconds_per_face": {name: clock[name] / clock["faces"] for name in names if clock["faces"]},
            "faces_timed": clock["faces"],
            "peak_memory_gb": peak_memory(state.device),
            "processes": state.num_processes,
            "device": str(state.device),
            "threads": torch.get_num_threads(),
        }
        if json_file:
            write_report(report, ledger.rows(), json_file)
            for file in ledger.files:
                file.unlink()
    return report, results


def process_state() -> PartialState:
    """Which of the processes this is; the others wait while the main one hashes the pictures and writes the report."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=timedelta(hours=2))


def agreed(make: Callable[[], object], state: PartialState) -> object:
    """What the main process makes, in every process."""
    return broadcast_object_list([make() if state.is_main_process else None])[0]


def record_of(trial: Trial, data: Index, data_name: str) -> dict:
    """Everything that decides the numbers, as JSON values: a resumed evaluation must agree with it."""
    needs_points = trial.instruments.need_points and trial.protocol.sharp
    sha256 = content_hash(data.items, known_file if needs_points else lambda item: None)
    return {
        "protocol": {"name": trial.protocol.name, "about": trial.protocol.about, "line": trial.describe(),
                     "degradation": trial.degradation, "size": trial.size, "crop": trial.crop, "seed": trial.seed},
        "data": {"name": data_name, "description": f"{len(data.items)} pictures, SHA-256 {sha256[:12]}",
                 "sha256": sha256},
        "methods": {method.name: method.describe() for method in trial.methods},
        "instruments": dict(trial.instruments.record) | {
            "truncate": trial.instruments.truncate, "rgb": trial.instruments.rgb, "regions": trial.instruments.regions},
        "versions": {"python": platform.python_version()} | {
            name: version(name) for name in ("torch", "opencv-python", "numpy", "scikit-image", "pillow")},
    }  # fmt: skip


def report_of(trial: Trial, data: Index, results: Results, scores: Sequence[dict], fids: Mapping[str, float]) -> dict:
    """What the numbers of all faces say together, `scores` by condition; `UserError` where no face was scored."""
    if not results.scored:
        raise UserError(f"none of the {len(trial.items)} pictures can be read or paired, so there is nothing to score")
    conditions = [
        {"sweep": condition.sweep, "level": condition.level, "scores": some}
        for condition, some in zip(trial.protocol.conditions, scores, strict=True)
    ]
    for name, value in fids.items():
        scores[0][name]["fid"] = {"mean": value, "n": int((~np.isnan(results.column(name, "psnr"))).sum())}
    return {
        "faces": {
            "pictures": len(trial.items),
            "scored": results.scored,
            "known_landmarks": results.known,
            "cut_as_celebas": results.celebas,
            "ignored_files": ignored(trial, data),
            "faults": {kind: found for kind, found in results.faults.items() if found},
            "fault_counts": {kind: count for kind, count in results.fault_counts.items() if count},
        },
        "scores": scores[0],
        "landmark_floor": summary(results.columns, [SHARP], None, trial.seed)[SHARP] or None,
        "identity": crowd(trial, results.embeddings),
        "conditions": conditions[1:],
    }


def ignored(trial: Trial, data: Index) -> list[str]:
    """The files that are no pictures by name, but for the landmarks that were read."""
    if not trial.instruments.need_points:
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
    _, people = np.unique([trial.people[i] if trial.people else str(i) for i in kept], return_inverse=True)
    strangers = impostor_cosines(sharp, people)
    same = np.equal.outer(people, people)
    found = {"faces": len(kept), "people": len(set(people.tolist())), "methods": {}}
    if strangers.size:
        found["impostors"] = {"mean": float(strangers.mean()), "highest_of_20": float(np.quantile(strangers, 0.95))}
    for method in (method.name for method in trial.methods):
        there = [place for place, i in enumerate(kept) if method in embeddings[i]]
        if len(there) < 2:
            continue
        ours = np.array([embeddings[kept[place]][method] for place in there])
        name, distance = frechet_on("identity", ours, sharp)
        cosines, pairs = ours @ sharp.T, same[there]
        found["methods"][method] = {name: distance}
        if strangers.size:
            found["methods"][method]["verification_auc"] = verification_auc(cosines[pairs], cosines[~pairs])
    return found


def peak_memory(device: torch.device) -> float:
    """Highest so far, in GB: of the accelerator where there is one, else of this process, all methods together."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


@dataclass(frozen=True)
class Score:
    """Means over the faces: PSNR on Y in dB, SSIM on Y; `gain` is the PSNR above bicubic's on the same faces."""

    model: str
    psnr: float
    ssim: float
    gain: float
    faces: int
    unreadable: tuple[str, ...]  # one message each; not scored
    seconds: float
    lpips: float | None = None  # None: not measured


def score(
    model: SPARNet,
    items: list[Item],
    name: str = "model",
    device: torch.device | str = "cpu",
    watch: Callable[[ndarray, ndarray, ndarray], None] | None = None,
    lpips: Lpips | None = None,
    crop: Crop = "auto",
) -> tuple[Score, Score]:
    """Score bicubic and a model in training on the degradation it is made for; -> (bicubic's Score, the model's).

    `watch(degraded, restored, sharp)` sees each face as (S,S,3) uint8. The model's mode is put back afterwards.
    """
    started, training = time.monotonic(), model.training
    network = Network(name, model.eval(), device)
    instruments = Instruments(lpips=lpips, device=device)
    trial = Trial(items, [Bicubic(), network], network.size, degradation_for([network]), instruments, crop=crop)
    rows = []
    for start in range(0, len(items), BATCH):
        for one in compare(trial, range(start, min(start + BATCH, len(items)))):
            rows.append(measure(trial, one))
            if watch is not None and one.subject is not None:
                watch(one.subject.degraded, one.restored[name], one.subject.sharp)
    model.train(training)
    scored = [row for row in rows if row.values]
    if not scored:
        raise UserError(f"none of the {len(items)} pictures can be read, so there is nothing to score")
    unreadable = tuple(why for row in rows for kind, _, why in row.faults if kind == "unreadable")
    means = [
        {metric: finite_mean([row.values[method][metric] for row in scored]) for metric in scored[0].values[method]}
        for method in ("bicubic", name)
    ]
    seconds = round(time.monotonic() - started, 1)
    floor, ours = (
        Score(method, some["psnr"], some["ssim"], some["psnr"] - means[0]["psnr"], len(scored), unreadable, seconds,
              some.get("lpips"))
        for method, some in zip(("bicubic", name), means, strict=True)
    )  # fmt: skip
    return floor, ours


def degradation_for(networks: Sequence[Network]) -> str:
    """What the networks were trained for; `UserError` if that is not the same."""
    made_for = {network.name: f"bicubic{network.factor}" if network.factor else "blind" for network in networks}
    if len(set(made_for.values())) > 1:
        told = ", ".join(f"{name} for {degradation}" for name, degradation in made_for.items())
        raise UserError(f"the models are made for different degradations ({told}); choose one by --degradation")
    return next(iter(made_for.values()))


def prepare(
    models: Sequence[str],
    restored: Sequence[Path],
    index: Index,
    limit: int | None,
    protocol: Protocol,
    degradation: str | None,
    size: int | None,
    instruments: Instruments,
    seed: int,
    people: Sequence[str] | None,
    crop: Crop,
) -> Trial:
    """Load the methods and settle what the options leave open; `UserError` where they do not fit together."""
    for option, given, stated in (
        ("--degradation", degradation, protocol.degradation),
        ("--size", size, protocol.size),
    ):
        if None not in (given, stated) and given != stated:
            raise UserError(
                f"protocol {protocol.name} means {option} {stated}: leave {option} {given} out, or --protocol"
            )
    networks = [load_network(model, instruments.device) for model in models]
    degradation = degradation or protocol.degradation
    if not protocol.sharp and (degradation or restored):
        raise UserError(f"protocol {protocol.name} has no sharp faces: it takes neither --degradation nor --restored")
    if protocol.sharp and degradation is None and networks:
        degradation = degradation_for(networks)
    if len(protocol.conditions) > 1 and restored:
        raise UserError(
            f"protocol {protocol.name} changes the faces, and pictures in a folder cannot follow: no --restored"
        )
    largest = max((network.size for network in networks), default=None)
    common = size or protocol.size or largest or _side(index.items, crop)
    factor = factor_of(degradation) if degradation else None
    if factor and common % factor:
        raise UserError(f"{common}x{common} faces cannot be reduced {factor} times; choose another --size")
    floor = [Bicubic()] if degradation or not protocol.sharp else []
    pictures = [
        Pictures(label, Path(folder), index.items, common, size is not None, crop, limit)
        for label, folder in (labelled(str(folder)) for folder in restored)
    ]
    methods = [*floor, *networks, *pictures]
    if twice := [name for name, count in Counter(method.name for method in methods).items() if count > 1]:
        raise UserError(f"two methods are called {twice[0]}; name them apart: --model LABEL={twice[0]}")
    if taken := {SHARP, "degraded"}.intersection(method.name for method in methods):
        raise UserError(f"a method cannot be called {min(taken)}, which means another picture here; name it LABEL=...")
    return Trial(index.items[:limit], methods, common, degradation, instruments, protocol, seed, people, crop)


def _side(items: Sequence[Item], crop: Crop) -> int:
    """Side of the first face that can be read."""
    for item in items:
        try:
            height, width = item.picture().shape[:2]
        except UserError:
            continue
        return int(face_square(width, height, crop)[2])
    raise UserError(f"none of the {len(items)} pictures can be read, so there is nothing to score")


def inputs_of(data: Index, trial: Trial, models: Sequence[str], given: Sequence[Path | str | None]) -> Iterator[Path]:
    """Every file that is read: pictures, landmarks beside them, weights; `given` are files of the options, or words."""
    for item in data.items:
        yield Path(item.path)
        if file := known_file(item):
            yield file
    for method in trial.methods:
        if isinstance(method, Pictures):
            yield from (Path(item.path) for item in method.items.values())
    for source in models:
        weights = weights_file(labelled(source)[1])
        yield from (weights, weights.with_name(CONFIG))
    for file in filter(None, given):
        yield from (Path(file), Path(str(file).rpartition("=")[2]))  # of [KIND=]FILE


def main(
    model: Annotated[list[str], typer.Option(help="[LABEL=] name, folder, Hub id or .pth; repeatable.")] = [],  # noqa: B006
    data: Annotated[Path | None, typer.Option("--data", "--sharp", help="Folder of sharp faces.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Everything, with the values of each face.")] = None,
    restored: Annotated[list[Path], typer.Option(help="[LABEL=] folder of another program's faces; repeatable.")] = [],  # noqa: B006
    protocol: Annotated[str, typer.Option(help=f"One of {', '.join(PROTOCOLS)}.")] = "plain",
    degradation: Annotated[str | None, typer.Option(help="bicubic4, bicubic8, bicubic16 or blind.")] = None,
    size: Annotated[int | None, typer.Option(min=8, max=2048, help="Common side of the faces in px.")] = None,
    lpips: Annotated[Path | None, typer.Option(help="Weights of LPIPS with SqueezeNet.")] = None,
    landmarks: Annotated[str | None, typer.Option(help="68-point ONNX file, or fan.")] = None,
    identity: Annotated[str | None, typer.Option(help="sface, or [sface=|insightface=]ONNX file.")] = None,
    identities_by: Annotated[str | None, typer.Option("--identities", help='Who it is: "(.+)_", or "(.+)/".')] = None,
    detector: Annotated[Path | None, typer.Option(help="YuNet's file, for landmarks and identity.")] = None,
    fid: Annotated[bool, typer.Option("--fid", help="With the published Inception weights, downloaded.")] = False,
    inception: Annotated[Path | None, typer.Option(help="FID, with these weights from a file.")] = None,
    regions: Annotated[bool, typer.Option("--regions", help="PSNR of eyes, nose, mouth ...")] = False,
    rgb: Annotated[bool, typer.Option("--rgb", help="PSNR and SSIM on colours too.")] = False,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut Y to 8 bits like the released script.")] = False,
    crop: Annotated[Crop, typer.Option(help="centre: 178x218 and 160x160 pictures are not CelebA's.")] = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="The first N pictures only.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the bootstrap and of the robustness noise.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the rows beside --json.")] = False,
    html: Annotated[Path | None, typer.Option(help="Report that needs no network.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Table.")] = None,
    latex: Annotated[Path | None, typer.Option(help="Table.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="PNG of the faces side by side.")] = None,
    pictures: Annotated[int, typer.Option(min=1, help="Faces shown in --html and --sheet, at most.")] = 48,
) -> None:
    """Score models, bicubic and other programs' pictures on the same degraded faces."""
    chosen = find_protocol(protocol)
    if data is None or not (model or restored):
        raise UserError("--data DIR, the sharp faces, is needed, and one --model or --restored DIR at least")
    if resume and json_file is None:
        raise UserError("--resume goes on with the rows beside --json: give --json too")
    if not chosen.sharp and (lpips or landmarks or identity or fid or inception or regions or rgb):
        raise UserError(f"protocol {protocol} has no sharp faces to compare with: leave the reference metrics out")
    files = {"--json": json_file, "--html": html, "--markdown": markdown, "--latex": latex, "--sheet": sheet}
    targets = [(option, file) for option, file in files.items() if file]
    for _, file in targets:
        check_folder(file)
        check_outside(file, [data, *(Path(labelled(str(folder))[1]) for folder in restored)])
    check_targets(targets, [])
    state = process_state()
    index = index_pictures([data])
    people = identities([item.within for item in index.items], identities_by) if identities_by else None
    instruments = choose(lpips, landmarks, identity, detector, regions, rgb, truncate, state.device)
    trial = prepare(model, restored, index, limit, chosen, degradation, size, instruments, seed, people, crop)
    check_targets(targets, inputs_of(index, trial, model, [lpips, landmarks, identity, detector, inception]))
    names = [method.name for method in trial.methods]
    distances = InceptionDistances(names, inception, state.device) if fid or inception else None
    scored = index._replace(items=list(trial.items))
    found = evaluate(trial, scored, data.absolute().name, json_file, resume, distances)
    if found is not None:
        report, results = found
        print(tables.terminal(report))
        for file, text in ((markdown, tables.markdown), (latex, tables.latex)):
            if file:
                save_bytes(text(report).encode(), file)
        if sheet or html:
            from training import gallery  # here, because Plotly and Jinja are for the report only

            if sheet:
                images.save_png(gallery.contact_sheet(trial, pictures), sheet)
            if html:
                save_bytes(gallery.page(report, results, trial, pictures).encode(), html)
    if state.num_processes > 1:  # one that leaves first may abort, and its launcher then ends the one that still writes
        state.wait_for_everyone()
        state.destroy_process_group()


if __name__ == "__main__":
    run_command(main)
