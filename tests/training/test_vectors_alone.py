"""Training and scoring models that observe vectors, with and without pictures."""

import json

import numpy as np
import pytest

import worldkit as wk
from worldkit.data import collate
from worldkit.training import evaluate
from worldkit.training.plan import plan
from worldkit.training.recipes import make_trainer, open_clips, train

COMMON = {"dynamics": "gru", "latent_action": None, "obs": {"vectors": {"arm": 3}, "discrete": {"door": 2}}}
ALONE = {**COMMON, "encoder": {"name": "mlp", "units": 8}, "obs": {**COMMON["obs"], "height": 0, "width": 0}}
CONV = {"depth": 2, "multipliers": [2]}
BOTH = {**COMMON, "encoder": {"name": "multi", "image": CONV, "vectors": {"units": 8}},
        "decoder": {"name": "multi", "image": CONV, "vectors": {"units": 8}},
        "obs": {**COMMON["obs"], "height": 16, "width": 16}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arm")
    for i in range(4):
        rows = np.arange(20) + i
        np.savez(folder / f"{i}.npz", video=np.full((20, 16, 16, 3), 9 * i, np.uint8),
                 arm=np.sin(0.3 * rows[:, None] + np.arange(3)).astype(np.float32), door=rows % 2)
    return str(folder)


@pytest.mark.parametrize("overrides, metric", [(ALONE, "vector_error"), (BOTH, "psnr")], ids=["alone", "beside video"])
def test_training_scores_what_is_observed(data, tmp_path, overrides, metric):
    options = {"steps": 2, "batch_size": 2, "eval_clips": 2}
    dry = make_trainer("dvae-balls-mini", data, run=tmp_path / "run", overrides=overrides, train_overrides=options,
                       dry_run=True, show_progress=False)
    assert plan(dry)["first batch: vector arm"] == "torch.float32 [2, 6, 3]"
    model, _ = train("dvae-balls-mini", data, run=tmp_path / "run", overrides=overrides, train_overrides=options,
                     show_progress=False)
    entries = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    last = {name: value for entry in entries for name, value in entry.items()}
    assert {f"{metric}_prediction", "vector_error_prediction", "vector_error_copy_last", "vector/arm"} <= last.keys()
    assert ("psnr_prediction" in last) == (tmp_path / "run" / "figures").exists() == (metric == "psnr")
    again = wk.create_model(f"dir:{tmp_path / 'run'}")
    assert again.config.vectors == model.config.vectors

    report = evaluate(model, open_clips(model, data, split="all", num_frames=6), context_frames=2, max_clips=3,
                      driven_by=("sampled",), samples=2)
    scores = report["sampled"].scores
    assert {"vector_error", "mse_arm", "wrong_door"} <= scores["model"].keys() == scores["copy last frame"].keys()
    assert scores["copy last frame"]["wrong_door"].mean(0).tolist() == [1, 0, 1, 0]  # it opens and closes


def test_a_clip_without_its_vectors_is_refused(data):
    model = wk.create_model("dvae-balls-mini", **ALONE)
    batch = collate([open_clips(model, data, split="all", num_frames=6, vectors={"arm": "arm"})[0]])
    with pytest.raises(wk.ShapeError, match=r"reads the vector 'door', which .* lack \(their vectors: arm"):
        model.loss(batch)
