"""Joint embedding prediction: sizes, teachers, bad input, and that collapse is noticed."""

import copy
import json
import math
import os
from pathlib import Path

import pytest
import torch

import worldkit as wk
from worldkit.assembly import build
from worldkit.cli.parser import main
from worldkit.convert import from_lewm, from_vjepa2, from_vjepa2_ac
from worldkit.data import ArraySource, ClipDataset
from worldkit.errors import CheckpointError
from worldkit.objectives.collapse import health
from worldkit.objectives.jepa import JEPA
from worldkit.objectives.teacher import Teacher
from worldkit.planning import LatentDistance, Shooting
from worldkit.storage.hub import load_parts
from worldkit.storage.sharing import export_model
from worldkit.testing import check_objective
from worldkit.testing.examples import example_batch, small_config
from worldkit.training.evaluation import validation_loss
from worldkit.training.watch import Watch

COUNTS = Path(os.environ.get("WORLDKIT_PARITY", Path(__file__).parents[2] / "shared" / "parity")) / "jepa"


def size(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.skipif(not COUNTS.exists(), reason="golden files not found; set WORLDKIT_PARITY")
def test_parameter_counts():
    """Every recorded count, of ours on no memory."""
    said = json.loads((COUNTS / "parameter_counts.json").read_text())

    def empty(name, **options):
        with torch.device("meta"):
            return build(wk.create_config(name, **options))

    def with_table(module):
        return {"total": size(module) + module.where.table.numel(), "trainable": size(module)}

    lewm = empty("lewm")
    found = {"lewm/total": size(lewm), "lewm/predictor": size(lewm.dynamics) - size(lewm.dynamics.outputs)}
    parts = {"encoder": lewm.encoder.net, "projector": lewm.encoder.projector, "pred_proj": lewm.dynamics.outputs,
             "action_encoder_10d": lewm.conditioners["action"]}
    found |= {f"lewm/{name}": size(part) for name, part in parts.items()}
    for name, patch in (("tiny", 16), ("small", 16), ("base", 16), ("large", 16), ("huge", 14), ("huge", 16),
                        ("giant", 16)):
        model = empty(f"ijepa-{name}", encoder={"patch_size": patch})
        found[f"ijepa/vit_{name}/{patch}@224"] = with_table(model.encoder.net)
        found[f"ijepa/predictor for vit_{name}/{patch}"] = with_table(model.objective.predictor)
    for ours, theirs in (("large", "large"), ("huge", "huge"), ("giant", "giant_xformers")):
        model = empty(f"vjepa2-{ours}")
        found[f"vjepa2/vit_{theirs}"] = size(model.encoder)
        found[f"vjepa2/predictor for vit_{theirs} (10 mask tokens)"] = size(model.objective.predictor)
    found["dino-wm predictor, swm default (256 patches, dim 384+10+10, 3 frames)"] = size(empty("dino-wm").dynamics)
    original = empty("dino-wm", obs__height=196, obs__width=196)
    found["dino-wm predictor, original (196 patches)"] = size(original.dynamics)
    ac = empty("vjepa2-ac").dynamics
    found["vjepa2-ac predictor (1408->1024x24x16)"] = size(ac)
    found["vjepa2-ac: extrinsics_encoder is always built"] = size(ac.cameras)
    assert {name: found.get(name) for name in said} == said


LEWM = {"encoder": "vit-cls", "decoder": None, "dynamics": "adaln-causal", "latent_action": None,
        "conditioners": {"action": {"name": "action-mlp", "dim": 3}}}


def test_a_slow_copy_gives_targets_and_is_saved(tmp_path):
    model = build(small_config(**LEWM, objective={"name": "jepa", "target": "ema", "momentum": (0.5, 1.0),
                                                  "momentum_steps": 2}))
    assert isinstance(model.objective.teacher, Teacher)
    before = model.objective.teacher.net.net.cls.detach().clone()
    with torch.no_grad():
        model.encoder.net.cls.add_(1.0)
    model.objective.after_step(model, 1)  # momentum 0.75
    assert torch.allclose(model.objective.teacher.net.net.cls - before, torch.tensor(0.25))
    model.save_pretrained(tmp_path / "model")
    again = wk.WorldModel.from_pretrained(tmp_path / "model")
    assert torch.equal(again.objective.teacher.net.net.cls, model.objective.teacher.net.net.cls)
    export_model(tmp_path / "model", tmp_path / "shared")
    shared = wk.WorldModel.from_pretrained(tmp_path / "shared")  # its slow copy begins anew
    assert torch.equal(shared.objective.teacher.net.net.cls, model.encoder.net.cls)


def test_bad_input():
    with pytest.raises(wk.ConfigError, match="does not divide into patches.*obs.height="):
        build(small_config(encoder={"name": "jepa-vit", "patch_size": 7}, dynamics=None, latent_action=None))
    with pytest.raises(wk.ConfigError, match="tiled-rotary.*lower encoder.num_heads"):
        build(small_config(encoder={"name": "jepa-vit", "dim": 16, "num_heads": 4, "positions": "tiled-rotary"},
                           dynamics=None, latent_action=None))
    with pytest.raises(wk.IncompatibleComponentsError, match="cannot do: set encoder='jepa-vit'"):
        build(small_config(encoder="vit-cls", decoder=None, dynamics=None, latent_action=None, objective="masked-jepa"))
    masked = {"encoder": "jepa-vit", "decoder": None, "dynamics": None, "latent_action": None}
    model = build(small_config(**masked, objective={"name": "masked-jepa", "image": {"min_keep": 20}}))
    with pytest.raises(wk.ConfigError, match="min_keep 20"):
        model.loss(example_batch(model.config))
    with pytest.raises(wk.IncompatibleComponentsError, match="vicreg.inverse"):
        build(small_config(**{**LEWM, "conditioners": {}}, objective={"name": "jepa", "vicreg": {"inverse": 1.0}}))
    with pytest.raises(wk.NoDecoderError):
        build(small_config(**LEWM, objective="jepa")).decode(None)


CLIPS = {"name": "jepa-vit", "tubelet": 2, "frames": 2, "positions": "sincos-3d-uniform"}


@pytest.mark.parametrize("encoder, masks, said", [
    ("jepa-vit", {"image": {"context_scale": (0.01, 0.01), "target_scale": (0.4, 0.4), "min_keep": 1}},
     "masks leave no context: .*raise objective.image.context_scale"),
    (CLIPS, {"clips": [{"num_blocks": 4, "spatial_scale": [1.0, 1.0], "aspect": [1.0, 1.0]}], "num_frames": 2},
     "masks leave nothing to show: 4 blocks .*lower num_blocks or spatial_scale of objective.clips"),
])
def test_masks_that_hide_everything(encoder, masks, said):
    masked = {"encoder": encoder, "decoder": None, "dynamics": None, "latent_action": None}
    model = build(small_config(**masked, objective={"name": "masked-jepa", **masks}))
    with pytest.raises(wk.ConfigError, match=said):
        model.loss(example_batch(model.config))


@pytest.mark.parametrize("encoder, masks, said", [
    ("jepa-vit", {"image": {"target_scale": [2.0, 2.0]}}, "image.target_scale: shares, at most 1"),
    ("jepa-vit", {"image": {"context_scale": [1.0, 0.5]}}, "image.context_scale: the smallest and the largest one"),
    ("jepa-vit", {"image": {"target_aspect": [0.0, 1.0]}}, "image.target_aspect: the smallest and the largest one, a"),
    (CLIPS, {"clips": [], "num_frames": 2}, "clips: .* at least 1 item"),
    ({**CLIPS, "tubelet": 3}, {"num_frames": 2}, "no multiple of encoder.tubelet 3: -o encoder.frames=3"),
])
def test_masks_and_clips_that_cannot_be(encoder, masks, said):
    with pytest.raises(wk.ConfigError, match=said):
        build(small_config(encoder=encoder, decoder=None, dynamics=None, latent_action=None,
                           objective={"name": "masked-jepa", **masks}))


def test_a_model_that_predicts_nothing_plans_nothing(tmp_path, capsys):
    build(small_config(encoder="jepa-vit", decoder=None, dynamics=None, latent_action=None,
                       objective="masked-jepa")).save_pretrained(tmp_path / "model")
    assert main(["plan", str(tmp_path / "model"), "--data", "push-32"]) == 2
    heard = " ".join(capsys.readouterr().err.split())
    assert "predicts nothing, so there is nothing to plan with: train one that does" in heard


def test_two_views_where_one_is_expected():
    with pytest.raises(wk.ConfigError, match="'vit-cls' sees one view, and these observations have 2.*'jepa-vit'"):
        build(small_config(**LEWM, obs__views=2, objective="jepa"))
    with pytest.raises(wk.ShapeError, match="video must have 5 axes .*has 2 views: .* is made with obs.views=2"):
        build(small_config(**LEWM, objective="jepa")).encode(torch.rand(1, 2, 3, 3, 32, 32))
    with pytest.raises(wk.ShapeError, match="video must have 6 axes .*has one view: .* is made with obs.views=1"):
        build(small_config(obs__views=2)).encode(torch.rand(1, 3, 3, 32, 32))


def test_spread_over_a_batch_of_one_clip_is_refused_and_none_is_left_over_in_validation():
    model = build(small_config(**LEWM, objective={"name": "jepa", "vicreg": {"std": 1.0}}))
    clip = example_batch(model.config, batch=1)
    with pytest.raises(wk.ConfigError, match="this batch has one: set train.batch_size and train.eval_clips to 2"):
        model.loss(clip)
    item = {"video": (255 * clip.video[0]).byte(), **{name: value[0] for name, value in clip.conditions.items()}}
    clips = ClipDataset(ArraySource([item] * 5), num_frames=clip.video.shape[1])
    assert math.isfinite(validation_loss(model, clips, max_clips=5, batch_size=4, step=0))


def test_a_planner_on_a_model_without_actions():
    model = build(small_config(**{**LEWM, "conditioners": {}}, objective="jepa"))
    with pytest.raises(wk.ConfigError, match="told no condition 'action' of actions, so there is nothing to plan"):
        Shooting(model, torch.rand(1, 1, 3, 32, 32), LatentDistance(), goal=torch.rand(1, 3, 32, 32))


FOREIGN = {"encoder": {"some.weight": torch.zeros(1)}, "predictor": {"action_encoder.weight": torch.zeros(4, 7)}}


@pytest.mark.parametrize("convert, given, said", [
    (from_lewm, {"encoder.some.weight": torch.zeros(1)}, "no LeWM or PLDM checkpoint.*it lacks predictor.pos_embed"),
    (from_vjepa2, {"state": {}}, "no V-JEPA 2 checkpoint: it has no encoder"),
    (from_vjepa2, FOREIGN, "no V-JEPA 2 encoder: it lacks patch_embed.proj.weight and .* has some.weight"),
    (from_vjepa2_ac, FOREIGN, "no V-JEPA 2 encoder: it lacks patch_embed.proj.weight"),
    (from_vjepa2_ac, {"encoder": {}}, "no V-JEPA 2-AC checkpoint: it has no predictor.*take from_vjepa2"),
])
def test_a_converter_is_given_another_model(convert, given, said):
    with pytest.raises(CheckpointError, match=said):
        convert(given)


def test_weights_of_another_encoder(tmp_path):
    build(small_config(**LEWM, objective="jepa")).save_pretrained(tmp_path)
    other = build(small_config(**{**LEWM, "encoder": {"name": "vit-cls", "num_layers": 2}}, objective="jepa"))
    with pytest.raises(CheckpointError, match="cannot give this model its encoder(.|\n)*num_layers"):
        load_parts(other, str(tmp_path), ("encoder",))


def test_collapse_is_noticed_while_training():
    """Nothing keeps latents apart, so the best prediction is that they are all the same; with SIGReg they are not."""
    said = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        encoder = {"name": "vit-cls", "patch_size": 16, "dim": 12, "num_heads": 2, "num_layers": 1, "projector": None}
        model = build(small_config(**{**LEWM, "encoder": encoder}, timestep_horizon=2, objective={
            "name": "jepa", "sigreg": {"weight": weight, "projections": 32}}))
        batch, watch = example_batch(model.config, batch=8), Watch()
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        found = []
        for step in range(70):
            loss = model.train().loss(batch, step)
            optimizer.zero_grad()
            loss.total.backward()
            optimizer.step()
            found += watch.look(3 * step, {name: float(value) for name, value in loss.terms.items()})
        said[weight] = found
    assert len(said[0.0]) == 1 and "collapsed" in said[0.0][0] and "sigreg" in said[0.0][0]
    assert not said[1.0]
    assert len(model.objective.notes(model)) == 0


def test_health():
    torch.manual_seed(0)
    assert health(torch.ones(8, 3, 4))["embedding_rank"] == 0
    assert health(torch.randn(2000, 1, 6))["embedding_rank"] > 5.8
    again = Watch()
    again.load_state_dict({"mean": {}, "lowest": {}, "since": {}, "said": []})  # of a run before there was this sign


def test_teachers_that_do_not_keep_still_are_told():
    class Restless(JEPA):
        def prepare(self, model):
            self.teacher = copy.deepcopy(model.encoder).requires_grad_(False)  # follows model.train()

        def after_step(self, model, step):
            pass

        def _targets(self, batch, z, sampler):
            return self._compared(self.teacher.see(batch, sampler=sampler).latent[:, 1:])

    with pytest.raises(AssertionError, match="teachers stay in evaluation mode"):
        check_objective(Restless, model={**LEWM, "objective": "jepa"}, sigreg={"weight": 0.1, "projections": 8})
    check_objective("jepa", target="ema", momentum=(0.9, 1.0))
