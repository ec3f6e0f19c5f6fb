"""Scores that were measured, in a model card's front matter as the Hub reads it."""

import json
from hashlib import sha256

import pytest
from huggingface_hub import ModelCard

from sparnet.card import licence_in, write_scores
from sparnet.checkpoints import MODELS
from sparnet.errors import UserError


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "mine"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "README.md").write_text("---\nlicense: other\n---\n\n# Mine\n\nAs measured: 27.03 dB.\n")
    return path


def measured(path, data: str, digest: str, **scores):
    """As `python -m training.evaluate --json` writes it."""
    content = {
        "protocol": {"line": "16x16 -> 128x128, bicubic"},
        "data": {"name": data, "sha256": sha256(data.encode()).hexdigest()},
        "methods": {"bicubic": {"kind": "bicubic"}, "my label": {"sha256": digest}},
        "scores": {
            "bicubic": {"psnr": {"mean": 24.0, "low": 23.0, "high": 25.0, "n": 9}},
            "my label": {
                key: {"mean": mean, "low": mean - 1, "high": mean + 1, "n": 9} for key, mean in scores.items()
            },
        },
    }
    file = path / f"{data}.json"
    file.write_text(json.dumps(content))
    return file


def test_scores_of_these_weights_and_no_others_are_in_the_card_and_its_text_stays(folder, tmp_path):
    digest = sha256(b"weights").hexdigest()
    files = [
        measured(tmp_path, "celeba", digest, psnr=27.03017, ssim=0.77542),
        measured(tmp_path, "helen", digest, psnr=25.6112),
    ]
    write_scores(folder, files[:1])
    write_scores(folder, files)  # in place of the first
    card = ModelCard.load(folder / "README.md")
    assert card.text.strip() == "# Mine\n\nAs measured: 27.03 dB."
    assert card.data.license == "other"
    (index,) = card.data.to_dict()["model-index"]
    assert index["name"] == "mine"
    found = {
        (result["dataset"]["name"].split(":")[0], metric["type"]): (metric["value"], metric["name"])
        for result in index["results"]
        for metric in result["metrics"]
    }
    assert found == {
        ("celeba", "psnr"): (27.0302, "PSNR on Y, dB (95 % interval 26.03 to 28.03, 9 faces)"),
        ("celeba", "ssim"): (0.7754, "SSIM on Y (95 % interval -0.2246 to 1.775, 9 faces)"),
        ("helen", "psnr"): (25.6112, "PSNR on Y, dB (95 % interval 24.61 to 26.61, 9 faces)"),
    }


def test_scores_of_other_weights_and_what_is_no_measurement_are_refused(folder, tmp_path):
    before = (folder / "README.md").read_text()
    other = measured(tmp_path, "celeba", "0" * 64, psnr=99.0)
    with pytest.raises(UserError, match="no scores of the weights"):
        write_scores(folder, [other])
    other.write_text("[]")
    with pytest.raises(UserError, match=r"is not what `python -m training.evaluate --json` writes"):
        write_scores(folder, [other])
    assert (folder / "README.md").read_text() == before
    (folder / "README.md").unlink()
    with pytest.raises(UserError, match="Write the model card first"):
        write_scores(folder, [other])


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if entry.bundled])
def test_a_bundled_card_states_to_the_hub_what_its_text_says(name):
    card = ModelCard.load(MODELS[name].path / "README.md")
    (index,) = card.data.to_dict()["model-index"]
    metrics = [metric for result in index["results"] for metric in result["metrics"]]
    assert {metric["type"] for metric in metrics} >= {"psnr", "ssim"}
    for metric in metrics:
        assert any(f"{metric['value']:.{digits}f}" in card.text for digits in (2, 3, 4)), metric


@pytest.mark.parametrize("matter", ["[a list]", "license: [never closed"])
def test_a_card_whose_front_matter_is_broken_is_named_and_left_as_it_is(folder, tmp_path, matter):
    text = f"---\n{matter}\n---\n# Mine\n"
    (folder / "README.md").write_text(text)
    result = measured(tmp_path, "celeba", sha256(b"weights").hexdigest(), psnr=27.0)
    for call in (lambda: licence_in(folder), lambda: write_scores(folder, [result])):
        with pytest.raises(UserError, match=r"README\.md cannot be read .*Correct or remove it"):
            call()
    assert (folder / "README.md").read_text() == text
