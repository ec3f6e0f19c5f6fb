"""A table from runs of our own: what its rows share, what is trained once, and whether its differences are right."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up import SMALL, pictures

from sparnet import SPARNet, images, load_model
from sparnet.errors import UserError
from sparnet.metrics import psnr
from training import study
from training.recipes import RECIPES, Recipe
from training.study import NONE, STUDIES, Plan, Row, Study, as_large, main, run_study, settle, trained

pytestmark = pytest.mark.usefixtures("fresh_accelerator", "quick")
TWO = Study("Is attention worth it?", (NONE, Row("sparnet", "2D")), NONE.label)


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("data")
    return pictures(folder / "faces", 6, side=36), pictures(folder / "held-out", 4, side=40)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Rehearsals smaller still."""

    def rehearsal(recipe):
        model = replace(SMALL, attention=recipe.model.attention, degraded_size=8)
        return replace(recipe, model=model, batch_size=2, precision="fp32")

    monkeypatch.setattr(Recipe, "rehearsal", rehearsal)
    monkeypatch.setattr(study, "VALIDATIONS", 2)


def parameters(config) -> int:
    return sum(weights.numel() for weights in SPARNet(config).parameters())


def plan(faces, out, **changes) -> Plan:
    return replace(Plan([faces[0]], faces[1], out, views=8, scale="rehearsal", workers=0), **changes)


@pytest.mark.parametrize("scale", ["full", "narrow"])
@pytest.mark.parametrize("name", STUDIES)
def test_all_rows_of_a_table_see_the_same_views_in_batches_of_one_size_over_one_schedule(name, scale, tmp_path):
    setup = Plan([], tmp_path, tmp_path, views=1000, scale=scale)
    recipes = [setup.recipe(row.recipe, "fp32") for row in STUDIES[name].rows]
    shared = ("batch_size", "steps", "zoom", "shift", "flip", "grey", "schedule", "precision")
    for field in shared:
        assert len({getattr(recipe, field) for recipe in recipes}) == 1, field
    assert {(recipe.model.size, recipe.model.degraded_size) for recipe in recipes} == {
        (128, 16) if scale == "full" else (64, 8)
    }
    assert recipes[0].batch_size * recipes[0].steps >= 1000
    for row, recipe in zip(STUDIES[name].rows, recipes, strict=True):
        assert recipe.loss == RECIPES[row.recipe].loss
        assert getattr(recipe.model, "attention", None) == getattr(RECIPES[row.recipe].model, "attention", None)
    assert STUDIES[name].against in [row.label for row in STUDIES[name].rows]


def test_a_table_has_the_paired_differences_of_its_rows_and_is_not_trained_twice(faces, tmp_path, monkeypatch):
    setup = plan(faces, tmp_path / "out")
    table = run_study(TWO, setup)
    models = [load_model(str(setup.folder(row) / "annealed")) for row in TWO.rows]
    scores = []
    for file in sorted(faces[1].iterdir()):
        sharp = images.resize(images.load(file), 32)
        degraded = images.to_tensor(images.degrade(sharp, 8))
        scores.append([psnr(images.to_image(model(degraded)), sharp) for model in models])
    found = table.differences["2D"]["psnr"]
    assert found.mean == pytest.approx(np.subtract(*np.array(scores).T[::-1]).mean())
    assert found.low <= found.mean <= found.high
    assert found.n == 4
    assert "no attention" not in table.differences
    paths = table.save("two")
    numbers = json.loads(paths[-1].read_text())
    assert numbers["differences"]["2D"]["psnr"]["mean"] == found.mean
    assert f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]" in (tmp_path / "out/two.md").read_text()
    assert [views for views, _ in table.curves["2D"]["validation/psnr"]] == [4, 8]
    assert "http" not in paths[0].read_text()
    monkeypatch.setattr(study, "train", lambda *_: pytest.fail("was trained already"))
    assert run_study(TWO, setup).differences == table.differences


def test_an_interrupted_table_goes_on_where_it_stopped(faces, tmp_path, monkeypatch):
    setup, begun, train = plan(faces, tmp_path / "out"), [], study.train

    def stopped(recipe, job):
        """The trainer of the second row is ended by a signal before its anneal is over."""
        begun.append(job.out.name)
        return train(recipe, replace(job, max_minutes=0) if len(begun) == 2 else job)

    monkeypatch.setattr(study, "train", stopped)
    assert run_study(TWO, setup) is None
    assert [trained(setup.folder(row)) for row in TWO.rows] == [True, False]
    assert run_study(TWO, setup) is not None
    assert begun == ["sparnet-no-attention", "sparnet", "sparnet"]


def test_rows_trained_otherwise_are_refused(faces, tmp_path):
    setup = plan(faces, tmp_path / "out")
    run_study(replace(TWO, rows=(NONE,)), setup)
    with pytest.raises(UserError, match=r"recipe\.steps 4, and it is now 8"):
        run_study(TWO, replace(setup, views=16))
    with pytest.raises(UserError, match="seed 0, and it is now 1"):
        run_study(TWO, replace(setup, seed=1))


def test_a_row_of_equal_parameters_has_a_body_as_deep_as_brings_it_nearest(tmp_path):
    setup = Plan([], tmp_path, tmp_path, views=1000, scale="narrow")
    goal, row = setup.recipe("sparnet", "fp32"), setup.recipe(NONE.recipe, "fp32")
    models = [replace(row.model, body_depth=depth) for depth in range(row.model.body_depth, 12)]
    nearest = min(models, key=lambda model: abs(parameters(model) - parameters(goal.model)))
    assert as_large(row, goal) == replace(row, model=nearest)
    assert as_large(goal, row) == goal


def test_a_row_of_equal_minutes_has_as_many_steps_as_its_speed_allows_and_keeps_them(faces, tmp_path, monkeypatch):
    pace = {"sparnet": 0.3, "sparnet-no-attention": 0.1}
    monkeypatch.setattr(study, "step_timer", lambda recipe, *_: lambda precision: pace[recipe.name])
    quick = Study("Quick?", (Row("sparnet", "2D"), Row(NONE.recipe, "none", "minutes")), "2D")
    setup = plan(faces, tmp_path / "out")
    table = run_study(quick, setup)
    assert table.views == {"2D": 8, "none": 24}
    pace["sparnet"] = 7.0  # measured once
    data = study.index_pictures(setup.data)
    assert settle(quick, setup, data, "cpu")["sparnet-no-attention-equal-minutes"].steps == 12


def test_a_command_that_cannot_be_is_refused_in_a_sentence(faces, tmp_path):
    given = {"data": [faces[0]], "validate": faces[1], "views": 8, "out": tmp_path / "out"}
    with pytest.raises(UserError, match="choose one of attention-units"):
        main(name="attention", **given)
    with pytest.raises(UserError, match="give one of them"):
        main(name="beyond", **given, narrow=True, rehearse=True)
    assert not (tmp_path / "out").exists()
