"""I-JEPA, V-JEPA 1 and 2 against recorded outputs of the official code: encoders, predictors, losses, updates."""

import pytest
import torch

from worldkit.assembly import build
from worldkit.config import WorldModelConfig
from worldkit.convert.vjepa import _fill, target_of
from worldkit.nn.positions import Rotation, sincos_2d, sincos_3d, tiled_angles, tiled_rotation
from worldkit.objectives.jepa import momentum
from worldkit.objectives.masks import Masks
from worldkit.training.optimizers import OptimizerConfig

from .jepa_files import D, Fixture, close, folders

FOUND, needs = folders("*jepa*")
CASES = [case for case in FOUND if case.name.startswith(("ijepa_t", "vjepa1_t", "vjepa2_t"))]
pytestmark = needs


def model_of(fixture):
    config, weights = fixture.config, {}
    weights = {f"{part}|{key.removeprefix('backbone.')}": x for part in ("encoder", "predictor")
               for key, x in fixture.weights(part).items()}
    clip = "tub" in config
    kind = "sincos-2d" if not clip else "tiled-rotary" if config.get("rope") else (
        "sincos-3d-uniform" if config["uniform_power"] else "sincos-3d")
    objective = {
        "name": "masked-jepa", "num_frames": config.get("frames", 1),
        "predictor": {"dim": config["pdim"], "num_layers": config["pdepth"], "num_heads": config["pheads"],
                      "mask_tokens": sum("mask_token" in key for key in weights)},
        "one_mask_token": bool(config.get("rope")), "spread": config.get("reg_coeff", 0.0),
        "distance": "power" if clip else "smooth-l1", "exponent": config.get("loss_exp", 1.0),
    }
    if not clip:
        opt = config["opt"]
        objective |= {"momentum": opt["ema"], "momentum_steps": round(opt["ipe"] * opt["epochs"] * opt["ipe_scale"])}
    model = build(WorldModelConfig.parse({
        "obs": {"height": config["img"], "width": config["img"]}, "timestep_horizon": 1, "decoder": None,
        "dynamics": None, "objective": objective,
        "encoder": {"name": "jepa-vit", "patch_size": config["patch"], "tubelet": config.get("tub", 1),
                    "frames": config.get("frames", 1), "dim": config["dim"], "num_layers": config["depth"],
                    "num_heads": config["heads"], "mlp_ratio": config.get("mlp", 4.0), "positions": kind,
                    "activation": "swiglu" if config.get("silu") else "gelu", "mean": [0.0], "std": [1.0]},
    })).to(D)
    _fill(model, weights)
    return model


def clips_of(x):
    return (x[:, :, None] if x.ndim == 4 else x).transpose(1, 2)


def sets_of(fixture, step):
    names = [f"masks_enc_{step}"] if "nenc" in fixture.config else [k for k in fixture.inputs if "masks_enc" in k]
    found = []
    for name in names:
        context, target = fixture.inputs[name], fixture.inputs[name.replace("enc", "pred")]
        found.append(Masks(context, target) if context.ndim == 3 else Masks(context[None], target[None]))
    return found


@pytest.mark.parametrize("folder", CASES, ids=lambda path: path.name)
def test_one_pass(folder):
    fixture = Fixture(folder)
    model, said = model_of(fixture), fixture.tensors
    picture = "nenc" in fixture.config
    clips, sets = clips_of(fixture.inputs["x"][0] if picture else fixture.inputs["x"]), sets_of(fixture, 0)
    encoder, objective = model.encoder, model.objective
    close(encoder.tokens(clips), said["encoder_full"], "tokens")
    whole = objective.targets(encoder, clips)
    for kind, masks in enumerate(sets):
        names = [name if picture else f"{name}_{kind}" for name in ("prediction", "target", "context")]
        found = objective.predict(encoder, clips, masks, whole, kind=kind)
        for ours, name in zip(found, names, strict=True):
            close(ours, said[name], name)
        if picture:
            off = found[0] - found[1]
            close(off.square().mean(), fixture.scalars["mse"], "squared error")
            close(off.abs().mean(), fixture.scalars["l1"], "absolute error")
    for key in ("interp", "nonsquare", "longer"):
        if f"encoder_{key}" in said:
            close(encoder.tokens(clips_of(fixture.inputs[f"x_{key}"])), said[f"encoder_{key}"], key)
    loss = objective.loss(model, clips, sets)
    loss.total.backward()
    close(loss.total, fixture.scalars["loss"], "loss")
    if "loss_reg" in fixture.scalars:
        close(loss.terms["prediction"], fixture.scalars["loss_jepa"], "prediction")
        close(loss.terms["spread"], fixture.scalars["loss_reg"], "spread")
    ours = dict(model.named_parameters())
    for key, norm in fixture.scalars["grad_norms"].items():
        part, _, name = key.partition(".")
        name = target_of(f"{part}|{name.removeprefix('backbone.')}")
        if "pos_embed" in name:
            assert not norm
        elif norm is None:
            assert ours[name].grad is None, key
        else:
            close(ours[name].grad.norm(), norm, key)
    if picture:
        close(objective.predictor.mask_tokens[0].grad, said["grad_mask_token"], "gradient of the mask token")
        close(objective.predictor.outputs.bias.grad, said["grad_pred_proj_bias"], "gradient of the last bias")


@pytest.mark.parametrize("folder", CASES, ids=lambda path: path.name)
def test_tables_of_positions(folder):
    fixture = Fixture(folder)
    model = model_of(fixture)
    for part, where in (("encoder", model.encoder.net.where), ("predictor", model.objective.predictor.where)):
        tables = [x for key, x in fixture.weights(part).items() if key.endswith("pos_embed")]
        assert len(tables) == (where.table is not None)
        for table in tables:
            close(where.table, table, f"table of the {part}", 1e-6)  # float32 there and here


def test_inside_the_encoder(monkeypatch):
    """Patches, attention and tokens of the first block of a picture's encoder."""
    for folder in CASES:
        fixture = Fixture(folder)
        if "attn_block0" not in fixture.tensors:
            continue
        net, said, seen = model_of(fixture).encoder.net, fixture.tensors, []
        clips = clips_of(fixture.inputs["x"][0]).transpose(1, 2)
        attend = torch.nn.functional.scaled_dot_product_attention

        def watched(q, k, v, attend=attend, seen=seen, **options):  # with the identity for values it gives the weights
            seen.append(attend(q, k, torch.eye(k.shape[-2], dtype=k.dtype).expand(*k.shape[:-1], -1), **options))
            return attend(q, k, v, **options)

        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
        patches, grid = net.embed(clips)
        close(patches, said["patch_embed"], "patches")
        close(net.blocks[0](patches + net.where.rows(grid)), said["block0_full"], "first block")
        close(seen[0], said["attn_block0"], "its attention")
        monkeypatch.undo()


def test_three_updates_and_the_slow_copy():
    for folder in CASES:
        fixture = Fixture(folder)
        if "nenc" not in fixture.config:
            continue
        model, said = model_of(fixture), fixture.tensors
        learns = [p for p in model.parameters() if p.requires_grad]
        optimizer = OptimizerConfig(name="adamw", decay="arrays", weight_decay=1.0).make(learns, module=model)
        for group in optimizer.param_groups:  # tables of positions, which never move, are among those that decay there
            decays = bool(group["weight_decay"])
            assert len(group["params"]) + 2 * decays == sum(
                count for plain, count in fixture.scalars["groups"] if plain != decays)
        for step, recorded in enumerate(fixture.scalars["steps"]):
            groups = optimizer.param_groups
            groups[0]["lr"] = groups[1]["lr"] = recorded["lr"]
            groups[0]["weight_decay"] = recorded["wd"]
            loss = model.objective.loss(model, clips_of(fixture.inputs["x"][step]), sets_of(fixture, step))
            close(loss.total, recorded["loss"], f"loss {step}")
            optimizer.zero_grad()
            loss.total.backward()
            optimizer.step()
            objective = model.objective.config
            close(momentum(objective.momentum, objective.momentum_steps, step), recorded["momentum"], "momentum")
            model.objective.after_step(model, step)
        clips = clips_of(fixture.inputs["x"][0])
        close(model.encoder.tokens(clips), said["after3_encoder_full"], "encoder")
        close(model.objective.teacher.net(clips.transpose(1, 2)), said["after3_target_full"], "slow copy")
        ours = dict(model.named_parameters())
        for key in (key for key in said if key.startswith("after3_") and "|" in key):
            close(ours[target_of(key.removeprefix("after3_"))], said[key], key)
        for part, norms in fixture.scalars["norms_after_3"].items():
            for key, norm in norms.items():
                if "pos_embed" not in key:
                    close(ours[target_of(f"{part}|{key}")].norm(), norm, key)


def test_positions():
    for folder in FOUND:
        if folder.name != "vjepa2_units":
            continue
        said = Fixture(folder).tensors
        x, where = said["rope_x"], said["rope_pos"]
        for positions, name in ((where, "rope_out"), (torch.arange(x.shape[-2]), "rope_out_arange")):
            angles = tiled_angles(positions.to(D), x.shape[-1])
            close(Rotation(angles.cos(), angles.sin())(x), said[name], name, 1e-6)  # stored in float32
        angles = tiled_angles(where.to(D), x.shape[-1])
        close(Rotation(angles.cos(), angles.sin())(x), said["rope_out_f64"], "rope_out_f64")
        close(sincos_2d(16, 3, 3, first="row"), said["sincos2d_D16_vjepa"], "V-JEPA's table of rows and columns")
        grid = (2, 3, 3)
        for dim in (24, 32):
            for uniform in (0, 1):
                close(sincos_3d(dim, *grid, uniform=bool(uniform)), said[f"sincos3d_D{dim}_up{uniform}"], "table")
        assert tiled_rotation(torch.zeros(3, 4), 12, like=x).cos.shape == (4, 12)
