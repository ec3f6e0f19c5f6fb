"""Engines against the model itself: the same numbers, whichever runs it, and a way on where one is missing."""

import sys
from dataclasses import replace

import openvino
import pytest
import torch
from made_up import SMALL, random_faces
from torch.utils.flop_counter import FlopCounterMode

from sparnet import SPARNet, engine, load_model
from sparnet.checkpoints import MODELS, fingerprint
from sparnet.engine import Engine, Graphs, engine_for, openvino_graph
from sparnet.errors import UserError
from sparnet.folding import transposed
from sparnet.model import Convolution

BUNDLED = [entry.name for entry in MODELS.values() if entry.bundled]
KINDS = [
    {"attention": "3d"},
    {"attention": "channel", "activation": "prelu"},
    {"attention_units": 2, "norm": "group"},
    {"attention": "2d+channel", "norm": "instance", "size": 24, "smallest": 6, "bottleneck": 8},  # a map of 3x3 is odd
]


GET_PROPERTY = openvino.Core.get_property


@pytest.fixture(scope="module")
def graph():
    """`openvino_graph`, which takes a second, once for the same weights."""
    graphs = {}

    def graph(model: SPARNet) -> openvino.Model:
        name = fingerprint(model), model.config
        if name not in graphs:
            graphs[name] = openvino_graph(model)
        return graphs[name]

    return graph


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch, graph):
    """Where this test's compiled networks are kept, by the engine that is the best on a processor without bfloat16."""

    def get_property(core, *names):
        return [] if names[-1] == "OPTIMIZATION_CAPABILITIES" else GET_PROPERTY(core, *names)

    monkeypatch.setattr(engine, "openvino_graph", graph)
    monkeypatch.setattr(openvino.Core, "get_property", get_property)
    monkeypatch.setattr(engine, "cached_assets_path", lambda *names: tmp_path)
    monkeypatch.delenv("SPARNET_ENGINE", raising=False)
    monkeypatch.setattr(engine, "TURNS", 1)
    return tmp_path


def network(seed: int = 0, **config) -> SPARNet:
    """Untrained, with norms as a training leaves them."""
    torch.manual_seed(seed)
    smallest = {"size": 16, "body_depth": 0, "bottleneck": 32}
    model = SPARNet(replace(SMALL, **smallest | config))
    for _ in range(2):
        model(random_faces(4, model.config.size))
    return model.eval()


def assert_same(run: Engine, model: SPARNet, batch: int, tolerance: float = 1e-4) -> None:
    faces = random_faces(batch, model.config.size)
    trace, exact = run(faces), model.trace(faces)
    torch.testing.assert_close(trace.restored, exact.restored.detach(), atol=tolerance, rtol=0)
    assert list(trace.alphas) == list(exact.alphas)
    for name, alpha in exact.alphas.items():
        torch.testing.assert_close(trace.alphas[name], alpha.detach(), atol=tolerance, rtol=0)
        assert trace.alphas[name].is_contiguous()
        assert not trace.alphas[name].requires_grad


@pytest.mark.parametrize("config", KINDS, ids=str)
def test_every_engine_gives_the_models_own_numbers_for_every_kind_of_network(config):
    model = network(**config)
    for name in ("torch", "openvino"):
        run = engine_for(model, name)
        assert (run.note, run.precision) == (None, "float32")
        for batch in (1, 5):
            assert_same(run, model, batch)


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_models_have_the_same_numbers_in_every_engine(name):
    model = load_model(name)
    assert str(engine_for(model)) == "OpenVINO, float32"
    for run in (engine_for(model), engine_for(model, "torch")):
        assert_same(run, model, 1)


def test_features_are_the_models(monkeypatch):
    model = network()
    trace, exact = (
        engine_for(model, "torch")(random_faces(1, 16), features=True),
        model.trace(random_faces(1, 16), features=True),
    )
    for name, features in exact.features.items():
        assert torch.equal(trace.features[name], features)


def test_a_lower_precision_is_taken_if_it_is_faster_and_only_if_it_loses_nothing(monkeypatch):
    monkeypatch.setattr(openvino.Core, "get_property", GET_PROPERTY)
    monkeypatch.setattr(engine, "FASTER", 1e9)
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        model = network()
        run = engine_for(model)
        assert run.precision == "bfloat16"
        assert_same(run, model, 2, 0.02)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "MAX_LOSS", 1e-5)
        patch.setattr(engine, "MAX_MOVED", 1e-5)
        assert engine_for(network()).precision == "float32"
    monkeypatch.setattr(engine, "FASTER", 0)
    assert engine_for(network(seed=1)).precision == "float32"


@pytest.mark.parametrize(
    ("exact", "rounded", "is_taken"),
    [
        ([20, 20, 21, 60, 20], [10, 11, 10, 10, 50], True),
        ([50, 52, 60, 51, 50], [65, 25, 64, 66, 65], False),  # it was lucky once
        ([50, 90, 95, 91, 92], [42, 43, 42, 43, 42], False),  # the other was slowed by something else
        ([50, 50, 50, 50, 50], [45, 45, 45, 45, 45], False),  # too little for what it rounds
    ],
)
def test_a_busy_machine_does_not_choose_the_precision(exact, rounded, is_taken):
    assert engine.pays(list(zip(exact, rounded, strict=True))) is is_taken


def test_the_compiled_network_is_kept_for_these_weights_and_a_damaged_one_replaced(own_cache, monkeypatch):
    model = network()
    engine_for(model)
    (file,) = own_cache.iterdir()
    assert own_cache.stat().st_mode & 0o777 == 0o700
    with monkeypatch.context() as patch:
        patch.setattr(engine, "openvino_graph", None)  # what would be needed to compile again
        assert_same(engine_for(network()), model, 2, 0.02)
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole.replace(bytes(64), bytes(range(64)))):
        file.write_bytes(damaged)
        other = network()
        assert_same(engine_for(other), other, 2, 0.02)
    monkeypatch.setattr(engine, "KEPT_BYTES", len(whole) * 3 // 2)
    engine_for(network(seed=1))
    assert len(list(own_cache.iterdir())) == 1
    assert not file.exists()


@pytest.mark.usefixtures("own_cache")
def test_a_kept_network_runs_in_the_precision_that_was_chosen(monkeypatch):
    """OpenVINO's own choice is bfloat16 wherever the processor has it, be it the slower."""
    monkeypatch.setattr(openvino.Core, "get_property", GET_PROPERTY)
    monkeypatch.setattr(engine, "FASTER", 0)
    assert engine_for(network()).precision == "float32"
    monkeypatch.setattr(engine, "openvino_graph", None)  # what would be needed to compile again
    assert engine_for(network()).precision == "float32"


@pytest.mark.parametrize("broken", ["missing", "wrong", "no folder"])
def test_without_a_sound_openvino_pytorch_runs_the_network_and_the_user_is_told(broken, monkeypatch):
    if broken == "missing":
        monkeypatch.setitem(sys.modules, "openvino", None)
    elif broken == "wrong":
        monkeypatch.setattr(engine, "runner", lambda compiled: lambda faces: [faces] * 9)

    def refuse(*names):
        raise PermissionError("read-only")

    if broken == "no folder":
        monkeypatch.setattr(engine, "cached_assets_path", refuse)
    model = network()
    run = engine_for(model)
    assert (run.name == "OpenVINO") == (run.note is None) == (broken == "no folder")
    assert run.note is None or "so PyTorch does" in run.note
    assert_same(run, model, 2, 0.02)


def test_changed_weights_are_seen_and_a_model_that_nobody_uses_goes(monkeypatch):
    model = network()
    before = engine_for(model, "torch")
    assert engine_for(model, "torch").outputs is before.outputs
    with torch.no_grad():
        model.out.weight.mul_(1.5)
    assert_same(engine_for(model, "torch"), model, 1)
    kept = len(engine._builds)
    del model, before
    assert len(engine._builds) < kept


def test_in_the_background_pytorch_runs_until_the_engine_stands(monkeypatch):
    model, faces = network(), random_faces(1, 16)
    first = engine_for(model, background=True)
    assert first.name == "PyTorch"
    assert torch.equal(first(faces).restored, model.trace(faces).restored)
    engine._builds[model]["auto"].thread.join()
    assert engine_for(model, background=True).name == "OpenVINO"


def test_building_an_engine_draws_no_random_numbers():
    model, before = network(seed=2), torch.get_rng_state()
    for name in ("torch", "openvino"):
        engine_for(model, name)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_being_trained_or_traces_in_its_own_way_or_is_in_half_precision_runs_as_it_is():
    class Own(SPARNet):
        def trace(self, face, edit=None, features=False):
            raise ZeroDivisionError

    for model in (network().train(), Own(SMALL).eval(), network().bfloat16()):
        assert engine_for(model).name == "PyTorch"
    with pytest.raises(UserError, match="no engine 'steam'"):
        engine_for(network(), "steam")


def test_faces_that_the_model_refuses_every_engine_refuses():
    for name in ("torch", "openvino"):
        with pytest.raises(ValueError, match=r"takes \(B, 3, 16, 16\)"):
            engine_for(network(), name)(random_faces(1, 32))


def test_openvino_computes_with_the_threads_that_it_may_have(monkeypatch):
    compiled = []
    monkeypatch.setattr(engine, "keep", lambda network, file: compiled.append(network))
    monkeypatch.setattr(engine, "most_threads", lambda: 1)
    engine_for(network())
    assert compiled[0].get_property("INFERENCE_NUM_THREADS") == 1


@torch.no_grad()
def test_an_enlarging_convolution_is_the_transposed_one_which_multiplies_less_than_half():
    convolution, x = Convolution(3, 5, "up"), torch.rand(2, 3, 64, 48)
    with FlopCounterMode(display=False) as before:
        expected = convolution(x)
    with FlopCounterMode(display=False) as after:
        torch.testing.assert_close(transposed(convolution)(x), expected)
    assert after.get_total_flops() < before.get_total_flops() / 2


def test_cuda_graphs_are_captured_once_a_size_and_replayed_with_new_faces(monkeypatch):
    """With stand-ins for CUDA: a captured graph does again, on the same memory, what was done while it was captured."""
    model = network()
    side = model.config.size
    graphs, captures = Graphs(model), []
    graphs.network.float()

    class Graph:
        def replay(self):
            for held, new in zip(self.outputs, engine.outputs_of(graphs.network, self.given), strict=True):
                held.copy_(new)

    def capture(faces):
        graph, given = Graph(), faces.clone()
        outputs = engine.outputs_of(graphs.network, given)
        graph.given, graph.outputs = given, outputs
        captures.append(len(faces))
        return graph, given, outputs

    monkeypatch.setattr(graphs, "capture", capture)
    run = Engine("CUDA graphs", "float16", graphs, model=model)
    first = run(random_faces(2, side, seed=1))
    kept = first.restored.clone()
    for batch in (2, 5, 2):
        assert_same(run, model, batch, 0.01)
    assert captures == [2, 5]
    assert torch.equal(first.restored, kept)  # not overwritten by later faces
