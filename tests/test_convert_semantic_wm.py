"""Official checkpoints of semantic-wm: every key has a place or a name, files are told apart, numbers are the recorded.

Upstream's names are written down here, with widths as the tests have them; the numbers are random.
"""

import pytest
import torch
from einops import rearrange

import worldkit as wk
from worldkit.cli import main
from worldkit.config import merge
from worldkit.convert import from_semantic_wm
from worldkit.convert.semantic_wm import official
from worldkit.distributions import MEANS
from worldkit.errors import CheckpointError, ConfigError

from .parity.semantic_files import Fixture, close, folders

WIDE, NARROW, DIM, ACTIONS = 16, 8, 32, 3
PICTURE = {"name": "jepa-vit", "patch_size": 8, "dim": WIDE, "num_layers": 1, "num_heads": 2}


def dense(name, *shape, bias=True):
    return {f"{name}.weight": shape, **({f"{name}.bias": shape[:1]} if bias else {})}


def half(name):
    """A block of the transformer."""
    return {**dense(f"{name}.adaLN_modulation.1", 6 * DIM, DIM),
            **dense(f"{name}.attn.qkv_proj", 3 * DIM, DIM, bias=False), **dense(f"{name}.attn.out_proj", DIM, DIM),
            **dense(f"{name}.ffwd.w12", 2 * (8 * DIM // 3), DIM), **dense(f"{name}.ffwd.w3", DIM, 8 * DIM // 3)}


def dit(channels=NARROW, wide=20, patch=1):
    shapes = {**dense("x_proj", DIM, channels, patch, patch), **dense("timestep_mlp.0", DIM, 256),
              **dense("timestep_mlp.2", DIM, DIM), **dense("action_embedder", DIM, ACTIONS)}
    for i in range(2):
        shapes |= half(f"blocks.{i}.s_block") | half(f"blocks.{i}.t_block")
    head, inner = ("head_final_layer", wide) if wide else ("final_layer", DIM)
    shapes |= dense("s_projector", wide, DIM) if wide else {}
    shapes |= dense(f"{head}.linear", patch**2 * channels, inner)
    return drawn(shapes | dense(f"{head}.adaLN_modulation.1", 2 * inner, inner))


def vit(name, dim, hidden):
    parts = {**dense(f"{name}.intermediate.dense", hidden, dim), **dense(f"{name}.output.dense", dim, hidden),
             **dense(f"{name}.layernorm_before", dim), **dense(f"{name}.layernorm_after", dim)}
    for x in ("attention.attention.query", "attention.attention.key", "attention.attention.value",
              "attention.output.dense"):
        parts |= dense(f"{name}.{x}", dim, dim)
    return parts


def svae():
    """Progressive: 16 numbers by way of 16 to 8, and a block at 8 behind the draw."""
    shapes = {**dense("enc_norm_high", WIDE), **dense("enc_down", WIDE, WIDE), **dense("enc_norm", WIDE),
              **dense("enc_proj", 2 * NARROW, WIDE), **dense("dec_proj", WIDE, NARROW), **dense("dec_norm_mid", WIDE),
              **dense("dec_up", WIDE, WIDE), **dense("dec_norm", WIDE), **dense("latent_enc_norm", NARROW),
              **dense("latent_dec_norm", NARROW)}
    for way in ("enc", "dec"):
        shapes |= vit(f"{way}_blocks.0", WIDE, 24) | vit(f"{way}_blocks_mid.0", WIDE, 4 * WIDE)
        shapes |= vit(f"latent_{way}_blocks.0", NARROW, 4 * NARROW)
    return drawn(shapes)


def mlp(width=WIDE):
    shapes = {}
    for name, widths in (("encoder_mlp", (width, 10, 10, NARROW)), ("decoder_mlp", (NARROW, 10, 10, width))):
        for i in range(3):
            shapes |= dense(f"{name}.{2 * i}", widths[i + 1], widths[i])
    return drawn(shapes)


def pixels(attention=True):
    def residual(name, before, after):
        skip = dense(f"{name}.skip", after, before, 1, 1) if before != after else {}
        return {**dense(f"{name}.norm1", before), **dense(f"{name}.conv1", after, before, 3, 3),
                **dense(f"{name}.norm2", after), **dense(f"{name}.conv2", after, after, 3, 3), **skip}

    def attend(name):
        return {**dense(f"{name}.norm", 16), **{k: v for x in ("q", "k", "v", "proj_out")
                                                for k, v in dense(f"{name}.{x}", 16, 16, 1, 1).items()}}

    return drawn({**dense("proj_in", 16, NARROW, 1, 1), **residual("mid_block1", 16, 16), **attend("mid_attn"),
                  **residual("mid_block2", 16, 16), **residual("up_levels.0.blocks.0", 16, 16),
                  **(attend("up_levels.0.attn") if attention else {}),
                  **dense("up_levels.0.upsample.conv", 16, 16, 3, 3), **residual("up_levels.1.blocks.0", 16, 8),
                  **dense("norm_out", 8), **dense("conv_out", 3, 8, 3, 3)})


def drawn(shapes):
    return {name: 0.1 * torch.randn(shape) for name, shape in shapes.items()}


def adapter_file(adapter=None, **more):
    return {"adapter": svae() if adapter is None else adapter, "optimizer": {"state": {}}, "step": 7,
            "adapter_config": {"heads": 4}, "encoder_config": {"name": "x"}, **more}


def convert(checkpoint, adapter=None, encoder=PICTURE, **overrides):
    heads = {"dynamics": {"num_heads": 2}} if "adapter" not in checkpoint else {}
    return from_semantic_wm(checkpoint, adapter=adapter, encoder=encoder, image_size=32, adapter_heads=4,
                            **merge(heads, overrides))


def test_a_whole_model_is_saved_and_rolls_out(tmp_path):
    file = {"model": dit(), "ema": {f"module._orig_mod.{k}": v for k, v in dit().items()}, "optimizer": {}, "step": 3}
    model = convert(file, adapter_file(pixel_decoder=pixels()), decoder={"num_heads": 2})
    assert torch.equal(model.dynamics.network.patches.bias, file["ema"]["module._orig_mod.x_proj.bias"])
    config = model.config.dynamics
    assert (config.num_layers, config.head_dim, config.actions, config.null_action) == (2, 20, "left", "last-entry")
    assert (model.encoder.adapter.config.num_layers, model.encoder.adapter.config.latent_layers) == (2, 1)
    seen, told = torch.rand(1, 2, 3, 32, 32), {"action": torch.randn(1, 4, ACTIONS)}
    made = model.rollout(seen, 2, conditions=told, deterministic=True).video
    again = wk.WorldModel.from_pretrained(model.save_pretrained(tmp_path / "out"))
    assert torch.equal(made, again.rollout(seen, 2, conditions=told, deterministic=True).video)
    trained = convert(file, adapter_file(), weights="model")
    assert torch.equal(trained.dynamics.network.patches.bias, file["model"]["x_proj.bias"]) and trained.decoder is None


def test_the_adapter_alone_is_the_first_stage():
    picture = convert(adapter_file(mlp(), pixel_decoder=pixels(attention=False)), decoder={"num_heads": 2})
    assert picture.dynamics is None and picture.encoder.adapter.config.name == "mlp"
    assert picture.config.objective.name == "adapter" and not picture.config.decoder.level_attention
    assert picture.config.decoder.multipliers == (1, 2)
    z = picture.encode(torch.rand(1, 2, 3, 32, 32))
    assert picture.decode(z).video.shape == (1, 2, 3, 32, 32)


def test_features_as_they_are_and_an_encoder_that_a_model_has():
    first = wk.create_model("ijepa-mini", obs={"height": 32, "width": 32})
    model = convert(dit(96, wide=None), encoder=first, timestep_horizon=4)
    assert model.encoder.adapter.dim == 96 and model.config.dynamics.head == "narrow"
    for name, value in first.encoder.state_dict().items():
        assert torch.equal(model.encoder.picture.state_dict()[name], value)
    inside = convert(adapter_file(), encoder=convert(adapter_file()))
    assert inside.config.encoder.picture.name == "jepa-vit"
    assert convert(dit(WIDE), obs={"views": 2}).config.dynamics.mixed_views


@pytest.mark.parametrize("checkpoint, adapter, options, error, said", [
    ({"state": {}}, None, {}, CheckpointError, "no checkpoint of semantic-wm: it lacks 'model' and has state"),
    ({"ema": [1], "model": dit()}, None, {}, CheckpointError, "its 'ema' is no table .*; take weights='model'"),
    ({"encoder.some": torch.zeros(1)}, None, {}, CheckpointError, "it lacks x_proj.weight or .*has encoder.some"),
    (dit(WIDE) | {"spare": torch.zeros(1)}, None, {}, CheckpointError, "no place in this model:\n    spare\n"),
    ({k: v for k, v in dit(WIDE).items() if "w3" not in k}, None, {}, CheckpointError,
     "does not fill:\n    spatial.0.feed_forward.outputs.weight"),
    (dit(), None, {}, CheckpointError, "tokens of 8 numbers, and encoder 'jepa-vit' without adapter= gives 16"),
    (dit(9), adapter_file(), {}, CheckpointError, "denoises tokens of 9 numbers, and the adapter gives 8"),
    (dit(), adapter_file(), {"encoder": PICTURE | {"dim": 24}}, CheckpointError,
     "narrows features of 16 numbers, and encoder 'jepa-vit' gives 24"),
    (adapter_file(), dit(), {}, CheckpointError, "checkpoint is a file of the transformer .* adapter holds none"),
    (dit(), {"adapter": [1]}, {}, CheckpointError, "its 'adapter' is no table"),
    (adapter_file(pixel_decoder={"temporal_upsample_layer.weight": torch.zeros(1)}), None, {}, CheckpointError,
     "temporal_upsample_layer: .* stand for two frames"),
    (adapter_file({"enc": torch.zeros(1)}), None, {}, CheckpointError, "no adapter .*: it lacks enc_blocks"),
    (adapter_file(svae() | {"enc_down.weight": torch.zeros(12, WIDE), "enc_proj.weight": torch.zeros(16, 12)}), None,
     {}, CheckpointError, "by way of 12 numbers, and ours by 16: how upstream rounds"),
    (dit(WIDE), None, {"encoder": "vjepa3"}, ConfigError, "vjepa3"),
])
def test_what_is_no_checkpoint_or_does_not_fit(checkpoint, adapter, options, error, said):
    with pytest.raises(error, match=said):
        convert(checkpoint, adapter, **options)


def test_what_is_not_used_is_named():
    file = {"ema": dit(), "model": dit(), "optimizer": {"state": {i: i for i in range(300)}}, "step": 3}
    parts = official(file, adapter=adapter_file())
    assert parts.unused["optimizer"] == "a dict of 1" and parts.unused["step"] == "3"
    assert parts.unused["adapter_config of the adapter's file"] == "{'heads': 4}"
    assert "model" in parts.unused and "ema" not in parts.unused


def test_the_command(tmp_path, capsys):
    torch.save(adapter_file(mlp(96)), tmp_path / "adapter.pt")
    first = wk.create_model("ijepa-mini").save_pretrained(tmp_path / "first")
    out = str(tmp_path / "out")
    base = ["convert", "semantic-wm", str(tmp_path / "adapter.pt"), "--out", out]
    assert main([*base, "--encoder", str(first)]) == 0
    said = capsys.readouterr().out
    assert "not used: encoder_config: {'name': 'x'}" in said and "every key used" in said
    assert wk.WorldModel.from_pretrained(out).encoder.adapter.dim == NARROW
    assert main(base) != 0 and "needs --encoder" in capsys.readouterr().err
    assert main([*base, "--encoder", "rea"]) != 0 and "Did you mean 'rae'?" in capsys.readouterr().err
    assert main([*base, "--encoder", "vjepa2"]) != 0 and "no weights of its own" in capsys.readouterr().err
    assert main([*base, "--encoder", "rae="]) != 0 and "rae=/path/to/model" in capsys.readouterr().err


def patches(width):
    """Options of an encoder of so many numbers a token."""
    cnn = {"base_channels": 4, "channel_multipliers": [1], "latent_channels": 4}
    return {"name": "patch", "patch_size": 4, "feature_dim": width, "hidden_dim": 8, "cnn": cnn}


DITS, needs = folders("dit*")
ADAPTERS, _ = folders("svae*")


@needs
@pytest.mark.parametrize("folder", DITS, ids=lambda path: path.name)
def test_recorded_transformers(folder):
    """What the converted network answers is what the authors' answered."""
    case = Fixture(folder)
    c, given = case.config, case.inputs
    file = {"model": {}, "ema": {f"_orig_mod.{key}": value for key, value in case.weights("dit").items()}}
    model = from_semantic_wm(
        file, encoder=patches(c["cin"]), image_size=4 * c["grid"], obs={"views": c["views"]},
        timestep_horizon=c["max_frames"] - 1, dynamics={"num_heads": c["heads"], "temporal": c["mode"]}).double()
    tokens = rearrange(given["x"], "b t h (v w) c -> b t (v h w) c", v=c["views"])
    out = model.dynamics.network(tokens, given["t"], given["actions"])
    close(rearrange(out, "b t (v h w) c -> b t h (v w) c", v=c["views"], h=c["grid"]), case.tensors["output"], "answer")


@needs
@pytest.mark.parametrize("folder", ADAPTERS, ids=lambda path: path.name)
def test_recorded_adapters_and_pixel_decoders(folder):
    case = Fixture(folder)
    c, said = case.config, case.tensors
    decoder = {key: x for key, x in case.weights("pixel").items() if not key.startswith("temporal_upsample")}
    file = {"adapter": case.weights("svae"), "pixel_decoder": decoder}
    model = from_semantic_wm(file, encoder=patches(c["d"]), image_size=4 * c["grid"], adapter_heads=c["heads"],
                             decoder={"num_heads": c["ph"]}).double()
    features = case.inputs["f"].flatten(2, 3).flatten(0, 1)
    close(model.encoder.adapter.narrow(features, MEANS).tokens, said["svae_z_eval"], "narrow tokens")
    if not c["tup"]:  # whose pictures are of latents that stand for two frames
        drawn = model.decoder.net(said["svae_z_train"].movedim(-1, 2)).movedim(2, -1)
        close(drawn[:, :, ::4, ::4], said["pixel"], "picture")
