"""The exported network in ONNX Runtime, against the model itself."""

import json
import sys

import onnx
import onnxruntime
import pytest
import torch
from made_up import random_faces
from test_engine import network

from sparnet import cli, export, load_model
from sparnet.checkpoints import MODELS, fingerprint
from sparnet.errors import UserError
from sparnet.export import export_onnx


@pytest.mark.parametrize("attention", ["3d", "2d+channel"])
def test_an_exported_network_gives_the_models_numbers_by_their_names_and_says_what_it_is(attention, tmp_path):
    model, file = network(attention=attention, norm="instance"), tmp_path / "model.onnx"
    names = export_onnx(model, file, "mine", "CC0")
    assert names == ["restored", *(f"alpha.{plan.name}" for plan in model.config.units())]
    faces = random_faces(3, model.config.size)
    exact = model.trace(faces)
    outputs = onnxruntime.InferenceSession(file).run(names, {"face": faces.numpy()})
    for output, expected in zip(outputs, [exact.restored, *exact.alphas.values()], strict=True):
        torch.testing.assert_close(torch.from_numpy(output), expected.detach(), atol=1e-4, rtol=0)
    graph = onnx.load(file)
    facts = {entry.key: entry.value for entry in graph.metadata_props}
    assert (facts["name"], facts["licence"], facts["weights_sha256"]) == ("mine", "CC0", fingerprint(model))
    assert json.loads(facts["config"])["attention"] == attention
    assert [opset.version for opset in graph.opset_import if not opset.domain] == [export.OPSET]


def test_the_command_exports_a_model_of_the_table_with_its_licence(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", "sparnet-tiny", str(tmp_path / "tiny.onnx")])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "opset 18" in out
    assert "alpha.decoder.2" in out
    assert MODELS["sparnet-tiny"].licence in out
    face, model = random_faces(1, 128), load_model("sparnet-tiny")
    (restored,) = onnxruntime.InferenceSession(tmp_path / "tiny.onnx").run(["restored"], {"face": face.numpy()})
    torch.testing.assert_close(torch.from_numpy(restored), model(face).detach(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: cc0-1.0\n---\n# Mine\n", "cc0-1.0"),
        ("---\nlicense: other\nlicense_name: my-own\n---\n# Mine\n", "my-own"),
        ("---\nlibrary_name: sparnet\n---\n# Mine\n", "which neither their file nor a card beside it states"),
        (None, "which neither their file nor a card beside it states"),
    ],
)
def test_the_licence_of_a_folder_is_what_its_card_states(tmp_path, capsys, card, licence):
    network().save_pretrained(tmp_path / "mine")
    (tmp_path / "mine" / "README.md").unlink()
    if card is not None:
        (tmp_path / "mine" / "README.md").write_text(card)
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", str(tmp_path / "mine"), str(tmp_path / "mine.onnx")])
    assert ended.value.code == 0, capsys.readouterr().err
    assert f"{licence}." in capsys.readouterr().out
    stated = {entry.key: entry.value for entry in onnx.load(tmp_path / "mine.onnx").metadata_props}["licence"]
    assert stated.endswith(licence)


def test_without_onnx_or_with_other_numbers_nothing_is_written_and_the_user_is_told(tmp_path, monkeypatch):
    file = tmp_path / "model.onnx"
    with monkeypatch.context() as patch:
        patch.setattr(export, "outputs_of", lambda model, faces: [faces] * 5)
        with pytest.raises(UserError, match=r"computes another \S+, up to .* off"):
            export_onnx(network(), file, "mine", "CC0")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'face-sparnet-attention\[onnx\]'"):
        export_onnx(network(), file, "mine", "CC0")
    assert not file.exists()
