"""Reading official checkpoints: complete, exact, and never silent about what does not fit."""

import json
import pickle
from pathlib import Path

import pytest
import torch

import worldkit as wk
from worldkit.assembly import build
from worldkit.convert.lpwm import canonical_key, config_from_hparams, from_lpwm, load_state, target_of
from worldkit.errors import CheckpointError, ConfigError

OFFICIAL = json.loads(Path(__file__).with_name("official_lpwm_hparams.json").read_text(encoding="utf-8"))
SKETCHY = OFFICIAL["common"] | OFFICIAL["configs"]["sketchy"]
TINY = SKETCHY | {
    "image_size": 32, "patch_size": 8, "n_kp_enc": 6, "n_kp_prior": 16, "obj_res_from_fc": 4, "obj_ch_mult": [1, 2],
    "obj_ch_mult_prior": [1, 2], "obj_base_ch": 8, "obj_final_cnn_ch": 8, "bg_ch_mult": [1, 2], "bg_base_ch": 8,
    "bg_final_cnn_ch": 8, "mlp_hidden_dim": 32, "learned_feature_dim": 3, "timestep_horizon": 3, "pint_dim": 16,
    "pint_ctx_layers": 1, "pint_ctx_heads": 2, "pint_dyn_layers": 2, "pint_dyn_heads": 2, "context_dim": 5,
    "recon_loss_type": "mse",
}
VARIANTS = {
    "plain": {}, "views": {"n_views": 2}, "resnet": {"use_resblock": True, "cnn_mid_blocks": True},
    "action": {"action_condition": True, "action_dim": 2, "null_action_embed": True},
    "language": {"language_condition": True, "language_embed_dim": 8, "language_max_len": 4},
    "goal": {"image_goal_condition": True}, "token": {"ctx_pool_mode": "token"}, "mlp": {"ctx_pool_mode": "mlp"},
    "image": {"timestep_horizon": 1},
}


# -- upstream's key names, written from their documentation

def both(*names):
    return [f"{n}.{p}" for n in names for p in ("weight", "bias")]


def cnn(prefix, h, levels, down):
    resnet = h["use_resblock"]
    parts = ["norm1", "conv1", "norm2", "conv2"] if resnet else ["conv", "norm"]
    keys = both("conv_in", "conv_out") + (both("norm_out") if resnet else [])
    if h["cnn_mid_blocks"]:
        keys += both(*(f"mid.block_{i}.{p}" for i in (1, 2) for p in parts))
    for i in range(levels):
        path = f"{'down' if down else 'up'}.{i}"
        blocks = range(h["num_res_blocks"] + (0 if down else 1))
        keys += both(*(f"{path}.block.{j}.{p}" for j in blocks for p in parts))
        if down and i < levels - 1:
            keys += both(f"{path}.downsample.conv")
        if not down and i > 0:
            keys += both(f"{path}.upsample.conv")
        if resnet and i == (1 if down else 0):  # the only level whose width changes in these models
            keys += both(f"{path}.block.0.nin_shortcut")
    return [prefix + k for k in keys]


def mlp(prefix):
    return both(f"{prefix}.0", f"{prefix}.2")


def projection(prefix, entities, masks, background):
    names = [*entities, *background]
    keys = [f"{n}_projection.{p}" for n in names for p in ("0.weight", "0.bias", "1.g", "3.weight", "3.bias")]
    return [prefix + k for k in [*keys, *(f"{m}_mask" for m in masks)]]


def block(prefix, adaln):
    keys = ["ln1.g", "ln2.g", *(f"attn.{n}.weight" for n in ("query", "key", "value", "proj"))]
    return [prefix + k for k in keys + both("mlp.fc_1", "mlp.proj") + (both("c_proj") if adaln else [])]


def pint(prefix, layers):
    keys = ["pos_embed_t_embedding", "head.norm.g", *both("head.head", "head.c_proj")]
    for i in range(layers):
        keys += block(f"blocks.{i}.spatio_block.", True) + block(f"blocks.{i}.temp_block.", True)
    return [prefix + k for k in keys]


def upstream_keys(h):
    enc, dec, video = "encoder_module.", "decoder_module.", h["timestep_horizon"] > 1
    particle, inter = enc + "particle_enc.", enc + "particle_inter_enc."
    glimpse, background = len(h["obj_ch_mult"]), len(h["bg_ch_mult"])
    origin = ["origin"] if video else []
    keys = cnn(particle + "prior_encoder.enc.", h, len(h["obj_ch_mult_prior"]), True)
    keys += cnn(particle + "particle_attribute_enc.cnn.", h, glimpse, True)
    keys += mlp(particle + "particle_attribute_enc.xy_head") + mlp(particle + "particle_attribute_enc.scale_xy_head")
    keys += mlp(particle + "particle_attribute_enc.obj_on_head")[:3]  # the last layer has no bias
    keys += cnn(particle + "particle_features_enc.cnn.", h, glimpse, True)
    keys += mlp(particle + "particle_features_enc.to_mu")
    keys += [particle + "null_feature_embed"] if video else []
    keys += cnn(enc + "bg_encoder.bg_cnn_enc.", h, background, True) + mlp(enc + "bg_encoder.to_mu")
    keys += cnn(inter + "ctx_cnn_enc.", h, background, True) + mlp(inter + "to_latent_lin")
    keys += [inter + f"{n}_embeddings" for n in ("ctx", "particle", "bg")]
    keys += projection(inter + "basic_particle_proj.", ["xy", "scale", "features", "obj_on", "score", *origin],
                       ["xy", "scale", "features", *(["orig"] if video else [])], ["bg", "particle"])
    keys += [inter + k for k in ("pte.pos_emb", "pte.ln_f.g", "pte.head.weight")]
    keys += block(inter + "pte.blocks.0.", False)
    keys += mlp(inter + "particle_decoder.depth_head") + mlp(inter + "particle_decoder.features_head")
    keys += both(inter + "particle_decoder.bg_backbone.0", inter + "particle_decoder.bg_features_head")
    keys += mlp(dec + "particle_dec.from_latent_lin") + cnn(dec + "particle_dec.cnn.", h, glimpse, False)
    keys += mlp(dec + "bg_dec.latent_to_feat_map.from_latent_lin") + cnn(dec + "bg_dec.cnn.", h, background, False)
    if not video:
        return keys
    entities = ["xy", "scale", "features", "obj_on", "depth", "origin"]
    masks = ["xy", "scale", "features", "depth", "orig"]
    keys += projection("ctx_module.basic_particle_proj.", entities, masks, ["bg", "particle"])
    keys += pint("ctx_module.pte.", h["pint_ctx_layers"])
    keys += [f"ctx_module.{n}_embeddings" for n in ("pos_p", "particle", "bg")]
    keys += [f"{m}.view_embeddings" for m in ("ctx_module", "dyn_module") if h.get("n_views", 1) > 1]
    keys += [inter + "view_embeddings"] if h.get("n_views", 1) > 1 else []
    keys += ["ctx_module.ctx_token_embeddings"] if h["ctx_pool_mode"] == "token" else []
    for head in ("posterior", "prior"):
        keys += both(f"ctx_module.{head}_decoder.context_head.1")
        if h["ctx_pool_mode"] == "mlp":
            keys += both(*(f"ctx_module.{head}_decoder.context_projection.{i}" for i in (0, 3)))
    if h.get("action_condition"):
        keys += both("ctx_module.action_proj.0") + ["ctx_module.action_proj.1.g", "ctx_module.null_action_embeddings"]
    if h.get("image_goal_condition"):
        keys += both("ctx_module.goal_proj.0") + ["ctx_module.goal_proj.1.g"]
    if h.get("language_condition"):
        keys += both("ctx_module.lang_proj") + ["ctx_module.lang_pos_embed"]
    keys += projection("dyn_module.particle_projection.", entities, masks, ["bg_features", "particle"])
    keys += ["dyn_module.particle_projection.particle_embedding", "dyn_module.particle_projection.bg_embedding"]
    keys += ["dyn_module.pos_p_embeddings", *both("dyn_module.context_proj")]
    keys += pint("dyn_module.particle_transformer.", h["pint_dyn_layers"])
    heads = ("offset_xy", "scale_xy", "obj_on", "depth", "features")
    keys += [k for n in heads for k in mlp(f"dyn_module.particle_decoder.{n}_head")]
    return keys + both("dyn_module.particle_decoder.bg_backbone.0", "dyn_module.particle_decoder.bg_features_head")


def official(h, seed=0):
    """(model, state dict with upstream's names, random numbers)."""
    model, g = build(config_from_hparams(h)), torch.Generator().manual_seed(seed)
    state = {}
    for key in upstream_keys(h):
        target = target_of(key, model)
        assert target is not None, key
        part = target.read(model.get_parameter(target.name))
        state[key] = torch.randn(part.shape, generator=g)
    return model, state


@pytest.fixture(scope="module")
def plain():
    return official(TINY)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_is_filled_with_its_own_numbers(variant):
    h = TINY | VARIANTS[variant]
    model, state = official(h)
    load_state(model, state)  # raises if a key has no place or a parameter stays empty
    for key, tensor in state.items():
        target = target_of(key, model)
        assert torch.equal(target.read(model.get_parameter(target.name)), tensor), key
    assert sum(t.numel() for t in state.values()) == model.parameter_report()["total"]


def test_query_key_and_value_are_rows_of_one_matrix(plain):
    model, state = plain
    load_state(model, state)
    prefix = "dyn_module.particle_transformer.blocks.1.temp_block.attn."
    ours = model.get_parameter("dynamics.transformer.temporal.1.attention.qkv.weight")
    assert torch.equal(ours, torch.cat([state[f"{prefix}{n}.weight"] for n in ("query", "key", "value")]))


def test_tokens_of_several_views_are_reordered():
    """Upstream: particles and background of view 1, then of view 2. Here: all particles, then all backgrounds."""
    model, state = official(TINY | VARIANTS["views"])
    load_state(model, state)
    theirs = state["dyn_module.pos_p_embeddings"]  # [2 x (16 + 1), dim]
    ours = model.get_parameter("dynamics.transformer.token_embedding")
    assert torch.equal(ours, torch.cat([theirs[:16], theirs[17:33], theirs[[16, 33]]]))


def test_aliases_and_buffers_of_upstream_are_accepted(plain):
    model, state = plain
    aliased = dict(state)
    for key, tensor in state.items():
        if key.startswith("ctx_module."):
            aliased[key.replace("ctx_module.", "encoder_module.ctx_enc.")] = tensor
            aliased[key.replace("ctx_module.", "dyn_module.context_decoder.")] = tensor
    prior = "encoder_module.particle_enc.prior_encoder."
    aliased |= {k.replace(prior, "prior_module."): v for k, v in state.items() if k.startswith(prior)}
    aliased |= {"logvar_kp": torch.zeros(()), "dyn_module.particles_anchor": torch.zeros(1, 16, 2),
                "ctx_module.pte.blocks.0.temp_block.attn.mask": torch.ones(1, 1, 1, 4, 1, 4)}
    load_state(model, aliased)
    assert canonical_key("dyn_module.context_decoder.pte.head.norm.g") == "ctx_module.pte.head.norm.g"
    aliased["prior_module.enc.conv_in.bias"] = aliased["prior_module.enc.conv_in.bias"] + 1
    with pytest.raises(CheckpointError, match="prior_module.enc.conv_in.bias differs from .*should be the same tensor"):
        load_state(model, aliased)


# -- checkpoints that do not fit


def test_all_problems_are_listed(plain):
    model, state = plain
    gone = ("dyn_module.context_proj.bias", "decoder_module.bg_dec.cnn.conv_in.bias")
    bad = {k: v for k, v in state.items() if k not in gone}
    bad |= {"module_of_the_future.weight": torch.zeros(3), "dyn_module.novelty": torch.zeros(1),
            "ctx_module.prior_decoder.context_head.1.bias": torch.zeros(14)}
    with pytest.raises(CheckpointError) as error:
        load_state(model, bad)
    text = str(error.value)
    assert text.startswith("the checkpoint and its hparams disagree\n")
    assert text.endswith("Is this the hparams.json of the same run?")
    unused, rest = text.split("keys that do not fit:")
    wrong, empty = rest.split("parameters the checkpoint does not fill:")
    assert "keys with no place in this model:" in unused
    assert "module_of_the_future.weight" in unused and "dyn_module.novelty" in unused
    assert "ctx_module.prior_decoder.context_head.1.bias is [14], but latent_action.prior_head.bias needs [10]" in wrong
    for name in ("latent_action.to_condition", "decoder.background_cnn.conv_in", "latent_action.prior_head"):
        assert f"{name}.bias" in empty


def test_half_a_matrix_is_not_enough(plain):
    model, state = plain
    key = "ctx_module.pte.blocks.0.spatio_block.attn.key.weight"
    with pytest.raises(CheckpointError, match=r"not fill:\n    latent_action\S*spatial.0.attention.qkv.weight\n"):
        load_state(model, {k: v for k, v in state.items() if k != key})


def test_checkpoint_of_another_run(plain):
    with pytest.raises(CheckpointError, match="conditioners.action.null"):
        load_state(official(TINY | VARIANTS["action"])[0], plain[1])


# -- files

@pytest.fixture
def files(tmp_path, plain):
    checkpoint, hparams = tmp_path / "sketchy.pth", tmp_path / "hparams.json"
    torch.save(plain[1], checkpoint)
    hparams.write_text(json.dumps(TINY))
    return checkpoint, hparams


def test_files_become_a_model(files, plain):
    model = wk.convert.from_lpwm(*files)
    assert isinstance(model, wk.WorldModel) and not model.training
    load_state(plain[0], plain[1])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain[0].parameters(), strict=True))
    assert torch.isfinite(model.rollout(torch.zeros(1, 2, 3, 32, 32), 2, deterministic=True).video).all()


def test_hparams_may_be_a_dict_and_weights_may_be_wrapped(files, tmp_path, plain):
    torch.save({"model": plain[1], "epoch": 3}, tmp_path / "wrapped.pth")
    a, b = from_lpwm(files[0], TINY), from_lpwm(tmp_path / "wrapped.pth", files[1])
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_damaged_checkpoint(files, damage):
    checkpoint, hparams = files
    data = checkpoint.read_bytes()
    checkpoint.write_bytes({"truncated": data[: len(data) // 2], "text": b"not a checkpoint", "empty": b""}[damage])
    with pytest.raises(CheckpointError, match="cannot read checkpoint .*sketchy.pth"):
        from_lpwm(checkpoint, hparams)


def test_missing_files(files, tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint: .*nowhere.pth"):
        from_lpwm(tmp_path / "nowhere.pth", files[1])
    with pytest.raises(ConfigError, match="cannot read hparams .*nowhere.json"):
        from_lpwm(files[0], tmp_path / "nowhere.json")
    for text, message in (("{broken", "cannot read hparams"), ("[1]", "hparams are a table of .*, got a list")):
        files[1].write_text(text)
        with pytest.raises(ConfigError, match=message):
            from_lpwm(*files)


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))])
def test_checkpoints_cannot_run_code(files, tmp_path, save):
    checkpoint, mark = tmp_path / "evil.pth", tmp_path / "owned"
    save({"weights": Attack(mark)}, checkpoint)
    with pytest.raises(CheckpointError, match="cannot read checkpoint .*evil.pth"):
        from_lpwm(checkpoint, files[1])
    assert not mark.exists()
    pickle.loads(pickle.dumps(Attack(mark)))
    assert mark.exists()  # the attack works on whoever unpickles


@pytest.mark.parametrize("content", [[torch.zeros(3)], torch.zeros(3), {"epoch": 3}])
def test_files_without_a_state_dict(files, tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth holds a \w+ that is no state dict"):
        from_lpwm(tmp_path / "other.pth", files[1])


# -- hyper-parameters

@pytest.mark.parametrize("key", ["patch_size", "anchor_s", "pint_dim", "beta_kl", "bg_ch_mult", "dropout"])
def test_missing_hyper_parameter(key):
    with pytest.raises(ConfigError, match=f"hparams lack the key '{key}'; is this an hparams.json of LPWM / DLPv3"):
        config_from_hparams({k: v for k, v in TINY.items() if k != key})


@pytest.mark.parametrize("change, message", [
    ({"features_dist": "categorical"}, "only Gaussian features and latent actions are supported"),
    ({"context_dist": "beta"}, "only Gaussian features and latent actions are supported"),
    ({"normalize_rgb": True}, "normalize_rgb=true is not supported"),
    ({"random_action_condition": True}, "random_action_condition=true is an ablation"),
    ({"pad_mode": "reflect"}, "encoder.padding: "),
    ({"ctx_pool_mode": "sum"}, "latent_action.pool: "),
    ({"action_condition": True, "action_dim": 0}, "conditioners.action.dim: "),
])
def test_hyper_parameters_that_are_not_supported(change, message):
    with pytest.raises(ConfigError, match=message):
        config_from_hparams(TINY | change)


def test_dead_keys_are_ignored():
    dead = {"root": "/home/someone", "use_scheduler": True, "n_fg_classes": 4, "use_ep_done_mask": True}
    assert config_from_hparams(TINY | dead) == config_from_hparams(TINY)
