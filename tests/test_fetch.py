"""The authors' weights in one command, and anybody's from the Hub: from a server that is cut off, wrong or changed."""

from dataclasses import replace
from hashlib import sha256

import pytest
import released
import torch
from huggingface_hub import constants
from made_up import SMALL, random_faces

from sparnet import SPARNet, checkpoints, cli, convert_released, fetch, load_model
from sparnet.checkpoints import MODELS
from sparnet.errors import UserError
from viz.tabs import models

TINY = released.Architecture(min_ch=8, max_ch=16, body_depth=0, inner=8)
NAME, FILE = "sparnet", "tiny.pth"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> bytes:
    """The bytes of a small file as the authors release theirs."""
    file = tmp_path_factory.mktemp("authors") / FILE
    torch.manual_seed(0)
    torch.save(released.random_state(TINY), file)
    return file.read_bytes()


@pytest.fixture
def page(local_hub, weights, monkeypatch, tmp_path):
    """A release page on this machine, from which the table's `NAME` is."""
    config, _ = convert_released(released.random_state(TINY))
    entry = replace(MODELS[NAME], config=config, source=f"{local_hub.url}/releases/{FILE}")
    monkeypatch.setitem(MODELS, NAME, entry)
    monkeypatch.setattr(checkpoints, "BUNDLED", tmp_path / "bundled")
    monkeypatch.setattr(checkpoints, "FETCHED", tmp_path / "fetched")
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    local_hub.releases[FILE] = weights
    return local_hub


@pytest.fixture
def run(capsys, monkeypatch):
    """run(*arguments, answer=) -> (exit code, stdout, stderr)"""

    def run(*arguments, answer=None):
        asked = []
        monkeypatch.setattr(cli.typer, "confirm", lambda question: asked.append(question) or answer)
        with pytest.raises(SystemExit) as ended:
            cli.main(list(arguments))
        assert len(asked) == (answer is not None)
        return ended.value.code, *capsys.readouterr()

    return run


def asked_ranges(page) -> list[int]:
    """From which byte on each download of the file was asked for."""
    asked = [request.split() for request in page.requests if request.startswith("GET /large/")]
    starts = [parts[2] if len(parts) > 2 else "bytes=0-" for parts in asked]
    return [int(start[6:-1]) for start in starts if start != "bytes=0-0"]


def test_the_licence_is_shown_and_asked_for_and_the_name_works_afterwards(page, run, weights):
    code, out, err = run("fetch", NAME, answer=False)
    assert (code, err) == (2, "error: Nothing was downloaded.\n")
    assert "CC BY-NC-SA 4.0, non-commercial: https://creativecommons.org/licenses/by-nc-sa/4.0/" in out
    assert not page.requests

    code, out, err = run("fetch", NAME, answer=True)
    assert (code, out.count(sha256(weights).hexdigest())) == (0, 1)
    face = random_faces(size=MODELS[NAME].config.size)
    restored, _ = released.restore(released.random_state(TINY, seed=0), face)
    page.stop()
    with torch.inference_mode():
        torch.testing.assert_close(load_model(NAME)(face), restored, atol=1e-4, rtol=1e-4)
    assert run("fetch", NAME)[0] == 0  # it is here: nothing is asked, neither the user nor the network


def test_an_interrupted_download_goes_on_where_it_stopped(page, weights):
    page.cuts[FILE] = 20  # each time at half of what is left, until no more than a chunk is left and it is given up
    with pytest.raises(UserError, match="`python -m sparnet fetch sparnet` goes on where it stopped"):
        fetch.fetch(NAME)
    first = asked_ranges(page)
    assert first == sorted(first)
    page.requests.clear()
    page.cuts.clear()
    assert fetch.fetch(NAME).read_bytes() == weights
    assert asked_ranges(page)[0] >= first[-1] > 0.9 * len(weights)
    assert [file.name for file in fetch.fetch(NAME).parent.iterdir() if "part" in file.name] == []


@pytest.mark.parametrize("change", ["another version", "no ranges"])
def test_a_part_is_not_continued_by_another_file(page, weights, tmp_path, change):
    page.cuts[FILE] = 20
    with pytest.raises(UserError):
        fetch.fetch(NAME)
    page.cuts.clear()
    page.requests.clear()
    if change == "no ranges":
        page.ranges = False
    else:
        torch.save(released.random_state(TINY, seed=1), tmp_path / FILE)
        page.releases[FILE] = (tmp_path / FILE).read_bytes()
    assert fetch.fetch(NAME).read_bytes() == page.releases[FILE]
    assert (asked_ranges(page) == [0]) == (change == "another version")


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"<html>Log in to the network of this hotel</html>", "text or web page"),
        (b"PK\x03\x04" + bytes(1000), "not a PyTorch file"),
        (None, "holds another model than sparnet"),
    ],
)
def test_a_wrong_file_is_refused_and_not_kept(page, weights, tmp_path, sent, message):
    if sent is None:
        torch.save(released.random_state(replace(TINY, maps="3d")), tmp_path / FILE)
        sent = (tmp_path / FILE).read_bytes()
    page.releases[FILE] = sent
    with pytest.raises(UserError, match=f"is not what it should be, and was not kept: .*{message}"):
        fetch.fetch(NAME)
    assert [file.name for file in MODELS[NAME].path.parent.iterdir() if file.suffix != ".lock"] == []
    page.releases[FILE] = weights
    assert fetch.fetch(NAME).read_bytes() == weights


def test_a_file_of_another_hash_than_the_table_knows_is_refused(page, monkeypatch):
    monkeypatch.setitem(MODELS, NAME, replace(MODELS[NAME], sha256="0" * 64))
    with pytest.raises(UserError, match=f"not {'0' * 64}"):
        fetch.fetch(NAME)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda page: page.releases.clear(), "404"),
        (lambda page: setattr(page, "broken", True), "503"),
        (lambda page: page.stop(), "refused"),
    ],
)
def test_what_cannot_be_had_is_told_with_another_way(page, run, fault, message):
    fault(page)
    code, _, err = run("fetch", NAME, "--yes")
    assert code == 2
    assert message in err
    assert f"save it as {MODELS[NAME].path}" in err


def test_a_bundled_model_is_here_already_and_a_name_that_is_none_is_told(run):
    code, out, _ = run("fetch", "sparnet-tiny")
    assert code == 0
    assert MODELS["sparnet-tiny"].sha256 in out
    code, _, err = run("fetch", "sparnet-huge")
    assert code == 2
    assert "There is no model 'sparnet-huge'" in err


def test_a_repo_of_the_hub_is_fetched_the_same_way_and_works_offline_afterwards(page, run, tmp_path, monkeypatch):
    SPARNet(SMALL).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# Mine")
    page.commit("me/mine", {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()})
    code, out, _ = run("fetch", "me/mine", answer=False)
    assert code == 2
    assert "cc-by-nc-4.0" in out
    assert not [request for request in page.requests if "resolve" in request]
    assert run("fetch", "me/mine", answer=True)[0] == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_model("me/mine").config == SMALL
    code, _, err = run("fetch", "me/none", "--yes")
    assert code == 2
    assert "offline" in err


def test_the_host_of_a_space_names_models_by_the_environment(page, tmp_path, monkeypatch, caplog):
    SPARNet(SMALL).save_pretrained(tmp_path / "model")
    page.commit("me/mine", {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()})
    monkeypatch.setenv("SPARNET_FETCH", f"{NAME}, me/mine me/none")
    monkeypatch.setattr(models, "_offered", {})
    assert NAME not in models.models_here()
    models.fetch_named_by_host()
    assert {NAME, "me/mine"} <= set(models.models_here())
    assert "CC BY-NC-SA 4.0" in caplog.text
    assert "The Hub has no public model me/none" in caplog.text  # and the page starts without it
