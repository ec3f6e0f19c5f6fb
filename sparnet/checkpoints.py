"""The table of models, and the one way to load any of them.

    name -> MODELS ----> folder, or the authors' .pth if you have it --+
    folder, Hub repo id -> config.json + model.safetensors (sparnet.hub) +-> SPARNet, eval mode, on the device
    released .pth -> convert_released -> our names, config inferred ----+

The authors' weights are CC BY-NC-SA 4.0 (non-commercial) and are not bundled; sparnet.fetch gets them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from reprlib import repr as brief
from textwrap import shorten
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch
from huggingface_hub import constants
from torch import Tensor, nn

from sparnet.errors import UserError
from sparnet.files import sha256_of
from sparnet.hub import WEIGHTS, check_weights, fetch_model
from sparnet.limits import MAX_TENSORS, MAX_WEIGHTS_BYTES
from sparnet.model import SPARNet, SPARNetConfig, UnitPlan

_INSTALLED = Path(__file__).with_name("bundled")  # where a wheel puts checkpoints/, see pyproject.toml
BUNDLED = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1] / "checkpoints"
FETCHED = Path(constants.HF_HUB_CACHE).with_name("sparnet-released")  # where sparnet.fetch puts what is not bundled
REMEDY = "`git checkout -- checkpoints`, or installing again, restores it"  # a bundled file that is missing or changed
DEFAULT_MODEL = "sparnet-tiny"

_AUTHORS = "https://github.com/chaofengc/Face-SPARNet/releases/download/v0.1.0/"
_HELEN, _TESTN = "Helen 16x16 -> 128x128, PSNR / SSIM on Y", "CelebA-TestN 512x512, FID"


@dataclass(frozen=True)
class ModelEntry:
    """One model of the family: what it is, where it is from and how good it is."""

    name: str
    config: SPARNetConfig
    source: str  # "bundled", or the address of the authors' file
    licence: str  # of the weights
    scores: str  # with their protocol; "published" ones were not measured here
    sha256: str | None = None  # of the weights file; None: not known, so not checked
    note: str = ""

    @property
    def bundled(self) -> bool:
        return self.source == "bundled"

    @property
    def path(self) -> Path:
        """A folder of our format if bundled, otherwise the released .pth: put there by hand, or where `fetch` does."""
        if self.bundled:
            return BUNDLED / self.name
        name = self.source.rsplit("/", 1)[-1]
        by_hand = BUNDLED / "released" / name
        return by_hand if by_hand.is_file() else FETCHED / name

    @property
    def weights(self) -> Path:
        """The file that has to be there."""
        return self.path / WEIGHTS if self.bundled else self.path

    @property
    def parameters(self) -> int:
        """How many numbers are learned; none of them is allocated to count them."""
        with torch.device("meta"):
            return sum(weight.numel() for weight in SPARNet(self.config).parameters())


_LIGHT = SPARNetConfig(body_depth=1, attention="3d")
_HD = SPARNetConfig(size=512, smallest=32, max_channels=512, norm="instance", degraded_size=None)
_HD_3D = replace(_HD, attention="3d")

MODELS = {
    entry.name: entry
    for entry in (
        ModelEntry(
            "sparnet-tiny",
            SPARNetConfig(base_channels=16, min_channels=16, hourglass_channels=16, body_depth=6),
            "bundled",
            "non-commercial research, as the CelebA faces it was trained on",
            "27.29 dB / 0.784 (measured: 150 CelebA test faces, PSNR / SSIM on Y; bicubic 24.08 / 0.659)",
            sha256="960f1dccb8d6796522faae870af4fdca2554a7a045f9abf3d7f3f6319d91abca",
            note="trained by this project; made for CPUs and live video",
        ),
        ModelEntry(
            "sparnet-hd-light-256",
            replace(_HD, size=256, max_channels=128),
            "bundled",
            "non-commercial research, as the faces it was trained on",
            "LPIPS 0.217 / 28.70 dB (measured: 30 blindly degraded 256x256 faces; bicubic 0.354 / 28.55)",
            sha256="2a0d00530471dff893fe7bc045dffb160a16046478f4e5e669635e4bb208c9df",
            note="trained by this project; blindly degraded faces, 256x256",
        ),
        *(
            ModelEntry(name, config, _AUTHORS + file, "CC BY-NC-SA 4.0, non-commercial", f"{score} (published: {on})")
            for name, config, file, score, on in (
                ("sparnet", SPARNetConfig(), "SPARNet-V16-S4-epoch20.pth", "27.43 dB / 0.8201", _HELEN),
                ("sparnet-light-3d", _LIGHT, "SPARNetLight_Attn3D-epoch20.pth", "27.39 dB / 0.8189", _HELEN),
                ("sparnet-hd", _HD, "SPARNetHD_V4_Attn2D_net_H-epoch10.pth", "26.72", _TESTN),
                ("sparnet-hd-3d", _HD_3D, "SPARNetHD_V4_Attn3D_net_H-epoch10.pth", "28.42", _TESTN),
            )
        ),
    )
}


def load_model(source: str | Path, device: str | torch.device = "cpu", revision: str | None = None) -> SPARNet:
    """A model in eval mode on `device`; `UserError` says what to do where that cannot be.

    `source` is the first of these that fits: a name in `MODELS`; an existing folder with config.json and
    model.safetensors; an existing released .pth file; a Hub repo id, owner/name. Only a repo has a `revision`, best a
    commit hash: a branch may change under you. Every key must fit; nothing is read by running code.
    """
    device, name, path = _device(device), str(source), Path(source)
    if is_repo_id(name):
        return SPARNet.from_pretrained(name, revision=revision, map_location=device)
    if revision is not None:
        raise UserError(f"{name} is not a Hub repo and has no revision {revision!r}: leave revision out.")
    if name in MODELS:
        return load_entry(MODELS[name], _present(MODELS[name]), device)
    if name and path.is_dir():
        return SPARNet.from_pretrained(path, map_location=device)
    if path.suffix == ".pth" and path.is_file():
        return SPARNet.from_weights(*convert_released(read_released(path)), device, str(path))
    if path.is_file():
        raise UserError(
            f"{name} is not a released .pth file. For {WEIGHTS} give its folder, which has config.json too."
        )
    raise unknown_model(name)


def is_repo_id(name: str) -> bool:
    """Whether `load_model` takes it for owner/name on the Hub."""
    known = name in MODELS or Path(name).exists()
    return not known and re.fullmatch(r"[\w.-]+/[\w.-]+(?<!\.pth)", name) is not None


def unknown_model(name: str) -> UserError:
    return UserError(
        f"There is no model {name!r}. Known are {', '.join(MODELS)}; a folder, a .pth file or a Hub repo id "
        "(owner/name) would do as well."
    )


def weights_file(source: str, revision: str | None = None) -> Path:
    """The file that `load_model` has just read; of a Hub repo in its cache, in a folder named by the commit."""
    if source in MODELS:
        return MODELS[source].weights
    path = Path(source)
    if path.exists():
        return path / WEIGHTS if path.is_dir() else path
    return fetch_model(source, revision, local_files_only=True) / WEIGHTS


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of the weights: name, type, shape and bytes of every tensor, in the network's order."""
    digest = sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _present(entry: ModelEntry) -> Path:
    """The entry's weights file; `UserError` says how to get it if it is not here."""
    if entry.weights.is_file():
        return entry.weights
    if entry.bundled:
        raise UserError(f"{entry.weights}, a part of this project, is not there: {REMEDY}.")
    raise UserError(
        f"{entry.name} is the authors' model and is not bundled (licence: {entry.licence}). If that suits you, "
        f"`python -m sparnet fetch {entry.name}` downloads it; or save {entry.source} as {entry.path}."
    )


def load_entry(entry: ModelEntry, weights: Path, device: str | torch.device = "cpu") -> SPARNet:
    """The table's model from that file, in eval mode; `UserError` unless it is whole, of the known hash and shape."""
    if entry.sha256:
        actual = sha256_of(weights)
        if actual != entry.sha256:
            remedy = f"To put it right: {REMEDY}" if entry.bundled else f"Download it again from {entry.source}"
            raise UserError(
                f"{weights} is not the {entry.name} we know: SHA-256 {actual}, not {entry.sha256}. {remedy}."
            )
    if entry.bundled:
        model = SPARNet.from_pretrained(entry.path, map_location=device)
    else:
        model = SPARNet.from_weights(*convert_released(read_released(weights)), device, str(weights))
    if model.config != entry.config:
        raise UserError(f"{weights} holds another model than {entry.name}: {model.config}. Put the right file there.")
    return model


def _device(device: str | torch.device) -> torch.device:
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = shorten(str(error).split(". ")[0], 150, placeholder=" ...").rstrip(".")
        raise UserError(f"Device {str(device)!r} is not usable here ({reason}). Try 'cpu'.") from error
    if device.type == "meta":
        raise UserError("Device 'meta' holds no values. Try 'cpu'.")
    return device


def read_released(path: Path) -> dict[str, Tensor]:
    """The state dict in a .pth file, without running code from it; `UserError` says what else the file is."""
    _check_size(path)
    with path.open("rb") as file:
        start = file.read(512).lstrip()
    if not start:
        raise UserError(f"{path} is empty: the download failed. Fetch it again.")
    if start.startswith(b"<") or start.lower().startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a text or web page saved under that name, not weights. Fetch the file itself.")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make the reader fail in any way
        if wanted := re.search(r"GLOBAL (\S+) ", str(error)):
            raise UserError(
                f"{path} is refused: it is a pickle that wants to run code while loading ({wanted[1]}), "
                "and released weights hold tensors only. Get the state dict from a source you trust."
            ) from error
        reason = str(error).split("\n")[0]
        raise UserError(f"{path} is not a PyTorch file, or not a whole one ({reason}). Fetch it again.") from error
    return _state_dict(loaded, path)


def _state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    """`loaded` itself, or the only state dict in it: trainers put theirs beside step counts and optimizers."""

    def is_state(value: Any) -> bool:
        return isinstance(value, Mapping) and bool(value) and all(isinstance(v, Tensor) for v in value.values())

    if is_state(loaded):
        return _plain(loaded, path)
    nested = [key for key, value in loaded.items() if is_state(value)] if isinstance(loaded, Mapping) else []
    if len(nested) == 1:
        return _plain(loaded[nested[0]], path)
    if nested:
        raise UserError(
            f"{path} holds {len(nested)} state dicts ({', '.join(map(str, nested))}): save the one you mean by itself."
        )
    raise UserError(f"{path} holds a {type(loaded).__name__} without a state dict, so it is not a released model.")


def _check_size(path: Path) -> None:
    """`UserError` if the file, unpacked where it is a zip, is larger than weights can be."""
    size, names = path.stat().st_size, 0
    if is_zipfile(path):
        try:
            with ZipFile(path) as packed:
                entries = packed.infolist()
        except (BadZipFile, ValueError, NotImplementedError):
            entries = []  # PyTorch's reader says what is wrong with it
        size, names = max(size, sum(entry.file_size for entry in entries)), len(entries)
    if size > MAX_WEIGHTS_BYTES or names > MAX_TENSORS:
        raise UserError(
            f"{path} is larger than weights can be: {MAX_WEIGHTS_BYTES:,} bytes and {MAX_TENSORS:,} tensors are the "
            "most. Save the state dict by itself."
        )


def _plain(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The state dict, if its tensors are plain: dense, on the CPU, and neither too many nor too large."""
    if len(state) > MAX_TENSORS or sum(tensor.numel() * tensor.itemsize for tensor in state.values()) > (
        MAX_WEIGHTS_BYTES  # by their shapes: one number can be stored as a view of any size
    ):
        raise UserError(f"{path} holds more or larger tensors than any model of this project, so it is none of them.")
    for key, tensor in state.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise UserError(
                f"{path} holds no plain numbers for {brief(key)} ({tensor.device.type}, {tensor.layout}). "
                "Save the state dict of the model after it was loaded."
            )
    return dict(state)


def convert_released(state_dict: Mapping[str, Tensor], **known: Any) -> tuple[SPARNetConfig, dict[str, Tensor]]:
    """A state dict with the released names -> our config and state dict; pure; `UserError` names what does not fit.

    Spectral norm is folded, a `module.` prefix accepted. `known` are fields of the config that the weights cannot show
    and `infer_config` would guess, such as size=256, smallest=32 or norm="group".
    """
    state = _fold_spectral_norm(_without_prefix(state_dict))
    try:
        config = infer_config(state, **known)
        with torch.device("meta"):
            expected = SPARNet(config).state_dict()
    except (ValueError, TypeError) as error:
        raise UserError(f"These weights do not describe a SPARNet: {error}.") from error
    names = dict(_names(config))
    for theirs, ours in names.items():
        if ours.endswith("num_batches_tracked"):  # a count that inference ignores and old files lack
            state.setdefault(theirs, torch.tensor(0))
    check_weights({theirs: expected[ours] for theirs, ours in names.items()}, state, "the released state dict")
    return config, {ours: state[theirs] for theirs, ours in names.items()}


def infer_config(state: Mapping[str, Tensor], **known: Any) -> SPARNetConfig:
    """The config that released weights imply; what they cannot show is guessed as in the released files.

    Seen: the number of units, widths, hourglass depth (hence bottleneck) and width, attention, activation, batch norm.
    Guessed: `size`, `smallest` and `degraded_size`, as only their ratio shows (four scales without running statistics
    are SPARNetHD, anything else starts from a smallest map of 16); `norm`, instance if it keeps no running statistics,
    since group norm has the same keys; `min_channels`, 32 or the narrowest width, which act alike.
    """
    for key in ("encoder.0.conv2d.weight", "encoder.1.att_func.b2_plus_1.conv2d.weight"):
        if key not in state or state[key].ndim != 4:
            raise UserError(
                f"These weights have no convolution {key}, so they are not a released SPARNet generator; "
                f"they start with {', '.join(list(state)[:3]) or 'nothing'}."
            )
    scales = _count(state, r"encoder\.(\d+)\.") - 1
    widths = [tensor.shape[0] for key, tensor in state.items() if key.endswith("conv2.conv2d.weight")]
    stem = state["encoder.0.conv2d.weight"].shape[0]
    maps = [tensor.shape[0] for key, tensor in state.items() if key.endswith("att_func.out_block.0.conv2d.weight")]
    batch_norm = any(key.endswith("running_mean") for key in state)
    hd = scales == 4 and not batch_norm
    smallest = known.get("smallest", 32 if hd else 16)
    max_channels = max([stem, *widths])
    inferred = {
        "size": smallest << scales,
        "smallest": smallest,
        "min_channels": min([32, stem, *widths]),
        "max_channels": max_channels,
        "base_channels": None if stem == max_channels // (scales + 1) else stem,
        "body_depth": _count(state, r"res_layers\.(\d+)\.") - 3 + scales,
        "degraded_size": None if hd else 16,
        "attention": "2d" if set(maps) <= {1} else "3d",
        "bottleneck": 64 >> _count(state, r"encoder\.1\.att_func\.b1_(\d+)\."),
        "hourglass_channels": state["encoder.1.att_func.b2_plus_1.conv2d.weight"].shape[0],
        "norm": "batch" if batch_norm else "instance",
        "activation": "prelu" if any(key.endswith(".func.weight") for key in state) else "leaky_relu",
    }
    return SPARNetConfig(**inferred | known)


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for key in state if (match := re.match(pattern, key))})


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the `module.` of torch's DataParallel."""
    for key, value in state.items():
        if not isinstance(key, str):
            raise UserError(f"The key {brief(key)} is not a name: this is not a state dict.")
        if not isinstance(value, Tensor):
            raise UserError(f"{key} is a {type(value).__name__}, not a tensor: this is not a state dict.")
    if state and all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): tensor for key, tensor in state.items()}
    return dict(state)


def _fold_spectral_norm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """W = weight_orig / sigma, sigma = u . (weight_orig as (out, -1) @ v), in the place of the three."""
    folded = dict(state)
    for key in state:
        name = key.removesuffix("_orig")
        if name == key or not {f"{name}_u", f"{name}_v"} <= state.keys():
            continue  # a lone weight_orig stays and is reported as unknown
        weight, u, v = (folded.pop(f"{name}_{part}").float() for part in ("orig", "u", "v"))
        if weight.ndim != 4 or not weight.numel() or (u.shape, v.shape) != (weight.shape[:1], (weight[0].numel(),)):
            shapes = ", ".join(f"{part} {tuple(t.shape)}" for part, t in (("orig", weight), ("u", u), ("v", v)))
            raise UserError(f"The spectral norm of {name} does not fit together: {shapes}.")
        matrix = weight.flatten(1)
        folded[name] = weight / (u @ (matrix @ v))
    return folded


def _names(config: SPARNetConfig) -> Iterator[tuple[str, str]]:
    """(released name, our name) of every tensor of the model."""
    convolution = ("weight", "bias")
    for theirs, ours in [("encoder.0.conv2d", "stem"), ("out_conv.conv2d", "out")]:
        yield from ((f"{theirs}.{part}", f"{ours}.{part}") for part in convolution)
    for plan in config.units():
        part, index = plan.name.split(".")
        theirs = {"encoder": f"encoder.{int(index) + 1}", "body": f"res_layers.{index}"}.get(part, plan.name)
        for their_end, our_end in _unit_names(config, plan):
            yield f"{theirs}.{their_end}", f"{plan.name}.{our_end}"


def _unit_names(config: SPARNetConfig, plan: UnitPlan) -> Iterator[tuple[str, str]]:
    norm = ("weight", "bias")
    if config.norm == "batch":
        norm += ("running_mean", "running_var", "num_batches_tracked")

    def block(theirs: str, ours: str, activated: bool = True) -> Iterator[tuple[str, str]]:
        yield f"{theirs}.conv2d.weight", f"{ours}.convolution.weight"
        yield from ((f"{theirs}.norm.norm.{part}", f"{ours}.norm.{part}") for part in norm)
        if activated and config.activation == "prelu":
            yield f"{theirs}.relu.func.weight", f"{ours}.activation.weight"

    if plan.scale != "same" or plan.c_in != plan.c_out:
        yield from ((f"shortcut_func.conv2d.{part}", f"shortcut.{part}") for part in ("weight", "bias"))
    yield from ((f"preact_func.0.norm.{part}", f"norm.{part}") for part in norm)
    if config.activation == "prelu":
        yield "preact_func.1.func.weight", "activation.weight"
    yield from block("conv1", "conv1")
    yield from block("conv2", "conv2", activated=False)
    for i in range(plan.hourglass_depth):
        level = plan.hourglass_depth - i  # theirs count down to the smallest map
        yield from block(f"att_func.b1_{level}", f"hourglass.skip.{i}")
        yield from block(f"att_func.b2_{level}", f"hourglass.down.{i}")
        yield from block(f"att_func.b3_{level}", f"hourglass.up.{i}")
    yield from block("att_func.b2_plus_1", "hourglass.innermost")
    yield from ((f"att_func.out_block.0.conv2d.{part}", f"attention.{part}") for part in ("weight", "bias"))
