"""The command line.

    python -m sparnet restore IN OUT    photo -> PNG with its faces restored; folder -> folder
    python -m sparnet models            what there is, what it is worth, where it is from
    python -m sparnet fetch MODEL       the authors' weights, or a Hub repo's, after showing their licence
    python -m sparnet convert | card | publish      released .pth -> our format, its measured scores -> the Hub
    python -m sparnet export            model -> ONNX

Exit 0 when done, 2 after one line on stderr when the user can put something right.
"""

import re
import sys
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from traceback import format_exception
from typing import Annotated, Literal

import httpx2
import numpy as np
import typer
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from tqdm import tqdm

from sparnet import command, images
from sparnet import fetch as fetching
from sparnet.card import licence_in, write_scores
from sparnet.checkpoints import DEFAULT_MODEL, MODELS, REMEDY, is_repo_id, load_model
from sparnet.command import Device, ModelName, Revision, Simulate, Whole, Yunet
from sparnet.engine import ENGINES, engine_for
from sparnet.errors import UserError
from sparnet.export import OPSET, TOLERANCE, export_onnx
from sparnet.faces import find_detector
from sparnet.files import (
    check_folder,
    check_name,
    check_targets,
    make_folder,
    plain_name,
    save_bytes,
    sha256_of,
    unique_names,
)
from sparnet.folders import pictures_in
from sparnet.hub import CONFIG, UNFINISHED, WEIGHTS
from sparnet.processes import Process
from sparnet.restorer import Box, Mode, Restoration, Restorer, disclaimer, mode_of
from sparnet.text import first_line, listed, plain

app = command.command_line(
    help="Restore faces with SPARNet and see the attention that did it.",
    no_args_is_help=True,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    command.run(app, arguments)


@app.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A photo, or a folder of photos.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The .png to write, or a folder for a folder.")],
    model: ModelName = DEFAULT_MODEL,
    attention: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write each face's attention: atlas PNG and raw NPZ.")
    ] = None,
    simulate: Simulate = None,
    whole: Whole = False,
    box: Annotated[
        list[str] | None, typer.Option(metavar="X1,Y1,X2,Y2", help="Where a face is, instead of searching; repeatable.")
    ] = None,
    yunet: Yunet = None,
    device: Device = None,
    revision: Revision = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on: leave out photos whose result is in OUT.")] = False,
    engine: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(ENGINES)}; without it auto, of a single photo torch.")
    ] = None,
) -> None:
    """Restore every face of a photo, or of all photos of a folder.

    Under `torchrun` or `accelerate launch` the processes share a folder's photos among them.
    """
    if whole and box:
        raise UserError("--whole and --box exclude each other: give one of them.")
    if not source.exists():
        raise UserError(f"There is no {source}.")
    if box and source.is_dir():
        raise UserError("--box is for one photo, not for a folder.")
    many, process = source.is_dir(), Process.of_environment()
    pairs = _pairs(source, target)
    inputs, failed = [photo for photo, _ in pairs], []
    pairs = process.share(pairs)
    photos = len(pairs)
    folders = [folder for folder in (attention, target if many else None) if folder is not None]
    for folder in folders:
        check_name(folder)
    if many:
        pairs = [pair for pair in pairs if _fits(*pair, attention, failed)]
    check_targets(_targets(pairs, attention), inputs)
    faces = "whole" if whole else [_parse_box(text) for text in box] if box else None
    mode = mode_of(simulate)

    device = device or process.device()
    network = load_model(model, device, revision)
    if attention is not None and network.config.attention == "none":
        raise UserError(f"{model} has no attention maps to write: leave --attention out, or choose another model.")
    engine = engine or ("auto" if many else "torch")  # to compile takes longer than a photo
    run = engine_for(network, engine)
    restorer = Restorer(network, find_detector(yunet) if yunet else None, engine)
    print(f"Model {plain(model)} on {device} by {run}.{f' {run.note}' if run.note else ''}")
    for folder in folders:
        make_folder(folder)
    with process.together():
        if resume:
            pairs = [pair for pair in pairs if not pair[1].exists()]
        for photo, out in tqdm(pairs, unit="photo", disable=not many or process.number > 0):
            try:
                summary = _restore(restorer, photo, out, mode, faces, attention, model)
            except Exception as error:
                if not many:
                    raise
                _fail(photo, error, failed)
            else:
                tqdm.write(summary)
    if failed:
        raise UserError(f"{len(failed)} of {photos} photos could not be restored: {listed(failed, 20)}.")


def _restore(
    restorer: Restorer,
    photo: Path,
    out: Path,
    mode: Mode | None,
    faces: Literal["whole"] | Sequence[Box] | None,
    attention: Path | None,
    model: str,
) -> str:
    """Restore a photo and tell about it. Its result is written last: where that is, all is."""
    started = time.perf_counter()
    given = images.load_photo(photo)
    result = restorer(given.pixels, mode, faces)
    seconds = time.perf_counter() - started
    if result.failed and not result.faces:
        raise UserError(" ".join(result.notes))
    if attention is not None:
        from sparnet.attention import face_atlas, maps_npz  # here, because nothing else needs Matplotlib

        for i, face in enumerate(result.faces, 1):
            raw, atlas = _attention_files(attention, out, i)
            save_bytes(maps_npz(face.alphas), raw)
            save_bytes(face_atlas(face, f"{photo.name}, face {i}, {model}"), atlas)
    images.save_png(result.photo, out, given.alpha, disclaimer(model) if result.faces else None)
    return _summary(photo, out, result, seconds, given.notes)


@app.command()
def models() -> None:
    """Print the models that can be named, with their scores, licences and where the weights are."""
    wide = 2 + max(map(len, MODELS))
    print(f"{'name':<{wide}}{'face':<10}{'attention':<11}{'units':<7}{'params':<9}restores")
    for entry in MODELS.values():
        config = entry.config
        kind = f"faces of {config.degraded_size}x{config.degraded_size}" if config.degraded_size else "any degradation"
        size = f"{config.size}x{config.size}"
        millions = f"{entry.parameters / 1e6:.2f} M"
        print(f"{entry.name:<{wide}}{size:<10}{config.attention:<11}{len(config.units()):<7}{millions:<9}{kind}")
        present = entry.weights.is_file()
        weights = str(entry.path) if present else f"not here; `python -m sparnet fetch {entry.name}` downloads them"
        if entry.bundled and not present:
            weights = f"{entry.path} is missing; {REMEDY}"
        lines = {"score": entry.scores, "licence": entry.licence, "weights": weights, "note": entry.note}
        for label, text in lines.items():
            if text:
                print(f"    {label + ':':<10}{text}")


@app.command()
def fetch(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name of `models`, or a Hub repo, owner/name.")],
    revision: Revision = None,
    yes: Annotated[bool, typer.Option("--yes", help="Accept the licence and do not ask.")] = False,
) -> None:
    """Download weights that are not bundled, after showing their licence; resumes what was interrupted."""
    print(f"{plain(model)}")
    for label, text in fetching.terms(model, revision).items():
        print(f"    {label + ':':<10}{plain(text)}")
    entry = MODELS.get(model)
    here = entry is not None and (entry.bundled or entry.weights.is_file())
    if not here and not yes and not typer.confirm("Accept this licence and download?"):
        raise UserError("Nothing was downloaded.")
    file = fetching.fetch(model, revision)
    print(f"    file:     {plain(str(file))}\n    sha256:   {sha256_of(file)}")
    print(f"`--model {plain(model)}` uses it, without a network too.")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="A released .pth, or anything else `restore` loads.")],
    target: Annotated[Path, typer.Argument(metavar="OUTDIR", help="The folder to write.")],
    half: Annotated[bool, typer.Option("--half", help="Store float16, half the size; loaded as float32.")] = False,
) -> None:
    """Write a model as safetensors and config.json, the format that `publish` uploads."""
    if any((target / name).exists() for name in (CONFIG, WEIGHTS)):
        raise UserError(f"{target} holds a model already, which is not overwritten. Choose another folder.")
    model = load_model(source)
    if half:
        model.half()
        if not all(value.isfinite().all() for value in model.state_dict().values()):
            raise UserError(f"{source} has values that float16 cannot hold. Convert it without --half.")
    make_folder(target)
    card = Path(source) / "README.md"
    try:
        if card.is_file() and not (target / card.name).exists():
            (target / "README.md").write_bytes(card.read_bytes())
        model.save_pretrained(target)
        (target / WEIGHTS).chmod((target / CONFIG).stat().st_mode)  # safetensors makes it private
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror or error}.") from error
    print(f"{plain(str(target))}: {model.config}")
    print("Converting does not change the licence of the weights: the authors' are CC BY-NC-SA 4.0, non-commercial.")


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A name of `models`, folder, released .pth or Hub repo.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The file to write.")],
    revision: Revision = None,
) -> None:
    """Write a model as ONNX: a face goes in, the restored one and every attention map come out, each by its name."""
    if target.suffix.lower() != ".onnx":
        raise UserError(f"OUT is {target}; it must end in .onnx.")
    check_folder(target)
    check_targets([("the exported model", target)], [])
    network = load_model(model, "cpu", revision)
    if model in MODELS or is_repo_id(model):
        licence = fetching.terms(model, revision)["licence"]
    else:
        licence = licence_in(Path(model)) or "that of the weights, which neither their file nor a card beside it states"
    names = export_onnx(network, target, plain(model), licence)
    side = network.config.size
    print(f"{plain(str(target))}: ONNX opset {OPSET}; face (batch, 3, {side}, {side}), RGB in -1..1")
    print(f"    -> {', '.join(names)}")
    print(f"In ONNX Runtime the same numbers to {TOLERANCE:g}. Licence: {licence}.")


@app.command()
def card(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A model's folder with its card, README.md.")],
    measured: Annotated[list[Path], typer.Argument(metavar="JSON...", help="Of `evaluate --json`, of these weights.")],
) -> None:
    """Write measured scores into a model card, where the Hub looks for them; those that it had go."""
    for result in write_scores(folder, measured):
        print(f"{result.dataset_name}: {result.metric_name} {result.metric_value}")


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder as `convert` or the trainer writes it.")],
    repo: Annotated[str, typer.Option(help="user/name on the Hub.")],
    private: Annotated[bool, typer.Option("--private", help="Only you can see it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first.")] = False,
) -> None:
    """Upload a model to the Hugging Face Hub, after checking that it loads."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.")
    config = load_model(folder).config
    files = [folder / name for name in (CONFIG, WEIGHTS, "README.md") if (folder / name).is_file()]
    print(f"{'Private' if private else 'Public'} repo {plain(repo)}: {config}")
    for file in files:
        print(f"    {file.name:<20}{file.stat().st_size / 1e6:.2f} MB")
    if len(files) < 3 or UNFINISHED.encode() in files[-1].read_bytes():
        raise UserError(f"{folder / 'README.md'} is missing or unfinished. Say there: data, scores, limits, licence.")
    if get_token() is None:
        raise UserError("There is no Hub token. Log in with `hf auth login`, or set HF_TOKEN, and try again.")
    if not yes and not typer.confirm("Upload?"):
        raise UserError("Nothing was uploaded.")
    try:
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=[file.name for file in files])
    except (HFValidationError, OSError, httpx2.TransportError) as error:
        raise UserError(
            f"The Hub did not take {repo}: {first_line(error)}. Check the name, the token and the network."
        ) from error
    print(f"Published: {commit.commit_url}")


def _pairs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Each photo, and the file that its result is written to."""
    if not source.is_dir():
        if target.suffix.lower() != ".png":
            raise UserError(f"OUT is {target}; it must end in .png, because the result is written without loss.")
        check_folder(target)
        return [(source, target)]
    if target.resolve() == source.resolve():
        raise UserError(f"OUT is IN, {source}; give another folder, photos are not overwritten.")
    photos = pictures_in(source)
    return [(photo, target / f"{name}.png") for photo, name in zip(photos, unique_names(photos), strict=True)]


def _targets(pairs: Sequence[tuple[Path, Path]], attention: Path | None) -> list[tuple[str, Path]]:
    """All that may be written. How many faces there are is not known yet: those by whose files a photo is called."""
    targets = [(f"the result of {photo.name}", out) for photo, out in pairs]
    if attention is None:
        return targets
    numbers = {plain_name(out.stem): {1} for _, out in pairs}
    for path in chain.from_iterable(pairs):
        if match := re.fullmatch(r"(.+)_face(\d+)\.(npz|png)", path.name, re.IGNORECASE):
            numbers.get(plain_name(match[1]), set()).add(int(match[2]))
    return targets + [
        (f"the attention of {photo.name}", file)
        for photo, out in pairs
        for number in numbers[plain_name(out.stem)]
        for file in _attention_files(attention, out, number)
    ]


def _attention_files(attention: Path, out: Path, number: int) -> tuple[Path, Path]:
    """For the raw maps (C,h,w) float32 by unit, and for the atlas, of a face of the photo that is written as `out`."""
    return attention / f"{out.stem}_face{number}.npz", attention / f"{out.stem}_face{number}.png"


def _fits(photo: Path, out: Path, attention: Path | None, failed: list[str]) -> bool:
    """Whether the files of this photo can have their names; if not, it is told and has failed."""
    try:
        check_name(out)
        if attention is not None:
            check_name(_attention_files(attention, out, 10)[0])
    except UserError as error:
        _fail(photo, error, failed)
        return False
    return True


def _fail(photo: Path, error: Exception, failed: list[str]) -> None:
    """Tell why a photo of a folder is left out; the others go on. A bug has its traceback."""
    failed.append(photo.name)
    reason = str(error) if isinstance(error, UserError) else "".join(format_exception(error))
    tqdm.write(plain(photo.name) + ": " + plain(reason, keep="\n"), file=sys.stderr)


def _parse_box(text: str) -> list[float]:
    try:
        box = [float(number) for number in text.split(",")]
    except ValueError:
        box = []
    if len(box) != 4 or not np.isfinite(box).all():
        raise UserError(f"--box is {text!r}; give four numbers, left,top,right,bottom in pixels, as in 40,30,120,140.")
    return box


def _summary(photo: Path, out: Path, result: Restoration, seconds: float, notes: Sequence[str]) -> str:
    faces = f"{len(result.faces)} face{'s' * (len(result.faces) != 1)} restored"
    lines = [f"{plain(str(photo))} -> {plain(str(out))}: {faces} in {seconds:.2f} s; detector: {result.detector}"]
    for i, face in enumerate(result.faces, 1):
        box = ", ".join(f"{value:.0f}" for value in face.face.box)
        kind = "as it is" if face.degraded is face.crop else "reduced first, as in training"
        lines.append(f"    face {i}: box {box}; {kind}")
    return "\n".join(lines + [f"    {plain(note)}" for note in (*notes, *result.notes)])
