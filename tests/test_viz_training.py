"""One face's maps over the checkpoints of a training, and over the files that a run wrote."""

import numpy as np
import pytest
from made_up import small_network, small_subject

from sparnet.errors import UserError
from viz.instruments import training
from viz.instruments.training import of_checkpoints, of_run


def test_maps_over_a_training_are_those_of_each_checkpoint_in_order():
    checkpoints = [small_subject(model=small_network(seed), name=f"step {seed}") for seed in (2, 1, 0)]
    finding = training.study(of_checkpoints(iter(checkpoints)))
    assert finding.numbers["checkpoints"] == ["step 2", "step 1", "step 0"]
    for i, checkpoint in enumerate(checkpoints):
        for unit, alpha in checkpoint.model.trace(checkpoint.degraded).alphas.items():
            alpha = alpha[0, 0].detach().numpy()
            stack = finding.arrays[f"{unit}/over_time"]
            assert np.array_equal(stack[i], alpha)
            r = finding.numbers["units"][unit]["r_with_last"][i]
            assert r == pytest.approx(np.corrcoef(alpha.ravel(), stack[-1].ravel())[0, 1], abs=1e-5)
    assert finding.numbers["units"]["encoder.0"]["r_with_last"][-1] == pytest.approx(1)


def test_checkpoints_of_another_network_or_face_are_refused():
    with pytest.raises(UserError, match=r"units of b are not those of a"):
        of_checkpoints([small_subject(name="a"), small_subject(name="b", body_depth=1)])
    with pytest.raises(UserError, match="b was given another face than a"):
        of_checkpoints([small_subject(name="a"), small_subject(1, name="b")])
    with pytest.raises(UserError, match="at least one"):
        of_checkpoints([])


def test_a_run_is_read_in_the_order_of_its_steps_and_its_maps_settle_on_the_last(tmp_path):
    folder = tmp_path / "attention"
    folder.mkdir()
    last = np.random.default_rng(0).random((4, 4))
    maps = {500: 1 - last, 1000: last[::-1], 20000: last}
    for step, alpha in maps.items():
        face = np.full((8, 8, 3), step // 100, np.uint8)
        np.savez(folder / f"step-{step:07d}.npz", degraded=face, restored=face, **{"body.0": alpha})
    found = training.study(of_run(tmp_path))
    assert found.numbers["checkpoints"] == ["step 500", "step 1,000", "step 20,000"]
    r = found.numbers["units"]["body.0"]["r_with_last"]
    assert r == pytest.approx([-1, np.corrcoef(last[::-1].ravel(), last.ravel())[0, 1], 1])
    assert found.arrays["restored/over_time"][:, 0, 0, 0].tolist() == [5, 10, 200]
    view = found.view
    assert view.ordered
    assert [len(panels) for panels in view.groups.values()] == [2, 2, 2]
    np.savez(folder / "step-0030000.npz", degraded=face, restored=face, **{"body.0": np.zeros((8, 8))})
    with pytest.raises(UserError, match="different networks"):
        of_run(tmp_path)
    (folder / "step-0030000.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="Take it away"):
        of_run(tmp_path)
    with pytest.raises(UserError, match="training run"):
        of_run(folder)
