"""Probes read what is there, say so with intervals, and refuse what is not."""

import json
import re

import pytest
import torch

import worldkit as wk
from worldkit.assembly import build
from worldkit.cli.parser import main
from worldkit.errors import DataError
from worldkit.testing import check_objective
from worldkit.testing.examples import small_config
from worldkit.training.probe import _mlp, _ridge, _Rows, _score, probe


def rows(seed, f, episodes=20, frames=10):
    x = torch.randn(episodes * frames, 6, generator=torch.Generator().manual_seed(seed))
    return _Rows({"latent": x}, f(x), torch.arange(episodes).repeat_interleave(frames))


@pytest.mark.parametrize("f, linear, mlp", [
    (lambda x: x[:, :2] * 3 + 1, (0.99, 1.01), (0.9, 1.01)),
    (lambda x: x[:, :1].abs(), (-0.2, 0.2), (0.6, 1.01)),
    (lambda x: torch.randn(len(x), 1, generator=torch.Generator().manual_seed(7)), (-0.3, 0.2), (-0.6, 0.2)),
])
def test_probes_find_what_is_there(f, linear, mlp):
    train, test = rows(0, f, episodes=40), rows(1, f)
    usable = torch.ones(train.target.shape[1], dtype=torch.bool)
    for name, fit, (low, high) in (("linear", _ridge, linear), ("mlp", _mlp, mlp)):
        said = fit(train, test, "latent", usable, 0)
        score = _score("latent", name, said, test, train.target.mean(0), usable, 0)
        assert low < score.r2 < high and score.low <= score.r2 <= score.high, (name, score)


def test_the_command_and_a_missing_column(tmp_path, capsys):
    model = build(small_config(encoder="vit-cls", decoder="conv", dynamics=None, latent_action=None,
                               objective="decode-only"))
    model.save_pretrained(tmp_path / "model")
    data = ["--data", "push-32", "-o", "data.num_episodes=6", "-o", "data.episode_length=8"]
    assert main(["probe", str(tmp_path / "model"), *data, "--target", "position", "--max-clips", "20",
                 "--out", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert {(s["features"], s["probe"]) for s in found["scores"]} == {
        (f, p) for f in ("latent", "pixels") for p in ("linear", "mlp")}
    assert found["numbers"] == 6 and found["episodes"] > 1 and "95%" in capsys.readouterr().out
    with pytest.raises(DataError, match="no column 'nothing'.*--target; it has: .*position"):
        probe(model, "push-32", "nothing", data_options={"num_episodes": 4, "episode_length": 8})


def test_a_missing_target_is_told_before_all_else(tmp_path, capsys):
    model = build(small_config(encoder="vit-cls", decoder=None, dynamics="adaln-causal", latent_action=None,
                               objective="jepa", conditioners={"action": {"name": "action-mlp", "dim": 2}}))
    model.save_pretrained(tmp_path / "model")
    told = ["probe", str(tmp_path / "model"), "--data", "balls-32"]  # balls have no actions
    for target, said in (([], "a probe needs a column of numbers.*: name one with --target; balls-32 has: "),
                         (["--target", "nothing"], "no column 'nothing' of numbers"),
                         (["--target", "position"], "no entry or column 'action' for the condition 'action'")):
        assert main([*told, *target]) == 2
        heard = " ".join(capsys.readouterr().err.split())
        assert re.search(said, heard) and "position" in heard, heard


def test_a_decoder_learns_on_a_frozen_model():
    check_objective("decode-only", model={"decoder": "patch"})
    model = build(small_config(encoder="vit-cls", decoder="conv", dynamics="adaln-causal", latent_action=None,
                               objective="decode-only"))
    assert not any(p.requires_grad for part in (model.encoder, model.dynamics) for p in part.parameters())
    loss = model.train().loss(wk.Batch(torch.rand(2, model.clip_length, 3, 32, 32)))
    loss.total.backward()
    assert all(p.grad is not None for p in model.decoder.parameters())
    assert not model.encoder.projector.norm.training  # running statistics stay
