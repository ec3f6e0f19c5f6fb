"""What a Hugging Face Space makes of this repository: its front matter, and the packages it installs."""

import importlib.metadata
import json
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


def set_of_a_space(known: dict[str, list[str]]) -> tuple[list[str], set[str]]:
    """What is required without the pin that would do, and the packages of which neither is known what they require.

    known: the requirements of packages that are not installed here.
    """
    lines = [*GIVEN, *(ROOT / "requirements.txt").read_text().splitlines()]
    asked = [Requirement(line) for line in lines if line and not line.startswith("#")]
    extras, refused, unknown = {}, [], set()
    while asked:
        wanted = asked.pop()
        name = canonicalize_name(wanted.name)
        if name == "setuptools":  # of the Python that is there
            continue
        if name not in PINS or PINS[name] not in wanted.specifier:
            refused.append(f"{wanted}, pinned {PINS.get(name)}")
            continue
        new = ({""} | wanted.extras) - extras.setdefault(name, set())
        extras[name] |= new
        requires = known.get(name)
        if requires is None:
            try:
                installed = importlib.metadata.distribution(name)
            except importlib.metadata.PackageNotFoundError:
                unknown.add(name)
                continue
            if installed.version.partition("+")[0] != PINS[name]:
                refused.append(f"{name} {installed.version} is installed, pinned {PINS[name]}")
            requires = installed.requires or []
        found = map(Requirement, requires)
        asked += [one for one in found if any(not one.marker or one.marker.evaluate({"extra": e}) for e in new)]
    return refused, unknown


def test_what_a_space_requires_is_pinned_to_what_was_tested():
    refused, unknown = set_of_a_space({})
    assert refused == []
    assert unknown <= {"authlib", "itsdangerous", "spaces"}  # which only a Space installs


def test_so_is_what_only_a_space_requires(tmp_path, request):
    """Once for each set: it asks the package index."""
    files = ("requirements.txt", "constraints.txt")
    asked = sha256("".join([*GIVEN, *((ROOT / name).read_text() for name in files)]).encode()).hexdigest()
    if request.config.cache.get("space/resolved", "") == asked:
        return
    known, report = {}, tmp_path / "report.json"
    while (found := set_of_a_space(known))[1]:
        done = pip("--no-deps", "-c", "constraints.txt", "--report", report, *found[1])
        if done.returncode and pip("--no-deps", "spaces").returncode:
            pytest.skip("no package index answers here, so nobody knows what only a Space installs")
        assert done.returncode == 0, done.stderr
        for package in json.loads(report.read_text())["install"]:
            known[canonicalize_name(package["metadata"]["name"])] = package["metadata"].get("requires_dist", [])
    assert found[0] == []
    request.config.cache.set("space/resolved", asked)
