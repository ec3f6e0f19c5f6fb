"""How a network runs fast; the same numbers whichever runs it.

    SPARNet -> folded (folding.py)
        on a CPU  -> OpenVINO, compiled once and kept on disk; in bfloat16 where that is faster and loses nothing
        on a GPU  -> float16, channels last, a CUDA graph for each size of a batch
        otherwise -> PyTorch
    engine_for(model) -> run: run.name, run.precision; run(faces) -> Trace

What edits a network or differentiates it uses `SPARNet.trace` itself.
"""

import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import pairwise
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import skimage
import torch
from huggingface_hub import cached_assets_path
from torch import Tensor
from torch.nn.functional import mse_loss

from sparnet import model as networks
from sparnet.checkpoints import fingerprint
from sparnet.errors import UserError
from sparnet.files import save_bytes
from sparnet.folding import Outputs, folded, outputs_of, traceable
from sparnet.images import degrade, resize, to_tensor
from sparnet.model import SPARNet, Trace, check_face
from sparnet.threads import most_threads, use_free_cores

if TYPE_CHECKING:
    from openvino import CompiledModel, Core, Model

log = logging.getLogger(__name__)

ENGINES = ("auto", "openvino", "torch")
MAX_LOSS = 0.02  # dB of PSNR that rounding may cost
MAX_MOVED = 0.02  # of an attention map's 0..1, anywhere
FASTER = 0.8  # of float32's time, what bfloat16 has to stay below: where it pays it takes two thirds or less
TURNS = 7  # in which the two are timed
PRECISION = "INFERENCE_PRECISION_HINT"
PRECISIONS = {"f32": "float32", "bf16": "bfloat16"}  # by OpenVINO's names
KEPT_BYTES = 2_000_000_000  # of compiled networks on the disk; those that were not used for longest go first


@dataclass(frozen=True, eq=False)
class Engine:
    """A model, and what runs it in its place."""

    name: str
    precision: str  # of the multiplications
    outputs: Callable[[Tensor], Outputs] | None = None  # None: PyTorch runs the model as it is
    note: str | None = None  # a sentence for the user where it is not what was asked for
    model: SPARNet | None = None  # None only while it is kept: a model that nobody uses goes, and this with it

    def __str__(self) -> str:
        return f"{self.name}, {self.precision}"

    def __call__(self, faces: Tensor, features: bool = False) -> Trace:
        """What `model.trace(faces)` gives, without gradients; `features` are always PyTorch's. Errors as of `trace`."""
        assert self.model is not None
        use_free_cores()
        with torch.no_grad():
            if self.outputs is None or features:
                return self.model.trace(faces, features=features)
            check_face(self.model, faces)
            restored, *alphas = self.outputs(faces)
        names = [plan.name for plan in self.model.config.units() if plan.attention != "none"]
        return Trace(restored, dict(zip(names, alphas, strict=True)), None)


class Build:
    """An engine on its way for a model with these weights: `run` is None until it stands."""

    def __init__(self, model: SPARNet, engine: str):
        self.weights = [*model.parameters(), *model.buffers()]
        self.state, self.run = self.now(), None
        self.thread = threading.Thread(target=self.fill, args=(model, engine))
        self.thread.start()

    def now(self) -> list[tuple[int, int]]:
        """Another whenever a weight has another place or was written to."""
        return [(weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in self.weights]

    def fill(self, model: SPARNet, engine: str) -> None:
        """The best engine that can be had and gives the model's numbers."""
        device, note = self.weights[0].device.type, None
        build = {"cpu": openvino_engine, "cuda": graph_engine}.get(device) if engine != "torch" else None
        try:
            self.run = build(model, Witness(model)) if build else torch_engine(model)
        except Exception as error:  # a library that is missing, broken, or wrong on this machine
            log.warning("PyTorch runs the network", exc_info=error)
            name, reason = "OpenVINO" if device == "cpu" else "A CUDA graph", str(error).strip().split("\n")[0]
            note = f"{name} cannot run the network here ({reason}), so PyTorch does, more slowly."
            self.run = torch_engine(model, note)


_builds: WeakKeyDictionary[SPARNet, dict[str, Build]] = WeakKeyDictionary()
_lock = threading.Lock()


def engine_for(model: SPARNet, engine: str = "auto", background: bool = False) -> Engine:
    """What runs the model, built once and anew when its weights change; in the `background`, PyTorch runs it meanwhile.

    engine: "openvino", "torch", or "auto": what SPARNET_ENGINE says, without that the fastest here. A model that is in
    training, not in float32, on ZeroGPU, or that traces in its own way, runs as it is. `UserError` for another engine.
    """
    if engine == "auto":
        engine = os.environ.get("SPARNET_ENGINE", engine)
    if engine not in ENGINES:
        raise UserError(f"There is no engine {engine!r}. Choose one of {', '.join(ENGINES)}.")
    weight = next(model.parameters())
    plain = Engine("PyTorch", str(weight.dtype).removeprefix("torch."), model=model)
    lent = weight.device.type == "cuda" and "SPACES_ZERO_GPU" in os.environ  # to a worker that lives for one call
    if model.training or lent or weight.dtype != torch.float32 or type(model).trace is not SPARNet.trace:
        return plain
    with _lock:
        builds = _builds.setdefault(model, {})
        if engine not in builds or builds[engine].state != builds[engine].now():
            builds[engine] = Build(model, engine)
        build = builds[engine]
    if not background or weight.device.type != "cpu":
        build.thread.join()
    return replace(build.run, model=model) if build.run else plain


class Witness:
    """A face, and what the model itself makes of it."""

    def __init__(self, model: SPARNet):
        size, weight = model.config.size, next(model.parameters())
        sharp = resize(skimage.data.astronaut()[:256, 96:352], size)
        self.sharp = to_tensor(sharp).to(weight)
        self.face = to_tensor(degrade(sharp, model.config.degraded_size or size // 4)).to(weight)
        with torch.no_grad():
            self.restored, *self.alphas = outputs_of(model, self.face)

    def check(self, outputs: Callable[[Tensor], Outputs]) -> None:
        """`ArithmeticError` if an engine's answer is not the model's."""
        with torch.no_grad():
            restored, *alphas = outputs(self.face)
        loss = 10 * log10(mse_loss(restored, self.sharp) / mse_loss(self.restored, self.sharp))
        moved = max(((a - b).abs().max().item() for a, b in zip(alphas, self.alphas, strict=True)), default=0)
        if not (abs(loss) <= MAX_LOSS and moved <= MAX_MOVED):
            raise ArithmeticError(f"its answer is {loss:.3f} dB off and its maps up to {moved:.3f}")

    def time(self, *engines: Callable[[Tensor], Outputs]) -> list[float]:
        """How many seconds each takes for the face."""
        moments = [time.perf_counter()]
        for outputs in engines:
            outputs(self.face)
            moments.append(time.perf_counter())
        return [after - before for before, after in pairwise(moments)]


def torch_engine(model: SPARNet, note: str | None = None) -> Engine:
    """PyTorch, folded, channels last where the norms do not stand in the way."""
    network = folded(model)
    layout = torch.channels_last if model.config.norm == "batch" else torch.contiguous_format
    network.to(memory_format=layout)  # pyright: ignore[reportCallIssue]: PyTorch's types leave it out

    def outputs(faces: Tensor) -> Outputs:
        return [output.contiguous() for output in outputs_of(network, faces.contiguous(memory_format=layout))]

    return Engine("PyTorch, folded", "float32", outputs, note)


def graph_engine(model: SPARNet, witness: Witness) -> Engine:
    """CUDA graphs in float16; `ArithmeticError` if that cannot hold what the model computes."""
    graphs = Graphs(model)
    witness.check(graphs)
    return Engine("CUDA graphs", "float16", graphs)


class Graphs:
    """The folded network in float16, channels last, captured as one CUDA graph for each size of a batch."""

    def __init__(self, model: SPARNet):
        self.network = folded(model).half()
        self.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]: the same
        self.captured: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Outputs]] = {}
        self.lock = threading.Lock()  # a graph always reads and writes the same memory

    def __call__(self, faces: Tensor) -> Outputs:
        with self.lock:
            if len(faces) not in self.captured:
                self.captured[len(faces)] = self.capture(faces)
            graph, given, outputs = self.captured[len(faces)]
            given.copy_(faces)
            graph.replay()
            return [output.to(torch.float32, memory_format=torch.contiguous_format) for output in outputs]

    def capture(self, faces: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Outputs]:
        """The graph, the faces that it reads, and what it writes."""
        given = faces.to(torch.float16, memory_format=torch.channels_last)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            outputs_of(self.network, given)  # its libraries choose kernels at the first call, which cannot be captured
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = outputs_of(self.network, given)
        return graph, given, outputs


def openvino_engine(model: SPARNet, witness: Witness) -> Engine:
    """OpenVINO; compiled, or read from the disk where it was compiled before. `ArithmeticError` as of `Witness`."""
    from openvino import Core

    core = Core()
    settings = openvino_settings()
    files = compiled_files(model, core, settings)
    for kind, file in files.items():
        if file.is_file():
            try:  # by its precision, or OpenVINO takes its own choice
                compiled = core.import_model(file.read_bytes(), "CPU", settings | {PRECISION: kind})
                witness.check(runner(compiled))
                os.utime(file)
                break
            except (RuntimeError, OSError, ArithmeticError) as error:
                log.warning("%s is damaged and compiled anew: %s", file, error)
    else:
        compiled = fastest(core, openvino_graph(model), settings, witness)
        kind = compiled.get_property(PRECISION).get_type_name()
        if files:
            keep(compiled, files[kind])
    return Engine("OpenVINO", PRECISIONS[kind], runner(compiled))


def openvino_settings() -> dict:
    """One face as fast as can be, by no more threads than this process may have, on whatever core is free."""
    return {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": most_threads(), "ENABLE_CPU_PINNING": False}


def openvino_graph(model: SPARNet, maps: bool = True) -> "Model":
    """The folded network as OpenVINO's graph: faces (B,3,S,S) -> restored, and with `maps` every alpha.

    By the front end itself: `openvino.convert_model` reports over the network to its makers that it was used.
    """
    from openvino.frontend.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    size = model.config.size
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):  # of shapes that are fixed, as they are to be
        traced = torch.jit.trace(traceable(model, maps), torch.zeros(1, 3, size, size), check_trace=False)
    decoder = TorchScriptPythonDecoder(traced)  # has to live until it is converted
    front_end = FrontEndManager().load_by_framework("pytorch")
    graph = front_end.convert(front_end.load(decoder))
    graph.reshape([-1, 3, size, size])
    return graph


def fastest(core: "Core", graph: "Model", settings: dict, witness: Witness) -> "CompiledModel":
    """The graph in float32, or in bfloat16 where the processor has that, it is faster and loses nothing."""

    def compiled(kind: str) -> "CompiledModel":
        return core.compile_model(graph, "CPU", settings | {PRECISION: kind})

    exact = compiled("f32")
    witness.check(runner(exact))
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        rounded = compiled("bf16")
        with suppress(ArithmeticError):
            witness.check(runner(rounded))
            if pays([witness.time(runner(exact), runner(rounded)) for _ in range(TURNS)]):
                return rounded
    return exact


def pays(seconds: Sequence[Sequence[float]]) -> bool:
    """Whether the second of each pair is the faster by enough: at its best, and in most turns.

    On a busy machine either is slow now and then, and what is chosen once is kept.
    """
    exact, rounded = np.transpose(seconds)
    return bool(rounded.min() < FASTER * exact.min() and np.median(rounded / exact) < FASTER)


def runner(compiled: "CompiledModel") -> Callable[[Tensor], Outputs]:
    """What runs it; by several threads at once, too."""

    def outputs(faces: Tensor) -> Outputs:
        found = compiled.create_infer_request().infer([faces.detach().numpy()], share_inputs=True)
        return [torch.from_numpy(found[i]) for i in range(len(found))]

    return outputs


def compiled_files(model: SPARNet, core: "Core", settings: dict) -> dict[str, Path]:
    """Where the compiled network is kept, by its precision, named by all it depends on; {}: nothing can be kept."""
    try:
        folder = cached_assets_path("sparnet", "openvino", "compiled")
        folder.chmod(0o700)
    except (OSError, ValueError) as error:
        log.warning("Compiled networks are not kept: %s", error)
        return {}
    code = [Path(file).read_bytes() for file in (__file__, str(networks.__file__))]
    cpu, version = core.get_property("CPU", "FULL_DEVICE_NAME"), core.get_versions("CPU")["CPU"].build_number
    parts = (fingerprint(model), model.config, cpu, version, sorted(settings.items()), *code)
    name = sha256(repr(parts).encode()).hexdigest()
    return {kind: folder / f"{name}-{kind}.blob" for kind in PRECISIONS}


def keep(compiled: "CompiledModel", file: Path) -> None:
    """Write it, and delete those that were not used for longest beyond `KEPT_BYTES`."""
    try:
        save_bytes(compiled.export_model().getvalue(), file)
        left = KEPT_BYTES
        for path in sorted(file.parent.glob("*.blob"), key=lambda path: -path.stat().st_mtime):
            left -= path.stat().st_size
            if left < 0:
                path.unlink()
    except (OSError, UserError) as error:  # among them a file that another process has deleted
        log.warning("A compiled network could not be kept: %s", error)
