"""Weights from every source there is, and everything that can be wrong with them."""

import json
import pickle
from dataclasses import asdict, replace
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import huggingface_hub
import pytest
import released
import torch
from hub import etag
from made_up import SMALL, random_faces
from safetensors.torch import load_file, save_file

from sparnet import SPARNet, checkpoints, convert_released, hub, load_model
from sparnet.checkpoints import BUNDLED, DEFAULT_MODEL, MODELS
from sparnet.errors import UserError

TINY_RELEASED = released.Architecture(min_ch=8, max_ch=16, body_depth=0, inner=8)


@pytest.fixture
def folder(tmp_path):
    """A model as save_pretrained leaves it."""
    torch.manual_seed(0)
    SPARNet(SMALL).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def face():
    return random_faces()


def same(a: SPARNet, b: SPARNet) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return a.config == b.config and list(ours) == list(theirs) and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_a_saved_model_comes_back_the_same(folder, face):
    torch.manual_seed(0)
    model = SPARNet(SMALL).eval()
    loaded = load_model(folder)
    assert same(loaded, model)
    assert not loaded.training
    assert torch.equal(loaded(face), model(face))
    assert all(p.requires_grad for p in loaded.parameters())
    assert json.loads((folder / "config.json").read_text()) == asdict(SMALL)


def test_loaded_weights_are_a_copy(folder):
    weights = load_file(folder / "model.safetensors")
    before = weights["stem.weight"].clone()
    model = SPARNet.from_weights(SMALL, weights)
    with torch.no_grad():
        model.stem.weight.zero_()
    assert torch.equal(weights["stem.weight"], before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_load_into_float32(folder, face, dtype):
    full = load_model(folder)
    halved = {k: v.to(dtype) if v.is_floating_point() else v for k, v in full.state_dict().items()}
    save_file(halved, folder / "model.safetensors")
    model = load_model(folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert (model(face) - full(face)).abs().max() < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("encoder.0.norm.weight"), r"encoder\.0\.norm\.weight is missing"),
        (lambda w: w.pop("encoder.0.norm.num_batches_tracked"), r"num_batches_tracked is missing"),
        (lambda w: w.update(extra=torch.ones(1)), "extra is unknown"),
        (lambda w: w.update({"out.bias": torch.ones(4)}), r"out\.bias has shape \(4,\) where the model has \(3,\)"),
        (lambda w: w.update({"out.bias": torch.ones(3, dtype=torch.int32)}), r"out\.bias is torch.int32 where"),
        (lambda w: w.update({"out.bias": torch.tensor([0, 0, float("nan")])}), r"out\.bias has values .* not finite"),
        (lambda w: [w.pop(key) for key in list(w) if key.startswith("body")], r"is missing; .* and \d+ more"),
    ],
    ids=["missing", "missing count", "extra", "misshaped", "whole numbers", "not finite", "many"],
)
def test_weights_that_do_not_fit_exactly_are_named(folder, change, message):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    for load in (load_model, SPARNet.from_pretrained):
        with pytest.raises(UserError, match=message):
            load(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, r"has no config\.json"),
        ("not json", r"config\.json is not JSON"),
        ("[1, 2]", r"config\.json holds a list"),
        ({"colour": "red"}, r"config\.json has unknown fields: colour\. Known are size, smallest"),
        ({"size": 31}, r"config\.json: size 31 is not smallest 8 times 2"),
        ({"norm": ["batch"]}, r"config\.json: norm is \['batch'\]"),
        ({"max_channels": 10**6}, "max_channels is 1000000; it must be at most 1024"),
    ],
    ids=["missing", "not json", "list", "unknown field", "bad value", "bad type", "huge"],
)
def test_a_config_that_is_wrong_is_named(folder, config, message):
    file = folder / "config.json"
    if config is None:
        file.unlink()
    else:
        file.write_text(config if isinstance(config, str) else json.dumps({**asdict(SMALL), **config}))
    for load in (load_model, SPARNet.from_pretrained):
        with pytest.raises(UserError, match=message):
            load(folder)


def test_weights_cut_short_are_an_error(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_model(folder)


def test_pickled_weights_beside_a_config_are_never_read(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(folder / "ran")))
    with pytest.raises(UserError, match=r"has no model\.safetensors; pickled weights are never read"):
        SPARNet.from_pretrained(folder)
    assert not (folder / "ran").exists()


def test_loading_loosely_is_not_offered(folder):
    with pytest.raises(ValueError, match="strict=False is not offered"):
        SPARNet.from_pretrained(folder, strict=False)


def test_the_table_is_in_order_and_complete():
    assert list(MODELS) == [
        "sparnet-tiny", "sparnet-hd-light-256", "sparnet", "sparnet-light-3d", "sparnet-hd", "sparnet-hd-3d",
    ]  # fmt: skip
    assert DEFAULT_MODEL in MODELS
    assert all(name == entry.name and entry.licence and entry.scores for name, entry in MODELS.items())
    assert all("published" in entry.scores for entry in MODELS.values() if not entry.bundled)


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if entry.bundled])
def test_a_bundled_model_loads_and_restores(name):
    model, size = load_model(name), MODELS[name].config.size
    assert model.config == MODELS[name].config
    assert not model.training
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, size, size)).isfinite().all()


def test_an_authors_model_that_is_not_there_says_where_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoints, "BUNDLED", tmp_path)
    with pytest.raises(UserError) as error:
        load_model("sparnet-hd")
    for part in (
        "https://github.com/chaofengc/Face-SPARNet/releases/download/v0.1.0/SPARNetHD_V4_Attn2D_net_H-epoch10.pth",
        "CC BY-NC-SA 4.0",
        "`python -m sparnet fetch sparnet-hd` downloads it",
        f"as {MODELS['sparnet-hd'].path}",
    ):
        assert part in str(error.value)


def test_an_authors_model_that_was_put_there_loads_by_its_name(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoints, "BUNDLED", tmp_path)
    state = released.random_state(released.LIGHT_3D)
    file = tmp_path / "released" / "SPARNetLight_Attn3D-epoch20.pth"
    file.parent.mkdir()
    torch.save(state, file)
    assert load_model("sparnet-light-3d").config == MODELS["sparnet-light-3d"].config
    file.rename(file.with_name("SPARNet-V16-S4-epoch20.pth"))
    with pytest.raises(UserError, match="holds another model than sparnet"):
        load_model("sparnet")


def test_a_file_with_another_hash_than_the_table_is_refused(monkeypatch, folder):
    entry = replace(MODELS[DEFAULT_MODEL], name="model", config=SMALL, sha256="0" * 64)
    monkeypatch.setattr(checkpoints, "BUNDLED", folder.parent)
    monkeypatch.setitem(MODELS, "model", entry)
    actual = etag("model.safetensors", (folder / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=f"SHA-256 {actual}, not {'0' * 64}. To put it right: `git checkout"):
        load_model("model")
    monkeypatch.setitem(MODELS, "model", replace(entry, sha256=actual))
    assert load_model("model").config == SMALL


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("sparnet-huge", "no model 'sparnet-huge'. Known are sparnet-tiny, sparnet-hd-light-256, "),
        ("a/b/c", "no model 'a/b/c'"),
        ("", "no model ''"),
        ("weights/missing.pth", "no model 'weights/missing.pth'"),
        (BUNDLED.parent / "pyproject.toml", "is not a released .pth file"),
    ],
)
def test_a_source_that_is_nothing_names_the_known_models(source, message):
    with pytest.raises(UserError, match=message):
        load_model(source)


def test_a_name_comes_before_a_folder_and_a_folder_before_a_repo(monkeypatch, tmp_path, folder):
    monkeypatch.chdir(tmp_path)
    folder.rename(tmp_path / "sparnet-tiny")
    monkeypatch.setattr(checkpoints, "BUNDLED", tmp_path / "nothing here")
    with pytest.raises(UserError, match="a part of this project"):
        load_model("sparnet-tiny")
    assert load_model("./sparnet-tiny").config == SMALL
    (tmp_path / "owner").mkdir()
    (tmp_path / "sparnet-tiny").rename(tmp_path / "owner" / "name")
    assert load_model("owner/name").config == SMALL


def test_only_a_repo_has_a_revision(folder):
    for source in (DEFAULT_MODEL, folder):
        with pytest.raises(UserError, match="no revision 'main': leave revision out"):
            load_model(source, revision="main")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "mps", "hpu", "privateuseone"])
def test_a_device_that_is_not_there_is_a_short_error(folder, device):
    with pytest.raises(UserError, match=f"Device '{device}'.*Try 'cpu'") as error:
        load_model(folder, device=device)
    assert len(str(error.value)) < 220


def test_converting_changes_nothing_it_was_given():
    state = released.random_state(replace(TINY_RELEASED, spectral=True))
    before = {key: value.clone() for key, value in state.items()}
    convert_released(state)
    assert list(state) == list(before)
    assert all(torch.equal(state[key], before[key]) for key in state)


def test_prefix_and_missing_counts_make_no_difference():
    state = released.random_state(TINY_RELEASED)
    config, weights = convert_released(state)
    bare = {f"module.{key}": value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    other_config, others = convert_released(bare)
    assert other_config == config
    assert list(others) == list(weights)
    assert all(torch.equal(others[key], weights[key]) for key in weights if not key.endswith("num_batches_tracked"))


@pytest.mark.parametrize(
    "changes",
    [
        {"maps": "3d"},
        {"norm": "instance"},
        {"prelu": True},
        {"body_depth": 4},
        {"min_ch": 6, "max_ch": 24, "inner": 5},
        {"bottleneck": 8},
        {"spectral": True},
        {"size": 64, "smallest": 16},
        {"size": 256, "smallest": 16, "body_depth": 2},
        {"size": 512, "smallest": 32, "norm": "instance", "body_depth": 1},
    ],
    ids=str,
)
def test_the_configuration_is_seen_in_the_weights(changes):
    architecture = replace(TINY_RELEASED, **changes)
    config, weights = convert_released(released.random_state(architecture))
    SPARNet.from_weights(config, weights)
    assert (config.size, config.smallest) == (architecture.size, architecture.smallest)
    assert config.min_channels == architecture.min_ch
    assert config.max_channels == architecture.max_ch
    assert (config.body_depth, config.bottleneck) == (architecture.body_depth, architecture.bottleneck)
    assert (config.attention, config.norm) == (architecture.maps, architecture.norm)
    assert config.activation == ("prelu" if architecture.prelu else "leaky_relu")
    assert config.hourglass_channels == architecture.inner
    assert config.degraded_size == (None if architecture.norm == "instance" and architecture.size == 512 else 16)


def test_our_own_small_model_survives_the_way_to_released_names_and_back():
    config = MODELS["sparnet-tiny"].config
    torch.manual_seed(0)
    ours = SPARNet(config).state_dict()
    theirs = {released_name: ours[name] for released_name, name in checkpoints._names(config)}
    back_config, back = convert_released(theirs)
    assert back_config == config
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[key], ours[key]) for key in ours)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(surprise=torch.ones(1)), "surprise is unknown"),
        (lambda s: s.update({"encoder.1.att_func.b9_9.x": torch.ones(1)}), r"b9_9\.x is unknown"),
        (lambda s: s.update({"encoder.0.conv2d.weight_orig": torch.ones(1)}), "weight_orig is unknown"),
        (
            lambda s: s.update({"module.out_conv.conv2d.bias": torch.ones(3)}),
            r"module\.out_conv\.conv2d\.bias is unknown",
        ),
        (
            lambda s: s.pop("decoder.1.conv1.norm.norm.running_var"),
            r"decoder\.1\.conv1\.norm\.norm\.running_var is missing",
        ),
        (lambda s: s.update({"out_conv.conv2d.bias": torch.ones(1)}), r"out_conv\.conv2d\.bias has shape \(1,\)"),
        (
            lambda s: s.update({"encoder.1.conv1.conv2d.weight": torch.ones(2, 2)}),
            r"encoder\.1\.conv1\.conv2d\.weight has",
        ),
        (lambda s: s.update(epoch=3), "epoch is a int, not a tensor"),
        (lambda s: s.update({7: torch.ones(1)}), "The key 7 is not a name"),
        (lambda s: s.update(spectral("out_conv.conv2d", torch.ones(0, 4, 3, 3))), "spectral norm .* does not fit"),
        (lambda s: s.update(spectral("out_conv.conv2d", torch.ones(3, 4, 3, 3)[:, :0])), "spectral norm .* does not"),
        (
            lambda s: s.update({"encoder.1.conv2.conv2d.weight": torch.ones(1, 1).expand(5000, 9)}),
            "max_channels is 5000",
        ),
        (lambda s: s.pop("encoder.0.conv2d.weight"), r"no convolution encoder\.0\.conv2d\.weight"),
        (lambda s: s.clear(), "they start with nothing"),
    ],
)
def test_what_does_not_fit_in_released_weights_is_named(change, message):
    state = released.random_state(TINY_RELEASED)
    change(state)
    with pytest.raises(UserError, match=message):
        convert_released(state)


def spectral(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    return {f"{name}.weight_orig": weight, f"{name}.weight_u": torch.ones(3), f"{name}.weight_v": torch.ones(36)}


def test_weights_of_something_else_are_refused():
    other = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)).state_dict()
    with pytest.raises(UserError, match=r"not a released SPARNet generator; they start with 0\.weight"):
        convert_released(other)


class Trap:
    """Touches a file when a careless reader unpickles it."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return type(self.file).touch, (self.file,)


def zip_pickle(state, file):
    torch.save(state, file)


def old_pickle(state, file):
    torch.save(state, file, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [zip_pickle, old_pickle])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 20}], ids=["bare", "nested"])
def test_a_released_file_loads(tmp_path, save, wrap):
    state = released.random_state(TINY_RELEASED)
    save(wrap(state), tmp_path / "released.pth")
    model = load_model(tmp_path / "released.pth")
    assert model.config == convert_released(state)[0]
    assert not model.training


@pytest.mark.parametrize("save", [zip_pickle, old_pickle])
def test_a_pickle_that_wants_code_is_refused_and_not_run(tmp_path, save):
    file, ran = tmp_path / "trap.pth", tmp_path / "ran"
    save({**released.random_state(TINY_RELEASED), "x": Trap(ran)}, file)
    with pytest.raises(UserError, match=r"is refused: it is a pickle that wants to run code while loading \(\w+"):
        load_model(file)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>Not found</html>", "is a text or web page saved under that name"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "is a text or web page"),
        (b"Not Found", "is not a PyTorch file, or not a whole one"),
        (b"PK\x03\x04" + bytes(100), "is not a PyTorch file, or not a whole one"),
        (bytes(range(256)) * 10, "is not a PyTorch file, or not a whole one"),
    ],
    ids=["empty", "html", "lfs pointer", "text", "broken zip", "noise"],
)
def test_a_file_that_is_no_checkpoint_is_an_error(tmp_path, content, message):
    file = tmp_path / "bad.pth"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_model(file)


@pytest.mark.parametrize("save", [zip_pickle, old_pickle])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_checkpoint_cut_short_is_an_error(tmp_path, save, share):
    file = tmp_path / "cut.pth"
    save(released.random_state(TINY_RELEASED), file)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(UserError, match="is not a PyTorch file, or not a whole one"):
        load_model(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"params": {"a": torch.ones(1)}, "params_ema": {"a": torch.ones(1)}}, r"2 state dicts \(params, params_ema\)"),
        ({"epoch": 3}, "holds a dict without a state dict"),
        ([torch.ones(1)], "holds a list without a state dict"),
        (torch.ones(3), "holds a Tensor without a state dict"),
        ({1: {"a": torch.ones(1)}, 2: {"a": torch.ones(1)}}, r"2 state dicts \(1, 2\)"),
        ({"a": torch.ones(3, device="meta")}, r"no plain numbers for 'a' \(meta"),
        ({"a": torch.ones(3).to_sparse()}, r"no plain numbers for 'a' \(cpu, torch.sparse_coo"),
        ({"a": torch.ones(1).expand(2**31)}, "larger tensors than any model"),
        ({f"t{i}": torch.ones(()) for i in range(10_001)}, "is larger than weights can be"),
    ],
    ids=["two", "none", "list", "tensor", "two numbered", "meta", "sparse", "one number as a giant", "many"],
)
def test_a_checkpoint_without_one_clear_state_dict_is_an_error(tmp_path, content, message):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / "odd.pth")


def test_a_small_file_that_unpacks_to_giants_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "MAX_WEIGHTS_BYTES", 1_000_000)
    with ZipFile(tmp_path / "bomb.pth", "w", ZIP_DEFLATED) as packed:
        packed.writestr("bomb/data/0", bytes(1_000_001))
    assert (tmp_path / "bomb.pth").stat().st_size < 2000
    with pytest.raises(UserError, match="is larger than weights can be"):
        load_model(tmp_path / "bomb.pth")


def test_what_the_hub_announces_as_too_large_is_not_downloaded(local_hub, files):
    local_hub.commit("me/model", files)
    local_hub.announced["model.safetensors"] = 4 * 1024**3
    with pytest.raises(UserError, match=r"model.safetensors of me/model has 4,294,967,296 bytes; .* not downloaded"):
        load_model("me/model")
    assert not [request for request in local_hub.requests if request.startswith(("GET /me", "GET /large"))]


def test_a_hub_that_drips_is_given_up_and_the_user_told_what_to_do(local_hub, files, monkeypatch):
    local_hub.commit("me/model", files)
    local_hub.drips.add("model.safetensors")
    monkeypatch.setattr(hub, "GRACE", 0.3)
    monkeypatch.setattr(hub, "SLOWEST", 1e12)
    with pytest.raises(UserError, match=r"of me/model took more than 0 seconds .* `hf download me/model`\.$"):
        load_model("me/model")


def test_a_repo_loads_at_the_pinned_commit(local_hub, files, folder):
    first = local_hub.commit("me/model", files)
    torch.manual_seed(1)
    SPARNet(replace(SMALL, body_depth=3)).save_pretrained(folder)
    local_hub.commit("me/model", {file.name: file.read_bytes() for file in folder.iterdir()})
    assert load_model("me/model", revision=first).config == SMALL
    assert load_model("me/model").config.body_depth == 3
    assert load_model("me/model", revision="main").config.body_depth == 3


def test_config_and_weights_are_of_one_commit_even_if_another_is_pushed_meanwhile(
    local_hub, files, folder, monkeypatch
):
    torch.manual_seed(1)
    SPARNet(replace(SMALL, body_depth=3)).save_pretrained(folder)
    others = {file.name: file.read_bytes() for file in folder.iterdir()}
    local_hub.commit("me/model", files)

    def download_and_push(*arguments, **options):
        path = huggingface_hub.hf_hub_download(*arguments, **options)
        local_hub.commit("me/model", others)
        return path

    monkeypatch.setattr("sparnet.hub.hf_hub_download", download_and_push)
    torch.manual_seed(0)
    assert same(load_model("me/model"), SPARNet(SMALL))


def test_a_pinned_commit_in_the_cache_needs_no_question(local_hub, files):
    commit = local_hub.commit("me/model", files)
    first = load_model("me/model", revision=commit)
    local_hub.requests.clear()
    assert same(load_model("me/model", revision=commit), first)
    assert local_hub.requests == []


def test_the_cache_serves_when_the_hub_is_gone(local_hub, files):
    commit = local_hub.commit("me/model", files)
    first = load_model("me/model")
    local_hub.stop()
    assert same(load_model("me/model", revision=commit), first)
    with pytest.warns(UserWarning, match=r"The Hub cannot be reached \(.*refused\): looking for me/model in the cache"):
        assert same(load_model("me/model"), first)


def test_the_cache_serves_when_the_hub_is_down_for_maintenance(local_hub, files):
    local_hub.commit("me/model", files)
    load_model("me/model")
    local_hub.broken = True
    with pytest.warns(UserWarning, match=r"cannot be reached \(it answers 503\)"):
        assert load_model("me/model").config == SMALL


def test_a_network_that_swallows_questions_is_given_up(local_hub, files, monkeypatch):
    local_hub.commit("me/model", files)
    load_model("me/model")
    local_hub.silent = True
    monkeypatch.setattr("sparnet.hub.TIMEOUT", 0.1)
    with pytest.warns(UserWarning, match="cannot be reached"):
        assert load_model("me/model").config == SMALL
    with pytest.warns(UserWarning, match="reached"), pytest.raises(UserError, match="me/other is not in the cache"):
        load_model("me/other")


def test_neither_hub_nor_cache_names_the_command_that_fills_it(local_hub):
    local_hub.stop()
    with (
        pytest.warns(UserWarning, match="cannot be reached"),
        pytest.raises(
            UserError, match=r"me/model at revision v1 is not in the cache .* `hf download me/model --revision v1`"
        ),
    ):
        load_model("me/model", revision="v1")


def test_offline_mode_uses_the_cache_without_a_word(local_hub, files, monkeypatch, recwarn):
    local_hub.commit("me/model", files)
    load_model("me/model")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    local_hub.requests.clear()
    assert load_model("me/model").config == SMALL
    assert local_hub.requests == []
    assert not [w for w in recwarn if "Hub" in str(w.message)]
    with pytest.raises(UserError, match="`hf download me/other` fills the cache"):
        load_model("me/other")


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_goes_on(local_hub, files, ranges):
    local_hub.commit("me/model", files)
    local_hub.ranges = ranges
    local_hub.cuts["model.safetensors"] = 1
    assert load_model("me/model").config == SMALL
    assert len([r for r in local_hub.requests if r.startswith("GET /large/")]) == 2


def test_a_download_that_never_finishes_leaves_nothing_half(local_hub, files):
    local_hub.commit("me/model", files)
    local_hub.vanish.add("model.safetensors")
    with pytest.raises(UserError, match=r"download of me/model did not finish .*`hf download me/model` tries again"):
        load_model("me/model")
    cache = huggingface_hub.constants.HF_HUB_CACHE
    whole = {etag(name, data) for name, data in files.items()}
    blobs = [file for file in Path(cache).rglob("blobs/*") if file.is_file()]
    assert {file.name for file in blobs} <= whole
    local_hub.vanish.clear()
    assert load_model("me/model").config == SMALL


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_with_another_hash_than_the_hub_states_is_refused(local_hub, files, name):
    local_hub.commit("me/model", files)
    altered = files[name].replace(b"batch", b"group") if name == "config.json" else files[name][:-1] + b"\x01"
    assert len(altered) == len(files[name])
    assert altered != files[name]
    local_hub.tampered[name] = altered
    message = (
        f"{name} in the cache is corrupt: its hash is {etag(name, altered)}, the Hub states {etag(name, files[name])}"
    )
    for _ in range(2):  # and again from the cache
        with pytest.raises(UserError, match=message):
            load_model("me/model")
    local_hub.tampered.clear()
    assert SPARNet.from_pretrained("me/model", force_download=True).config == SMALL


def test_a_repo_is_read_as_strictly_as_a_folder(local_hub, files, folder):
    weights = load_file(folder / "model.safetensors")
    weights["extra"] = torch.ones(1)
    save_file(weights, folder / "model.safetensors")
    local_hub.commit("me/extra", {**files, "model.safetensors": (folder / "model.safetensors").read_bytes()})
    with pytest.raises(UserError, match="extra is unknown"):
        load_model("me/extra")
    local_hub.commit("me/field", {**files, "config.json": json.dumps({**asdict(SMALL), "colour": 1}).encode()})
    with pytest.raises(UserError, match="unknown fields: colour"):
        SPARNet.from_pretrained("me/field")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_repo_without_our_files_is_an_error_and_its_pickle_is_not_fetched(local_hub, files, missing):
    del files[missing]
    local_hub.commit("me/model", {**files, "pytorch_model.bin": b"pickle"})
    with pytest.raises(UserError, match="me/model is not a model of this project: it lacks"):
        load_model("me/model")
    assert not [request for request in local_hub.requests if "pytorch_model" in request]


@pytest.mark.parametrize(
    ("source", "revision", "message"),
    [
        ("me/missing", None, "The Hub has no public model me/missing. Check the spelling"),
        ("me/model", "v9", "me/model has no revision 'v9'"),
        ("me/gated", None, "me/gated is gated: accept its conditions"),
        ("me/forbidden", None, "The Hub refused me/forbidden: .*403"),
        ("-me/model", None, "'-me/model' cannot be a Hub repo id"),
    ],
)
def test_each_refusal_of_the_hub_says_what_to_do(local_hub, files, source, revision, message):
    for repo, refusal in (("me/model", None), ("me/gated", "GatedRepo"), ("me/forbidden", "Forbidden")):
        local_hub.commit(repo, files)
        local_hub.repos[repo].refusal = refusal
    with pytest.raises(UserError, match=message):
        load_model(source, revision=revision)


def test_a_model_pushed_to_the_hub_comes_back_the_same(local_hub, folder):
    model = load_model(folder)
    model.push_to_hub("me/pushed")
    assert same(SPARNet.from_pretrained("me/pushed"), model)
    card = local_hub.repos["me/pushed"].commits[local_hub.repos["me/pushed"].branches["main"]]["README.md"]
    assert b"library_name: sparnet" in card
