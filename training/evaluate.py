"""The evaluator: models, bicubic and anyone's pictures, side by side on the same degraded faces.

    picture -> centre view -> sharp (S,S,3) -> condition, degradation -> degraded -> every method -> restored (S,S,3)
                                '--------------------------- instruments -------------------------------'
    -> Row per face -> Ledger on disk -> Results -> mean, interval, gain over bicubic -> terminal, Markdown, LaTeX, HTML
                                   '---> JSON, with every row

`python -m training.evaluate --model M [--model N ...] --data DIR`, or `--restored DIR --sharp DIR`. The same under
`accelerate launch` for several processes, or on a CPU `ACCELERATE_USE_CPU=true torchrun --nproc_per_node N -m ...`;
processes on several hosts need --json in a folder that all of them share.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from sparnet import images
from sparnet.checkpoints import weights_file
from sparnet.errors import UserError
from sparnet.files import check_folder, check_targets, save_bytes
from sparnet.folders import check_outside
from sparnet.hub import CONFIG
from training.command import run_command
from training.data import Crop, Index, Item, face_square, index_pictures
from training.evaluation import tables
from training.evaluation.comparison import Trial
from training.evaluation.frechet import InceptionDistances
from training.evaluation.identity import identities
from training.evaluation.judges import Judges, choose, known_file
from training.evaluation.ledger import SHARP
from training.evaluation.methods import Bicubic, Model, Pictures, labelled, load_network
from training.evaluation.protocols import PROTOCOLS, Protocol, factor_of, find_protocol
from training.evaluation.report import evaluate
from training.processes import device_of, process_state


def degradation_for(networks: Sequence[Model]) -> str:
    """What the networks were trained for; `UserError` if that is not the same."""
    made_for = {network.name: f"bicubic{network.factor}" if network.factor else "blind" for network in networks}
    if len(set(made_for.values())) > 1:
        needs = ", ".join(f"{name} for {degradation}" for name, degradation in made_for.items())
        raise UserError(f"The models are made for different degradations ({needs}); choose one by --degradation.")
    return next(iter(made_for.values()))


def settle(
    models: Sequence[str],
    restored: Sequence[Path],
    index: Index,
    limit: int | None,
    protocol: Protocol,
    degradation: str | None,
    size: int | None,
    judges: Judges,
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
                f"Protocol {protocol.name} means {option} {stated}: leave {option} {given} out, or --protocol."
            )
    networks = [load_network(model, judges.device) for model in models]
    degradation = degradation or protocol.degradation
    if not protocol.sharp and (degradation or restored):
        raise UserError(f"Protocol {protocol.name} has no sharp faces: it takes neither --degradation nor --restored.")
    if protocol.sharp and degradation is None and networks:
        degradation = degradation_for(networks)
    if len(protocol.conditions) > 1 and restored:
        raise UserError(
            f"Protocol {protocol.name} changes the faces, and pictures in a folder cannot follow: no --restored."
        )
    largest = max((network.size for network in networks), default=None)
    common = size or protocol.size or largest or _side(index.items, crop)
    factor = factor_of(degradation) if degradation else None
    if factor and common % factor:
        raise UserError(f"{common}x{common} faces cannot be reduced {factor} times; choose another --size.")
    floor = [Bicubic()] if degradation or not protocol.sharp else []
    pictures = [
        Pictures(label, Path(folder), index.items, common, size is not None, crop, limit)
        for label, folder in (labelled(str(folder)) for folder in restored)
    ]
    methods = [*floor, *networks, *pictures]
    if twice := [name for name, count in Counter(method.name for method in methods).items() if count > 1]:
        raise UserError(f"Two methods are called {twice[0]}; name them apart: --model LABEL={twice[0]}.")
    if taken := {SHARP, "degraded"}.intersection(method.name for method in methods):
        raise UserError(f"A method cannot be called {min(taken)}, which means another picture here; name it LABEL=...")
    return Trial(index.items[:limit], methods, common, degradation, judges, protocol, seed, people, crop)


def _side(items: Sequence[Item], crop: Crop) -> int:
    """Side of the first face that can be read."""
    for item in items:
        try:
            return int(face_square(item.picture(), crop)[2])
        except UserError:
            continue
    raise UserError(f"None of the {len(items)} pictures can be read, so there is nothing to score.")


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
    landmarks: Annotated[str | None, typer.Option(help="68-point ONNX file, or fan[=FILE of its weights].")] = None,
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
        raise UserError("--data DIR, the sharp faces, is needed, and one --model or --restored DIR at least.")
    if resume and json_file is None:
        raise UserError("--resume goes on with the rows beside --json: give --json too.")
    if not chosen.sharp and (lpips or landmarks or identity or fid or inception or regions or rgb):
        raise UserError(f"Protocol {protocol} has no sharp faces to compare with: leave the reference metrics out.")
    files = {"--json": json_file, "--html": html, "--markdown": markdown, "--latex": latex, "--sheet": sheet}
    targets = [(option, file) for option, file in files.items() if file]
    for _, file in targets:
        check_folder(file)
        check_outside(file, [data, *(Path(labelled(str(folder))[1]) for folder in restored)])
    check_targets(targets, [])
    state = process_state()
    device = device_of(state)
    index = index_pictures([data])
    people = identities([item.within for item in index.items], identities_by) if identities_by else None
    judges = choose(lpips, landmarks, identity, detector, regions, rgb, truncate, device)
    trial = settle(model, restored, index, limit, chosen, degradation, size, judges, seed, people, crop)
    check_targets(targets, inputs_of(index, trial, model, [lpips, landmarks, identity, detector, inception]))
    names = [method.name for method in trial.methods]
    distances = InceptionDistances(names, inception, device) if fid or inception else None
    scored = index._replace(items=list(trial.items))
    found = evaluate(trial, scored, data.absolute().name, json_file, resume, distances)
    if found is not None:
        report, results = found
        print(tables.terminal(report))
        for file, text in ((markdown, tables.markdown), (latex, tables.latex)):
            if file:
                save_bytes(text(report).encode(), file)
        if sheet or html:
            from training.evaluation import gallery  # here, because Plotly and Jinja are for the report only

            if sheet:
                images.save_png(gallery.contact_sheet(trial, pictures), sheet)
            if html:
                save_bytes(gallery.page(report, results, trial, pictures).encode(), html)
    if state.num_processes > 1:  # one that leaves first may abort, and its launcher then ends the one that still writes
        state.wait_for_everyone()
        state.destroy_process_group()


if __name__ == "__main__":
    run_command(main)
