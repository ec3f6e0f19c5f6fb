"""The package as others get it: built, installed into an environment of its own, run from another folder."""

import os
import re
import runpy
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import skimage.data

import sparnet_command
import training
from sparnet import cli, images

ROOT = Path(__file__).parents[1]
BUILD = ("wheel", "--no-build-isolation", "--no-deps", "--no-index")


def pip(*arguments) -> None:
    subprocess.run([sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *arguments], check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip(*BUILD, "-w", folder, ROOT)
    return next(folder.glob("*.whl"))


def test_an_installed_copy_restores_a_face_in_another_folder(wheel, tmp_path):
    """Its environment has the wheel, and from this one what the wheel requires."""
    venv.create(tmp_path / "environment", symlinks=True)
    command = tmp_path / "environment" / "bin" / "sparnet"
    pip("--python", command.with_name("python"), "install", "--no-deps", "--no-index", "--no-compile", wheel)
    packages = next(tmp_path.glob("environment/lib/python*/site-packages"))
    (packages / "required.pth").write_text(sysconfig.get_path("purelib"))
    images.save_png(skimage.data.astronaut(), tmp_path / "astronaut.png")

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    line = [command, "restore", "astronaut.png", "out.png"]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 face restored" in done.stdout
    assert "landmarks5" in done.stdout  # bundled weights too
    rows, columns = np.nonzero((images.load(tmp_path / "out.png") != skimage.data.astronaut()).any(axis=2))
    assert 140 < columns.mean() < 300  # her face is there
    assert 50 < rows.mean() < 200


@pytest.mark.parametrize("verb", sorted(sparnet_command.VERBS))
def test_a_verb_runs_the_module_that_it_stands_for(verb, monkeypatch):
    ran = []
    monkeypatch.setattr(runpy, "run_module", lambda module, **_: ran.append((module, sys.argv[1:])))
    monkeypatch.setattr(sys, "argv", ["sparnet", verb, "--help"])
    sparnet_command.main()
    assert ran == [(sparnet_command.VERBS[verb][0], ["--help"])]
    assert find_spec(ran[0][0])


def test_the_command_tells_of_every_verb(monkeypatch, capsys):
    monkeypatch.setattr(cli.app, "registered_commands", [*cli.app.registered_commands])
    monkeypatch.setattr(sys, "argv", ["sparnet"])
    with pytest.raises(SystemExit) as ended:
        sparnet_command.main()
    assert not ended.value.code
    told = capsys.readouterr().out
    for verb in ("restore", "models", "convert", "publish", "look", "train", "evaluate", "app"):
        assert re.search(rf"^\s+{verb}\s+\w", told, re.MULTILINE), verb


def test_every_file_of_the_packages_and_no_other_is_in_the_wheel(wheel):
    shipped = ("app.py", "sparnet_command.py", "sparnet", "viz", "training", "checkpoints")
    tracked = subprocess.run(["git", "ls-files", *shipped], cwd=ROOT, capture_output=True, text=True, check=True)
    expected = {re.sub("^checkpoints/", "sparnet/bundled/", name) for name in tracked.stdout.splitlines()}
    with ZipFile(wheel) as packed:
        assert {name for name in packed.namelist() if ".dist-info/" not in name} == expected


def test_the_files_of_requirements_say_what_the_package_requires():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert requirements("requirements.txt") == set(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        assert set(extra) <= requirements("requirements-dev.txt")
    extra = {re.split("[<>=]", line)[0] for line in project["optional-dependencies"]["train"]}
    assert set(training.NEEDS) == extra


def requirements(name: str) -> set[str]:
    lines = (ROOT / name).read_text().splitlines()
    return {line for line in lines if line and not line.startswith(("#", "-r"))}


def test_the_container_is_made_from_the_lists_of_make_app():
    for words in ("-r requirements.txt -c constraints.txt", "packages.txt"):
        assert all(words in (ROOT / name).read_text() for name in ("Makefile", "Dockerfile"))


def test_the_hooks_of_a_commit_run_the_ruff_that_make_lint_runs():
    asked = re.findall(r"ruff==[\d.]+", (ROOT / ".pre-commit-config.yaml").read_text())
    assert len(asked) == 2
    assert set(asked) <= set((ROOT / "constraints.txt").read_text().split())
