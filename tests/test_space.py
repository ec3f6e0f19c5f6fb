"""What a Hugging Face Space makes of this repository: its front matter, and the packages it installs."""

import importlib.metadata
import json
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import yaml
from huggingface_hub import SpaceHardware
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sparnet.faces import YUNET_FILE, YUNET_REPO

ROOT = Path(__file__).parents[1]
FRONT = yaml.safe_load((ROOT / "README.md").read_text().split("---\n")[1])
PINS = {
    canonicalize_name(name): version
    for name, version in (
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
}
GIVEN = [f"gradio[oauth,mcp]=={FRONT['sdk_version']}", "spaces"]  # what a Space of this SDK installs besides


def pip(*arguments) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "-q", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True)


def test_the_front_matter_is_that_of_this_page():
    assert (FRONT["sdk"], FRONT["sdk_version"]) == ("gradio", PINS["gradio"])
    assert (ROOT / FRONT["app_file"]).is_file()
    assert FRONT["python_version"] == "3.11"
    assert FRONT["suggested_hardware"] in set(SpaceHardware)
    assert f"{YUNET_REPO} {YUNET_FILE}" in FRONT["preload_from_hub"]
    assert len(FRONT["short_description"]) <= 60  # the Hub's limit


def test_gradio_s_extras_of_a_space_allow_the_set_that_was_tested():
    wanted = [Requirement(line) for line in importlib.metadata.requires("gradio") or []]
    extras = [{"extra": extra} for extra in ("", "oauth", "mcp")]
    asked = [one for one in wanted if not one.marker or any(one.marker.evaluate(extra) for extra in extras)]
    refused = [str(one) for one in asked if PINS[canonicalize_name(one.name)] not in one.specifier]
    assert refused == []


def test_pip_finds_that_set_for_a_space(tmp_path, request):
    """Once for each set: it asks the package index about every package."""
    files = ("requirements.txt", "constraints.txt")
    asked = sha256("".join([*GIVEN, *((ROOT / name).read_text() for name in files)]).encode()).hexdigest()
    if request.config.cache.get("space/resolved", "") == asked:
        return
    if pip("--no-deps", "spaces").returncode:
        pytest.skip("no package index answers here, so pip cannot resolve what a Space installs")
    report = tmp_path / "report.json"
    done = pip(*GIVEN, "-r", "requirements.txt", "-c", "constraints.txt", "--report", report)
    assert done.returncode == 0, done.stderr
    found = [package["metadata"] for package in json.loads(report.read_text())["install"]]
    chosen = {canonicalize_name(one["name"]): re.sub(r"\+.*", "", one["version"]) for one in found}
    del chosen["setuptools"]  # of the Python that is there
    assert chosen.items() <= PINS.items()
    request.config.cache.set("space/resolved", asked)
