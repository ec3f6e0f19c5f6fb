"""A model card's front matter, where the Hub looks for the licence and the measured scores.

evaluator's JSON -> the method that ran this folder's weights -> model-index: a result for each score
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from sparnet.errors import UserError
from sparnet.files import save_bytes, sha256_of
from sparnet.hub import WEIGHTS, licence_of

CARD = "README.md"
NAMES = {  # of the evaluator's scores
    "psnr": "PSNR on Y, dB",
    "ssim": "SSIM on Y",
    "lpips": "LPIPS",
    "nrmse": "landmark NRMSE",
    "landmark_auc": "landmark AUC",
    "landmark_failed": "landmark failures",
    "identity": "identity, cosine",
    "fid": "FID",
}


def write_scores(folder: Path, measured: Sequence[Path]) -> list[EvalResult]:
    """Replace the results in the folder's model card by those of the evaluator's JSON files; -> the results.

    `UserError` if a file holds none of exactly these weights, or there is no card.
    """
    file = folder / CARD
    if not file.is_file():
        raise UserError(f"{folder} has no {CARD} to write the scores into. Write the model card first.")
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} has no {WEIGHTS}, so it is unknown whose scores these are.")
    digest = sha256_of(folder / WEIGHTS)
    results = [result for path in measured for result in _results(path, digest)]
    card, data = _read(file)
    data.model_name, data.eval_results = folder.resolve().name, results
    save_bytes(str(card).encode(), file)
    return results


def licence_in(folder: Path) -> str | None:
    """The licence that the card of a model's folder states; None: none. `UserError` if the card cannot be read."""
    file = folder / CARD
    return licence_of(_read(file)[1]) if file.is_file() else None


def _read(file: Path) -> tuple[ModelCard, ModelCardData]:
    try:
        card = ModelCard(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"The front matter of {file} cannot be read ({reason}). Correct or remove it.") from error
    return card, cast(ModelCardData, card.data)


def _results(path: Path, digest: str) -> Iterator[EvalResult]:
    """One for each score that the file has of the method with these weights."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        method = next((name for name, about in found["methods"].items() if about.get("sha256") == digest), None)
        data, line, scores = found["data"], found["protocol"]["line"], found["scores"].get(method, {})
        name, revision = f"{data['name']}: {line}", data["sha256"]  # which keep apart what is of several sets
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not what `python -m training.evaluate --json` writes ({error}).") from error
    if not scores:
        raise UserError(f"{path} has no scores of the weights with SHA-256 {digest}. Measure these weights first.")
    for key, score in scores.items():
        if score["mean"] is None:  # the evaluator could not measure it
            continue
        ends = "" if score["low"] is None else " (95 % interval {low:.4g} to {high:.4g}, {n} faces)".format(**score)
        yield EvalResult(
            task_type="image-to-image",
            task_name="face restoration",
            dataset_type="imagefolder",
            dataset_name=name,
            dataset_config=line,
            dataset_revision=revision,
            metric_type=key,
            metric_name=f"{NAMES.get(key, key)}{ends}",
            metric_value=round(score["mean"], 4),
        )
