"""Visitors who name models: what they may name, and what a hostile Hub repo cannot do to the page or to others."""

import json
import threading
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
import torch
from hub import hub_in_place_of_the_real_one
from safetensors.torch import save
from served import served

import app
from sparnet import SPARNet, SPARNetConfig, images, load_model
from sparnet.checkpoints import DEFAULT_MODEL
from sparnet.errors import UserError
from viz.tabs import fetching, models, serving

SMALL = SPARNetConfig(
    size=32, smallest=8, min_channels=8, max_channels=16, hourglass_channels=8, body_depth=2, bottleneck=16
)
CONFIG = json.dumps(asdict(SMALL)).encode()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page in this process in front of a Hub in this process: .hub, .cache and .restore(model) over raw HTTP."""
    folder = tmp_path_factory.mktemp("page")
    with hub_in_place_of_the_real_one(folder) as hub, served(folder, SPARNet(SMALL), []) as address:
        picture = images.encode_png(torch.randint(256, (64, 64, 3), dtype=torch.uint8).numpy())
        sent = httpx2.post(f"{address}gradio_api/upload", files={"files": ("face.png", picture)}).json()[0]

        def restore(model: str) -> str:
            """The events that the answer consists of."""
            data = [{"path": sent, "meta": {"_type": "gradio.FileData"}}, model, "as_is", True]
            call = f"{address}gradio_api/call/restore"
            event = httpx2.post(call, json={"data": data}).json()["event_id"]
            return httpx2.get(f"{call}/{event}", timeout=60).text

        yield SimpleNamespace(hub=hub, restore=restore, cache=fetching.cache())


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """Every Hub id allowed, nothing loaded, and no failure remembered."""
    monkeypatch.setattr(models, "_allowed", ["*"])
    monkeypatch.setattr(models, "_shelf", models.Shelf())
    monkeypatch.setattr(models, "PATIENCE", 30)


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return save(SPARNet(SMALL).state_dict())


def names_in(cache: Path) -> set[str]:
    return {path.name for path in cache.glob("*")}


def config(**changes) -> bytes:
    return json.dumps({**asdict(SMALL), **changes}).encode()


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (config(size=8192, smallest=2048), "size is 8192; it must be at most 1024"),
        (config(body_depth=100_000), "body_depth is 100000; it must be at most 100"),
        (config(degraded_size=10**9), "degraded_size is 1000000000; it must be at most 1024"),
        (config(hourglass_channels=10**6), "hourglass_channels is 1000000; it must be at most 512"),
        (config(size=1024, smallest=512, max_channels=1024), "GFLOP"),
        (b"[" * 200_000, "bytes; 65,536 are the most"),
        (b"[" * 50_000, "nests too deeply"),
        (config(norm="x" * 10_000), "norm is 'xxx"),
        (config(**{"y" * 10_000: 1}), "unknown fields: yyy"),
    ],
    ids=["size", "depth", "degraded size", "hourglass", "cost", "long", "nested", "long value", "long name"],
)
def test_a_config_that_would_build_a_monster_is_refused_before_its_weights_are_asked_for(page, content, answer):
    page.hub.commit("evil/config", {"config.json": content, "model.safetensors": b"never asked for"})
    page.hub.requests.clear()
    events = page.restore("evil/config")
    assert "event: error" in events
    assert answer in events
    assert str(page.cache.parent) not in events
    assert len(events) < 1000
    assert not [request for request in page.hub.requests if "safetensors" in request]
    assert "evil--config" not in names_in(page.cache)


MANY = b"{" + b",".join(b'"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(300_000)) + b"}"
MANY_EMPTY_TENSORS = len(MANY).to_bytes(8, "little") + MANY


@pytest.mark.parametrize(
    ("content", "announced"),
    [(b"four gigabytes", 4 * 1024**3), (MANY_EMPTY_TENSORS, None), (MANY_EMPTY_TENSORS, 1000)],
    ids=["announced as 4 GB", "300,000 empty tensors", "announced smaller than it is"],
)
def test_weights_larger_than_their_config_allows_are_not_downloaded(page, monkeypatch, content, announced):
    page.hub.commit("evil/large", {"config.json": CONFIG, "model.safetensors": content})
    if announced:
        monkeypatch.setitem(page.hub.announced, "model.safetensors", announced)
    events = page.restore("evil/large")
    assert "is not a model of this project and was not downloaded" in events
    assert "evil--large" not in names_in(page.cache)
    assert not list(page.cache.glob(".*"))


def test_300_000_empty_tensors_on_the_disk_are_refused_by_the_length_of_their_names(tmp_path):
    (tmp_path / "config.json").write_bytes(CONFIG)
    (tmp_path / "model.safetensors").write_bytes(MANY_EMPTY_TENSORS)
    with pytest.raises(UserError, match="is larger than any model of this project"):
        load_model(tmp_path)


def test_weights_of_another_model_are_refused_by_their_header(page):
    others = save(SPARNet(replace(SMALL, body_depth=1)).state_dict())
    page.hub.commit("evil/other", {"config.json": CONFIG, "model.safetensors": others})
    assert "weights in evil/other do not fit their configuration: body" in page.restore("evil/other")


def test_a_server_that_drips_is_given_up(page, monkeypatch, weights):
    monkeypatch.setattr(fetching, "FETCH_SECONDS", 0.3)
    monkeypatch.setattr(page.hub, "drips", {"model.safetensors"})
    page.hub.commit("evil/slow", {"config.json": CONFIG, "model.safetensors": weights})
    assert "could not be downloaded within 0.3 seconds" in page.restore("evil/slow")
    assert "evil--slow" not in names_in(page.cache)
    assert not list(page.cache.glob(".*"))


def test_a_damaged_download_is_refused_and_not_kept(page, monkeypatch, weights):
    page.hub.commit("evil/damaged", {"config.json": CONFIG, "model.safetensors": weights})
    monkeypatch.setitem(page.hub.tampered, "model.safetensors", weights[:-1] + b"\x01")
    assert "model.safetensors of evil/damaged arrived damaged" in page.restore("evil/damaged")
    assert "evil--damaged" not in names_in(page.cache)


def test_the_hosts_token_is_never_lent(page, monkeypatch, weights):
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_host")
    page.hub.commit("host/secret", {"config.json": CONFIG, "model.safetensors": weights})
    page.hub.repos["host/secret"].private = True
    page.hub.tokens.clear()
    assert "The Hub has no public model host/secret" in page.restore("host/secret")
    assert page.hub.tokens == set()
    assert load_model("host/secret").config == SMALL  # the host can, and now it lies in the host's own cache
    assert page.hub.tokens == {"Bearer hf_of_the_host"}
    monkeypatch.setattr(page.hub, "broken", True)
    monkeypatch.setattr(models, "_shelf", models.Shelf())
    assert "The Hub cannot be reached from here" in page.restore("host/secret")


def test_a_model_on_its_way_keeps_nobody_else_waiting_and_comes_once(page, monkeypatch, weights):
    page.hub.commit("me/awaited", {"config.json": CONFIG, "model.safetensors": weights})
    monkeypatch.setattr(models, "PATIENCE", 0.01)
    page.hub.repos["me/awaited"].held = release = threading.Event()
    page.hub.requests.clear()
    try:
        for _ in range(2):
            assert "is still being fetched from the Hub" in page.restore("me/awaited")
        assert "event: complete" in page.restore(DEFAULT_MODEL)
    finally:
        release.set()
    models._begin("me/awaited").result(30)
    assert "event: complete" in page.restore("me/awaited")
    assert len([request for request in page.hub.requests if "resolve/main/config.json" in request]) == 1


def test_only_so_many_models_are_fetched_at_once(page, weights):
    release = threading.Event()
    for i in range(models.FETCHES + 1):
        page.hub.commit(f"me/slow{i}", {"config.json": CONFIG, "model.safetensors": weights})
        page.hub.repos[f"me/slow{i}"].held = release
    try:
        begun = [models._begin(f"me/slow{i}") for i in range(models.FETCHES)]
        assert "Other models are being fetched" in page.restore(f"me/slow{models.FETCHES}")
    finally:
        release.set()
    assert all(load.result(30).model.config == SMALL for load in begun)


def test_the_visitors_cache_keeps_the_last_used_and_nothing_of_the_hosts_goes(page, monkeypatch, weights):
    monkeypatch.setattr(fetching, "CACHED_MODELS", 2)
    page.hub.commit("host/own", {"config.json": CONFIG, "model.safetensors": weights})
    load_model("host/own")
    for name in ("me/one", "me/two", "me/one", "me/three"):
        monkeypatch.setattr(models, "_shelf", models.Shelf())
        page.hub.commit(name, {"config.json": CONFIG, "model.safetensors": weights})
        assert "event: complete" in page.restore(name)
    assert names_in(page.cache) == {"me--one", "me--three"}
    monkeypatch.setattr(fetching, "CACHED_BYTES", len(weights) + len(CONFIG))
    page.hub.commit("me/four", {"config.json": CONFIG, "model.safetensors": weights})
    assert "event: complete" in page.restore("me/four")
    assert names_in(page.cache) == {"me--four"}
    assert load_model("host/own").config == SMALL


def test_a_new_commit_takes_the_place_of_the_old_one(page, weights):
    first = page.hub.commit("me/moving", {"config.json": CONFIG, "model.safetensors": weights})
    assert fetching.fetch_public("me/moving")[0].name == first
    second = page.hub.commit("me/moving", {"README.md": b"changed"})
    assert fetching.fetch_public("me/moving")[0].name == second
    assert names_in(page.cache / "me--moving") == {second}


def test_what_was_fetched_before_serves_when_the_hub_is_down_and_every_result_says_so(page, monkeypatch, weights):
    page.hub.commit("me/cached", {"config.json": CONFIG, "model.safetensors": weights})
    assert "event: complete" in page.restore("me/cached")
    monkeypatch.setattr(models, "_shelf", models.Shelf())
    monkeypatch.setattr(page.hub, "broken", True)
    for _ in range(2):
        assert "The Hub cannot be reached: this is the copy of me/cached" in page.restore("me/cached")


def test_what_failed_is_not_tried_again_at_once(page, monkeypatch):
    page.hub.requests.clear()
    for _ in range(3):
        assert "no public model me/nothing" in page.restore("me/nothing")
    assert len(page.hub.requests) == 1
    monkeypatch.setattr(models, "RETRY_SECONDS", 0)
    page.restore("me/nothing")
    assert len(page.hub.requests) == 2


@pytest.mark.parametrize(
    ("allowed", "name", "may"),
    [
        ([], "me/model", False),
        (["me/*"], "me/model", True),
        (["me/*", "you/sparnet-*"], "you/sparnet-x", True),
        (["me/*"], "you/model", False),
        (["me/*"], "you/me/model", False),
        (["*"], "me/model", True),
        (["*"], "/etc", False),
        (["*"], "../checkpoints", False),
        (["*"], "checkpoints/../secret", False),
        (["*"], "me--x/model", False),
        (["*"], "checkpoints", False),
    ],
)
def test_a_visitor_may_type_only_the_hub_ids_that_the_host_allows_and_never_a_path(
    page, monkeypatch, allowed, name, may
):
    models._allowed[:] = allowed
    page.hub.requests.clear()
    events = page.restore(name)
    assert ("is not a model of this page" in events) != may
    assert bool(page.hub.requests) == may


def test_a_folder_of_the_server_is_never_loaded_by_its_path_though_it_reads_like_a_hub_id(page, monkeypatch, tmp_path):
    SPARNet(SMALL).save_pretrained(tmp_path / "runs" / "secret")
    monkeypatch.chdir(tmp_path)
    assert "no public model runs/secret" in page.restore("runs/secret")


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        ([], ["*"]),
        (["--host", "localhost"], ["*"]),
        (["--host", "0.0.0.0"], []),
        (["--host", "0.0.0.0", "--allow-hub", "me/*", "--allow-hub", "you/*"], ["me/*", "you/*"]),
        (["--allow-hub", "me/*"], ["me/*"]),
    ],
)
def test_every_hub_id_may_be_typed_where_visitor_and_host_are_one_and_none_elsewhere(monkeypatch, arguments, allowed):
    monkeypatch.setattr("sys.argv", ["app.py", *arguments])
    monkeypatch.setattr(app, "serve", lambda *_: None)
    monkeypatch.setattr(app.signal, "signal", lambda *_: None)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "/tmp")
    app.main()
    assert models._allowed == allowed


def test_models_of_the_hosts_own_come_first_under_names_that_tell_no_path(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "_offered", {})
    for run in ("a", "b"):
        SPARNet(SMALL).save_pretrained(tmp_path / run / "best")
        models.offer(str(tmp_path / run / "best"))
    assert models.models_here()[:2] == ["best", "b/best"]
    restore, _ = serving.restorer(models.first_model())
    assert restore.model.config == SMALL
    with pytest.raises(UserError, match="is not a model of this page"):
        serving.restorer(str(tmp_path / "a" / "best"))


def test_what_is_wrong_with_the_hosts_files_goes_to_the_log_and_not_to_visitors(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(models, "_offered", {})
    SPARNet(SMALL).save_pretrained(tmp_path / "mine")
    models.offer(str(tmp_path / "mine"))
    (tmp_path / "mine" / "config.json").write_text("broken")
    with pytest.raises(UserError) as error:
        models.named("mine")
    assert str(error.value) == "mine cannot be loaded; the server's log says why. Choose another model."
    assert str(tmp_path) in caplog.text


def test_the_last_few_models_are_kept_and_each_is_loaded_once():
    shelf, loads = models.Shelf(), []
    for name in "abcadabc":
        shelf.begin(name, lambda name: loads.append(name) or name, fetched=False).result(10)
    assert loads == list("abcdbc")  # a was used after b, so b goes for d; then c for b, and d for c
