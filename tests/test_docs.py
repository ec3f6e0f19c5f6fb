"""README and docs: what they tell people to type can be typed, and what they point to is there."""

import re
import runpy
import shlex
import sys
import threading
from pathlib import Path

import pytest
import skimage.data

from sparnet import images
from sparnet_command import VERBS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OURS = ("sparnet", "viz", "training")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Every line of a block of shell on the pages that starts a program of this project."""
    lines = [line for page in PAGES for text in blocks(page, "sh") for line in text.replace("\\\n", " ").splitlines()]
    return [line for line in lines if re.search(r"sparnet \w|-m (sparnet|viz|training)\b|app\.py", line)]


def module_of(line: str) -> tuple[str, list[str]]:
    """The module that a command starts, and its arguments."""
    words = shlex.split(line, comments=True)
    if "app.py" in words:
        return "app", words[words.index("app.py") + 1 :]
    if words[0] == "sparnet":
        return (VERBS[words[1]][0], words[2:]) if words[1] in VERBS else ("sparnet", words[1:])
    start = next(i for i, word in enumerate(words) if word == "-m" and words[i + 1].split(".")[0] in OURS)
    return words[start + 1], words[start + 2 :]


@pytest.mark.parametrize("line", commands(), ids=lambda line: " ".join(line.split()[:4]))
def test_every_command_exists_with_its_options(line, monkeypatch, capsys):
    module, arguments = module_of(line)
    verb = arguments[:1] if module in ("sparnet", "viz") else []
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # the trainer sets its own
    monkeypatch.setattr(sys, "argv", [module, *verb, "--help"])
    monkeypatch.delitem(sys.modules, module, raising=False)  # it is run anew, as a program
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert not ended.value.code
    known = set(re.findall(r"(?<![\w-])--[\w-]+", capsys.readouterr().out))
    assert {word.split("=")[0] for word in arguments if word.startswith("--")} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_python_compiles(page):
    for number, text in enumerate(blocks(page, "python")):
        compile(text, f"{page.name}, block {number}", "exec")


def test_the_readme_s_lines_of_python_restore_a_photo(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    images.save_png(skimage.data.astronaut(), Path("photo.jpg"))
    (text,) = blocks(ROOT / "README.md", "python")
    exec(compile(text, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 12  # units of sparnet-tiny
    assert (images.load(Path("restored.png")) != skimage.data.astronaut()).any()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_project_leads_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^):#]*)(#[^)]+)?\)", page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor[1:] in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 1000
