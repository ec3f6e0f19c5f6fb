"""A network as an ONNX file, for whatever else runs networks.

model -> folded -> graph: face -> restored, alpha.UNIT ... -> metadata -> the same in ONNX Runtime? -> file
"""

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from sparnet.checkpoints import fingerprint
from sparnet.errors import UserError
from sparnet.files import save_bytes
from sparnet.folding import outputs_of, traceable
from sparnet.model import SPARNet

OPSET = 18
TOLERANCE = 1e-4  # of the restored face in -1..1 and of every alpha in 0..1
MAX_BYTES = 2_000_000_000  # of a protobuf message


def export_onnx(model: SPARNet, file: Path, name: str, licence: str) -> list[str]:
    """Write the model, on the CPU and in float32, and return the names of the outputs; a batch of any size goes in.

    The metadata hold name, licence, the SHA-256 of the weights and the configuration. `UserError` where onnx and
    onnxruntime are missing, the file cannot be written, or ONNX Runtime computes something else.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"To export takes onnx and onnxruntime ({error}): `pip install 'face-sparnet-attention[onnx]'`."
        ) from error
    if sum(4 * weight.numel() for weight in model.parameters()) > MAX_BYTES:
        raise UserError(f"{name} is larger than the {MAX_BYTES / 1e9:g} GB that an ONNX file can hold.")
    names = ["restored", *(f"alpha.{plan.name}" for plan in model.config.units() if plan.attention != "none")]
    faces = torch.rand(2, 3, model.config.size, model.config.size) * 2 - 1
    with TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"), torch.no_grad():
        plain = Path(folder) / "plain.onnx"
        torch.onnx.export(
            traceable(model), (faces[:1],), plain, dynamo=False, opset_version=OPSET, input_names=["face"],
            output_names=names, dynamic_axes={tensor: {0: "batch"} for tensor in ("face", *names)},
        )  # fmt: skip  # not by dynamo, which takes another package and ten times as long
        graph = onnx.load(plain)
        expected = outputs_of(model, faces)
    config = json.dumps(asdict(model.config))
    facts = {"name": name, "licence": licence, "weights_sha256": fingerprint(model), "config": config}
    onnx.helper.set_model_props(graph, facts)
    onnx.checker.check_model(graph)
    data = graph.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for output, computed, exact in zip(names, session.run(names, {"face": faces.numpy()}), expected, strict=True):
        if not (error := (torch.from_numpy(computed) - exact).abs().max().item()) <= TOLERANCE:
            raise UserError(f"ONNX Runtime computes another {output}, up to {error:.2g} off; nothing was written.")
    save_bytes(data, file)
    return names
