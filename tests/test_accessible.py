"""Everybody can use the page: axe-core finds nothing to object to in any tab, light and dark, with results shown."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page
from served import PATIENCE, served, watched

from sparnet import SPARNet, SPARNetConfig
from sparnet.faces import Face
from viz.tabs import compare, models

ASTRONAUT = Path(skimage.data.__file__).with_name("astronaut.png")
FACE = Face(np.array([180.0, 70, 265, 180]))
SMALL = SPARNetConfig(
    size=32, smallest=16, min_channels=8, max_channels=8, body_depth=1, bottleneck=16, hourglass_channels=8,
    degraded_size=16,
)  # fmt: skip
ALL_RULES = {"resultTypes": ["violations"]}
OF_COLOURS = ALL_RULES | {"runOnly": ["color-contrast", "link-in-text-block"]}  # that may say another thing in the dark
RESULTS = {  # what shows that a tab has them
    "Restore": "#stage img",
    "Compare": "#download-strip:enabled",
    "Many photos": "#many-result:enabled",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "models_here", lambda: list(models._offered))
        others = {"blind": SPARNet(replace(SMALL, degraded_size=None)).eval()}
        with served(tmp_path_factory.mktemp("page"), SPARNet(SMALL).eval(), [FACE], **others) as address:
            yield address


def objections(page: Page, options: dict) -> list[str]:
    """What axe-core finds: rule, element, and why."""
    violations = Axe().run(page, options=options).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:200]} {node['failureSummary']}"
        for rule in violations
        for node in rule["nodes"]
        if 'aria-label="Empty value"' not in node["html"]  # Gradio's own, for a moment, until a chart is drawn
    ]


def test_axe_objects_to_nothing_in_any_tab_light_or_dark(server, browser):
    with watched(browser, server) as page:
        page.add_style_tag(content="* { transition: none !important; animation: none !important; }")
        tabs = page.get_by_role("tablist").first.get_by_role("tab")
        tabs.first.wait_for()
        names = tabs.all_inner_texts()
        assert set(names) >= RESULTS.keys()
        for name in names:
            tabs.filter(has_text=name).click()
            if name == "Many photos":
                page.locator("#many-files input[type=file]").set_input_files(ASTRONAUT)
                page.locator("#many-files .download-link, #many-files a[download]").first.wait_for()
                page.locator("#many-run").click()
            page.locator(RESULTS.get(name, "body")).first.wait_for(timeout=PATIENCE)
            for options in (ALL_RULES, OF_COLOURS):  # light, dark
                assert objections(page, options) == []
                page.evaluate("document.body.classList.toggle('dark')")
