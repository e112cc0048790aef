"""Official DDLP / DLPv2 state dicts and hparams: every key used, contradictions named, other projects told apart.

Upstream's names are written down here for a small model; the numbers are random.
"""

import json
import re

import pytest
import torch

import worldkit as wk
from worldkit.cli import main
from worldkit.convert import from_ddlp, from_lpwm
from worldkit.convert.ddlp import canonical_key, config_from_hparams, target_of
from worldkit.errors import CheckpointError, ConfigError

VIDEO = {
    "ch": 3, "image_size": 32, "patch_size": 8, "n_kp_enc": 4, "n_kp_prior": 6, "anchor_s": 0.25,
    "learned_feature_dim": 3, "prior_channels": [8, 12, 16], "enc_channels": [8, 16, 32], "offset_std": 0.2,
    "scale_std": 0.3, "obj_on_alpha": 0.1, "obj_on_beta": 0.1, "use_correlation_heatmaps": True,
    "timestep_horizon": 6, "pint_dim": 16, "pint_layers": 2, "pint_heads": 4, "beta_kl": 0.1, "kl_balance": 1e-3,
}
IMAGE = {k: v for k, v in VIDEO.items() if "pint" not in k and k != "timestep_horizon"} | {
    "use_correlation_heatmaps": False, "use_tracking": False, "filtering_heuristic": "none", "n_kp_prior": 16,
}


def stack(prefix, channels, side, inputs, outputs, first=3):
    a = channels[0]
    shapes = {f"{prefix}main.in_block_1.main.conv_{inputs}_to_{a}.weight": (a, inputs, first, first),
              f"{prefix}main.in_block_2.main.conv_{a}_to_{a}.weight": (a, a, 3, 3),
              f"{prefix}keymap.weight": (outputs, channels[-1], 1, 1), f"{prefix}keymap.bias": (outputs,)}
    blocks = [("in_block_1", a), ("in_block_2", a)]
    for a, b in zip(channels, channels[1:], strict=False):
        shapes[f"{prefix}main.conv_in_{side}_0.main.conv_{a}_to_{b}.weight"] = (b, a, 3, 3)
        shapes[f"{prefix}main.conv_in_{b}_1.main.conv_{b}_to_{b}.weight"] = (b, b, 3, 3)
        blocks += [(f"conv_in_{side}_0", b), (f"conv_in_{b}_1", b)]
        side //= 2
    for name, width in blocks:
        shapes |= {f"{prefix}main.{name}.main.grouupnorm_{width}.{x}": (width,) for x in ("weight", "bias")}
    return shapes


def linear(name, inputs, outputs, bias=True):
    return {f"{name}.weight": (outputs, inputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


def glimpse_encoder(name, h, inputs, heads):
    shapes = stack(f"fg_module.{name}.cnn.", h["prior_channels"], 8, inputs, 32)
    shapes |= linear(f"fg_module.{name}.projection", 32 * 4, 256)
    for i in (0, 2):
        shapes |= linear(f"fg_module.{name}.backbone.{i}", 256, 256)
    for head, width in heads.items():
        shapes |= linear(f"fg_module.{name}.{head}", 256, width)
    return shapes


def perception(h):
    m, (a, b, c) = h["learned_feature_dim"], h["enc_channels"]
    shapes = stack("fg_module.prior.enc.", h["prior_channels"], 8, 3, 1)
    shapes |= glimpse_encoder("particle_attribute_enc", h, 3 + h["use_correlation_heatmaps"], {
        "x_head": 2, "y_head": 2, "scale_xy_head": 4, "obj_on_head": 2, "depth_head": 2})
    shapes |= glimpse_encoder("particle_features_enc", h, 3, {"features_head": 2 * m})
    shapes |= stack("bg_module.bg_cnn_enc.", h["enc_channels"], 32, 3, 32, first=7)
    shapes |= {**linear("bg_module.bg_enc.0", 32 * 64, 256), **linear("bg_module.bg_enc.2", 256, 256),
               **linear("bg_module.bg_enc.4", 256, 2 * m)}
    for name in ("fg_module.object_dec.fc", "bg_module.latent_to_feat_map.mlp"):
        shapes |= {**linear(f"{name}.0", m, 256), **linear(f"{name}.2", 256, 256), **linear(f"{name}.4", 256, 2048)}
    object_dec = {"conv_to_16.main.conv_32_to_32.weight": (32, 32, 3, 3), "conv_to_16.main.grouupnorm_32.weight": (32,),
                  "conv_to_16.main.grouupnorm_32.bias": (32,), "final_conv.main.conv_32_to_4.weight": (4, 32, 1, 1),
                  "final_conv.main.conv_32_to_4.bias": (4,)}
    shapes |= {f"fg_module.object_dec.{x}.{k}": v for x in ("main", "decode") for k, v in object_dec.items()}
    grow = {f"main.depth_up.main.conv_32_to_{c}.weight": (c, 32, 3, 3)}
    for name, (x, y) in (("conv_to_8", (c, b)), ("conv_to_16", (b, a))):
        grow[f"main.{name}.main.conv_{x}_to_{y}.weight"] = (y, x, 3, 3)
        grow |= {f"main.{name}.main.grouupnorm_{y}.{p}": (y,) for p in ("weight", "bias")}
    grow |= {f"final_conv.main.conv_{a}_to_3.weight": (3, a, 1, 1), f"final_conv.main.conv_{a}_to_3.bias": (3,)}
    return shapes | {f"bg_module.dec.{k}": v for k, v in grow.items()}


def mixer(h, patches=16):
    prefix = "fg_module.particle_mixer."
    shapes = stack(f"{prefix}cnn.", h["prior_channels"], 8, 3, 32)
    shapes |= {**linear(f"{prefix}pos_projection", 2, 64), **linear(f"{prefix}conv_projection", 32 * 4, 64)}
    conv = {"0.weight": (128, patches, 1), "0.bias": (128,), "2.weight": (patches, 128, 1), "2.bias": (patches,)}
    for name in ("conv", "mixer.0.fn"):
        shapes |= {f"{prefix}{name}.{k}": v for k, v in conv.items()}
    for name in ("dense", "mixer.1.fn"):
        shapes |= {**linear(f"{prefix}{name}.0", 128, 128), **linear(f"{prefix}{name}.2", 128, 128)}
    for name in ("mixer.0.norm", "mixer.1.norm", "mixer.2"):
        shapes |= {f"{prefix}{name}.{x}": (128,) for x in ("weight", "bias")}
    return shapes | linear(f"{prefix}mixer.3", 128, h["n_kp_enc"])


def dynamics(h):
    d, m, frames, tokens = h["pint_dim"], h["learned_feature_dim"], h["timestep_horizon"], h["n_kp_enc"] + 1
    shapes, fields = {}, {"xy": 2, "scale": 2, "obj_on": 1, "depth": 1, "features": m}
    for name, width in fields.items():
        prefix = f"particle_projection.{name}_projection"
        shapes |= {**linear(f"{prefix}.0", width, d), **linear(f"{prefix}.2", d, width)}
    for name, width in (("particle", 6 + m), ("bg_features", m)):
        prefix = f"particle_projection.{name}_projection"
        shapes |= {**linear(f"{prefix}.0", width, d), **linear(f"{prefix}.2", d, d)}
    for i in range(h["pint_layers"]):
        block = f"particle_transformer.blocks.{i}."
        shapes |= {f"{block}{n}.{x}": (d,) for n in ("ln1", "ln2") for x in ("weight", "bias")}
        for name in ("key", "query", "value", "proj"):
            shapes |= linear(f"{block}attn.{name}", d, d, bias=False)
        shapes |= {f"{block}attn.mask": (1, 1, 1, frames, 1, frames),
                   f"{block}attn.rel_pos_bias.rel_pos_bias": (2 * frames - 1, h["pint_heads"]),
                   f"{block}attn.rel_pos_bias.particle_rel_pos_bias": (2 * tokens - 1, h["pint_heads"])}
        shapes |= {**linear(f"{block}mlp.fc_1", d, 4 * d), **linear(f"{block}mlp.proj", 4 * d, d)}
    shapes |= {"particle_transformer.ln_f.weight": (d,), "particle_transformer.ln_f.bias": (d,)}
    shapes |= linear("particle_transformer.head", d, d, bias=False)
    for i in (0, 2):
        shapes |= linear(f"particle_decoder.backbone.{i}", d, d)
    for name, width in (("x", 2), ("y", 2), ("scale_xy", 4), ("obj_on", 2), ("depth", 2), ("features", 2 * m),
                        ("bg_features", 2 * m)):
        shapes |= linear(f"particle_decoder.{name}_head", d, width)
    return {f"dyn_module.{k}": v for k, v in shapes.items()}


def official(h):
    """A state dict of upstream's; tensors under two names are the same."""
    torch.manual_seed(0)
    buffers = dict.fromkeys(["logvar_kp", "mu_scale_prior", "logvar_scale_p", "logvar_offset_p", "obj_on_a_p",
                             "obj_on_b_p"], ())
    shapes = {**buffers, **perception(h), **(dynamics(h) if "pint_dim" in h else {}),
              **(mixer(h) if h.get("filtering_heuristic") == "none" else {})}
    state = {}
    for key, shape in shapes.items():
        same = canonical_key(key)
        state[key] = state[same] if same in state else 0.1 * torch.randn(shape)
    return state


def saved(state, folder):
    torch.save(state, folder / "model.pth")
    return folder / "model.pth"


@pytest.mark.parametrize("h", [VIDEO, IMAGE], ids=["video", "images"])
def test_every_key_has_its_place(h, tmp_path):
    state = official(h)
    model = from_ddlp(saved(state, tmp_path), h)
    parameters, filled = dict(model.named_parameters()), {}
    for key in {canonical_key(k) for k in state}:
        if (target := target_of(key, model)) is not None:
            part = target.read(parameters[target.name])
            assert torch.equal(part.flatten(), state[key].flatten()), key
            filled[target.name] = filled.get(target.name, 0) + part.numel()
    assert filled == {name: p.numel() for name, p in parameters.items()}
    video = torch.rand(1, model.clip_length, 3, 32, 32)
    assert torch.isfinite(model.loss(wk.Batch(video)).total)
    if h is VIDEO:
        assert model.rollout(video[:, :3], 5).video.shape == (1, 5, 3, 32, 32)


def test_configuration_of_either_kind():
    video, image = config_from_hparams(VIDEO), config_from_hparams(IMAGE)
    assert (video.dynamics.name, video.dynamics.depth_logvar, video.encoder.tracking) == ("pint-joint", "shared", True)
    assert (video.encoder.correlation_norm, video.objective.background_kl) == ("batch", "mean")
    assert (image.dynamics, image.timestep_horizon, image.encoder.tracking) == (None, 1, False)
    assert (image.encoder.select, image.objective.background_kl) == ("mixer", "sum")


@pytest.mark.parametrize("name, value, said", [
    ("n_kp_enc", 5, "n_kp_enc is 5 in the hparams, 4 in the weights: dyn_module.*particle_rel_pos_bias is [9, 4]"),
    ("timestep_horizon", 10, "timestep_horizon is 10 in the hparams, 6 in the weights: "),
    ("pint_dim", 32, "pint_dim is 32 in the hparams, 16 in the weights: dyn_module.*head.weight is [16, 16]"),
    ("pint_heads", 2, "pint_heads is 2 in the hparams, 4 in the weights"),
    ("pint_layers", 3, "pint_layers is 3 in the hparams, 2 in the weights"),
    ("learned_feature_dim", 4, "learned_feature_dim is 4 in the hparams, 3 in the weights"),
    ("prior_channels", [8, 12, 20], "prior_channels is [8, 12, 20] in the hparams, of the widths [8, 12, 16] in"),
    ("enc_channels", [8, 16, 64], "enc_channels is [8, 16, 64] in the hparams, of the widths [8, 16, 32] in"),
    ("use_correlation_heatmaps", False, "use_correlation_heatmaps is False in the hparams, but * sees 4 channels, not"),
    ("use_tracking", False, "the hparams are of a model of images, without dynamics; the weights are of one of video"),
    ("image_size", 64, "bg_module.bg_enc.0.weight is [256, 2048], but encoder.background.0.weight needs [256, 8192]"),
    ("anchor_s", 0.5, "needs [256, 512]"),
    ("patch_size", 16, "keys with no place in this model:"),
])
def test_hparams_that_contradict_the_weights_are_named_with_them(name, value, said, tmp_path):
    with pytest.raises(CheckpointError) as error:
        from_ddlp(saved(official(VIDEO), tmp_path), VIDEO | {name: value})
    assert re.search(re.escape(said).replace(r"\*", ".*"), str(error.value)), str(error.value)
    assert str(error.value).startswith("the checkpoint and its hparams disagree")


def test_a_checkpoint_of_another_project_is_told_its_converter(tmp_path):
    ddlp, lpwm = saved(official(VIDEO), tmp_path), tmp_path / "lpwm.pth"
    torch.save({"encoder_module.bg_enc.weight": torch.zeros(1)}, lpwm)
    with pytest.raises(CheckpointError, match="of LPWM / DLPv3, not of DDLP / DLPv2: use worldkit convert lpwm"):
        from_ddlp(lpwm, VIDEO)
    with pytest.raises(CheckpointError, match="of DDLP / DLPv2, not of LPWM / DLPv3: use worldkit convert ddlp"):
        from_lpwm(ddlp, {"image_size": 32})
    diffusion = tmp_path / "diffusion.pth"
    torch.save({"step": 1, "model": {"model.particle_projection.0.weight": torch.zeros(1)}}, diffusion)
    for convert in (from_ddlp, from_lpwm):
        with pytest.raises(CheckpointError, match="of DiffuseDDLP, .*: use worldkit convert diffuse-ddlp"):
            convert(diffusion, VIDEO)


def test_hparams_of_another_project_are_told_their_converter(tmp_path):
    with pytest.raises(ConfigError, match="lack the key '.*'; they are of LPWM / DLPv3: use worldkit convert lpwm"):
        config_from_hparams({"obj_ch_mult": [1, 2], "image_size": 64, "ch": 3})
    with pytest.raises(ConfigError, match="lack the key '.*'; they are of DDLP / DLPv2: use worldkit convert ddlp"):
        wk.convert.lpwm.config_from_hparams(VIDEO)
    with pytest.raises(ConfigError, match=r"lack the key 'image_size'; is this an hparams.json of DDLP / DLPv2\?"):
        config_from_hparams({})
    with pytest.raises(ConfigError, match="encoder.num_particles: Input should be a valid integer"):
        config_from_hparams(VIDEO | {"n_kp_enc": "many"})


def test_what_no_official_model_uses_is_refused():
    for name, value in (("enable_enc_attn", True), ("use_resblock", True), ("filtering_heuristic", "other")):
        with pytest.raises(ConfigError, match=name):
            config_from_hparams(VIDEO | {name: value})


def test_the_command(tmp_path, capsys):
    checkpoint = saved(official(VIDEO), tmp_path)
    (tmp_path / "hparams.json").write_text(json.dumps(VIDEO))
    out = tmp_path / "out"
    files = [str(checkpoint), "--hparams", str(tmp_path / "hparams.json"), "--out", str(out)]
    assert main(["convert", "ddlp", *files]) == 0
    assert "every key used" in capsys.readouterr().out
    assert wk.create_model(f"dir:{out}").config.dynamics.depth_logvar == "shared"
    assert main(["convert", "lpwm", *files]) != 0
    assert "use worldkit convert ddlp" in capsys.readouterr().err
