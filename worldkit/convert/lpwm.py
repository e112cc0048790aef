"""Official LPWM / DLPv3 checkpoints -> worldkit models, number for number.

Vocabulary (theirs -> ours): ``z -> position``, ``z_scale -> scale``, ``z_obj_on -> transparency``,
``z_depth -> depth``, ``z_features -> features``, ``z_bg_features -> background``, ``z_context -> latent_action``,
``n_kp_enc -> num_particles``, ``anchor_s -> glimpse_ratio``, ``learned_feature_dim -> feature_dim``,
``mlp_hidden_dim -> hidden_dim``, ``pint_dim -> dim``, ``beta_obj -> weights.transparency``,
``kl_balance -> weights.features``.

Two things differ in layout: query, key and value projections are one matrix here, and with several views all particles
come before all backgrounds (upstream interleaves them), so token embeddings are permuted.

Source: github.com/taldatech/lpwm @ 4cf53c4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..assembly import build
from ..config import WorldModelConfig
from ..errors import ConfigError
from ..model import ComposedWorldModel
from .state import Target, fill, read_hparams, read_state, refuse_other_projects, whose_hparams

ALIASES = (
    ("encoder_module.prior_encoder.", "encoder_module.particle_enc.prior_encoder."),
    ("prior_module.", "encoder_module.particle_enc.prior_encoder."),
    ("encoder_module.ctx_enc.", "ctx_module."),
    ("dyn_module.context_decoder.", "ctx_module."),
)
"""Upstream registers some modules twice; (alias prefix, canonical prefix)."""

_BUFFERS = re.compile(
    r"^(logvar_kp|mu_scale_prior|logvar_scale_p|logvar_offset_p|obj_on_a_p|obj_on_b_p)$"
    r"|\.(scale_anchor|patch_centers|mu_scale_prior|particles_anchor)$|\.attn\.mask$"
)

_PROJECTION = (
    (r"xy_mask$", "groups.particles.stand_ins.position"),
    (r"scale_mask$", "groups.particles.stand_ins.scale"),
    (r"depth_mask$", "groups.particles.stand_ins.depth"),
    (r"features_mask$", "groups.particles.stand_ins.features"),
    (r"orig_mask$", "groups.particles.stand_ins.origin"),
    (r"bg_(?:features_)?projection\.", "groups.background.project.features."),
    (r"xy_projection\.", "groups.particles.project.position."),
    (r"obj_on_projection\.", "groups.particles.project.transparency."),
    (r"origin_projection\.", "groups.particles.project.origin."),
    (r"particle_projection\.", "groups.particles.join."),
    (r"(scale|depth|features|score)_projection\.", r"groups.particles.project.\1."),
    (r"particle_embedding$", "embeddings.0"),
    (r"bg_embedding$", "embeddings.1"),
)

_TRANSFORMER = (
    (r"blocks\.(\d+)\.spatio_block\.", r"spatial.\1."),
    (r"blocks\.(\d+)\.temp_block\.", r"temporal.\1."),
    (r"pos_embed_t_embedding$", "time_embedding"),
    (r"head\.norm\.", "norm_out."),
    (r"head\.head\.", "head."),
    (r"head\.c_proj\.", "head_modulation."),
    (r"ln_f\.", "norm_out."),
    (r"\.c_proj\.", ".modulation."),
    (r"\.ln([12])\.", r".norm\1."),
    (r"\.attn\.query\.weight$", ".attention.qkv.weight@0"),
    (r"\.attn\.key\.weight$", ".attention.qkv.weight@1"),
    (r"\.attn\.value\.weight$", ".attention.qkv.weight@2"),
    (r"\.attn\.proj\.", ".attention.proj."),
    (r"\.mlp\.fc_1\.", ".feed_forward.0."),
    (r"\.mlp\.proj\.", ".feed_forward.2."),
)

_PREFIXES: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("encoder_module.particle_enc.prior_encoder.enc.", "encoder.keypoints.cnn.", ()),
    ("encoder_module.particle_enc.particle_attribute_enc.cnn.", "encoder.attribute_cnn.", ()),
    ("encoder_module.particle_enc.particle_attribute_enc.xy_head.", "encoder.attributes.offset.", ()),
    ("encoder_module.particle_enc.particle_attribute_enc.scale_xy_head.", "encoder.attributes.scale.", ()),
    ("encoder_module.particle_enc.particle_attribute_enc.obj_on_head.", "encoder.attributes.transparency.", ()),
    ("encoder_module.particle_enc.particle_features_enc.cnn.", "encoder.appearance_cnn.", ()),
    ("encoder_module.particle_enc.particle_features_enc.to_mu.", "encoder.to_features.project.", ()),
    ("encoder_module.particle_enc.particle_features_enc.to_latent.", "encoder.to_features.project.", ()),
    ("encoder_module.particle_enc.null_feature_embed", "encoder.unseen_features", ()),
    ("encoder_module.bg_encoder.bg_cnn_enc.", "encoder.background_cnn.", ()),
    ("encoder_module.bg_encoder.to_mu.", "encoder.to_background.project.", ()),
    ("encoder_module.bg_encoder.to_latent.", "encoder.to_background.project.", ()),
    ("encoder_module.particle_inter_enc.ctx_cnn_enc.", "encoder.interaction.image_cnn.", ()),
    ("encoder_module.particle_inter_enc.to_latent_lin.", "encoder.interaction.to_token.project.", ()),
    ("encoder_module.particle_inter_enc.to_latent.", "encoder.interaction.to_token.project.", ()),
    ("encoder_module.particle_inter_enc.ctx_embeddings", "encoder.interaction.image_embedding", ()),
    ("encoder_module.particle_inter_enc.particle_embeddings", "encoder.interaction.embed.embeddings.0", ()),
    ("encoder_module.particle_inter_enc.bg_embeddings", "encoder.interaction.embed.embeddings.1", ()),
    ("encoder_module.particle_inter_enc.view_embeddings", "encoder.interaction.embed.view_embedding", ()),
    ("encoder_module.particle_inter_enc.basic_particle_proj.", "encoder.interaction.embed.", _PROJECTION),
    ("encoder_module.particle_inter_enc.pte.pos_emb", "encoder.interaction.position_embedding", ()),
    ("encoder_module.particle_inter_enc.pte.", "encoder.interaction.", _TRANSFORMER),
    ("encoder_module.particle_inter_enc.particle_decoder.bg_backbone.0.", "encoder.interaction.background_head.0.", ()),
    ("encoder_module.particle_inter_enc.particle_decoder.bg_features_head.", "encoder.interaction.background_head.2.",
     ()),
    ("encoder_module.particle_inter_enc.particle_decoder.", "encoder.interaction.", ()),
    ("decoder_module.particle_dec.from_latent_lin.", "decoder.to_map.project.", ()),
    ("decoder_module.particle_dec.cnn.", "decoder.glimpse_cnn.", ()),
    ("decoder_module.bg_dec.latent_to_feat_map.from_latent_lin.", "decoder.to_background_map.project.", ()),
    ("decoder_module.bg_dec.cnn.", "decoder.background_cnn.", ()),
    ("ctx_module.pte.", "latent_action.transformer.", _TRANSFORMER),
    ("ctx_module.pos_p_embeddings", "latent_action.transformer.token_embedding@views", ()),
    ("ctx_module.particle_embeddings", "latent_action.embed_latent.embeddings.0", ()),
    ("ctx_module.bg_embeddings", "latent_action.embed_latent.embeddings.1", ()),
    ("ctx_module.view_embeddings", "latent_action.embed_latent.view_embedding", ()),
    ("ctx_module.ctx_token_embeddings", "latent_action.pool_token", ()),
    ("ctx_module.basic_particle_proj.", "latent_action.embed_latent.", _PROJECTION),
    ("ctx_module.action_proj.", "conditioners.action.project.", ()),
    ("ctx_module.null_action_embeddings", "conditioners.action.null", ()),
    ("ctx_module.goal_proj.", "conditioners.goal_image.project.", ()),
    ("ctx_module.lang_proj.", "conditioners.language.project.", ()),
    ("ctx_module.lang_pos_embed", "conditioners.language.kind", ()),
    *(
        (f"ctx_module.{head}_decoder.{theirs}.", f"latent_action.{head}_{ours}.", ())
        for head in ("posterior", "prior")
        for theirs, ours in (("context_head.1", "head"), ("context_projection.0", "pool.narrow"),
                             ("context_projection.3", "pool.join"))
    ),
    ("dyn_module.pos_p_embeddings", "dynamics.transformer.token_embedding@views", ()),
    ("dyn_module.view_embeddings", "dynamics.embed_latent.view_embedding", ()),
    ("dyn_module.context_proj.", "latent_action.to_condition.", ()),
    ("dyn_module.particle_projection.", "dynamics.embed_latent.", _PROJECTION),
    ("dyn_module.particle_transformer.", "dynamics.transformer.", _TRANSFORMER),
    ("dyn_module.particle_decoder.offset_xy_head.", "dynamics.head.heads.particles.position.", ()),
    ("dyn_module.particle_decoder.scale_xy_head.", "dynamics.head.heads.particles.scale.", ()),
    ("dyn_module.particle_decoder.obj_on_head.", "dynamics.head.heads.particles.transparency.", ()),
    ("dyn_module.particle_decoder.depth_head.", "dynamics.head.heads.particles.depth.", ()),
    ("dyn_module.particle_decoder.features_head.", "dynamics.head.heads.particles.features.", ()),
    ("dyn_module.particle_decoder.bg_backbone.0.", "dynamics.head.heads.background.features.0.", ()),
    ("dyn_module.particle_decoder.bg_features_head.", "dynamics.head.heads.background.features.2.", ()),
)


def canonical_key(key: str) -> str:
    """Upstream key with alias prefixes replaced."""
    for alias, prefix in ALIASES:
        if key.startswith(alias):
            return prefix + key.removeprefix(alias)
    return key


def target_of(key: str, model: ComposedWorldModel) -> Target | None:
    """Our parameter behind a canonical upstream key; None if there is no such thing."""
    for prefix, ours, rules in _PREFIXES:
        if not key.startswith(prefix):
            continue
        rest = key.removeprefix(prefix)
        for pattern, replacement in rules:
            rest = re.sub(f"(?<![a-z_]){pattern}", replacement, rest)
        name, _, part = _cnn_name(re.sub(r"\.g$", ".gain", ours + rest), model).partition("@")
        try:
            parameter = model.get_parameter(name)
        except AttributeError:
            return None
        return Target(name, _rows(part, parameter, model))
    return None


def _cnn_name(name: str, model: ComposedWorldModel) -> str:
    name = re.sub(r"\.down\.(\d+)\.block\.", r".levels.\1.blocks.", name)
    name = re.sub(r"\.down\.(\d+)\.downsample\.", r".levels.\1.resample.", name)
    name = re.sub(r"\.mid\.block_(\d)\.", lambda m: f".mid.{int(m[1]) - 1}.", name)
    if match := re.match(r"(.*)\.up\.(\d+)\.(block|upsample)\.(.*)", name):
        stack, index, part, rest = match.groups()  # upstream counts decoder levels from the highest resolution
        level = len(model.get_submodule(stack).levels) - 1 - int(index)
        name = f"{stack}.levels.{level}.{'blocks' if part == 'block' else 'resample'}.{rest}"
    return name.replace(".nin_shortcut.", ".shortcut.")


def _rows(part: str, parameter: Tensor, model: ComposedWorldModel) -> Tensor | slice | None:
    """Rows of our parameter in upstream's order: a third of the query-key-value matrix, or tokens view by view."""
    if not part:
        return None
    if part != "views":
        third = parameter.shape[0] // 3
        return slice(int(part) * third, (int(part) + 1) * third)
    spec = model.encoder.spec
    views, per_view = spec.views, spec.num_tokens // spec.views - 1
    rows = []
    for view in range(views):
        rows += [view * per_view + n for n in range(per_view)] + [views * per_view + view]
    return torch.tensor(rows + list(range(len(rows), parameter.shape[0])))


def load_state(model: ComposedWorldModel, state: Mapping[str, Tensor]) -> None:
    """Fill a model with an official state dict; see `convert.state.fill`."""
    kept = {key: tensor for key, tensor in state.items() if not _BUFFERS.search(canonical_key(key))}
    fill(model, kept, canonical=canonical_key, target_of=lambda key: target_of(key, model))


def config_from_hparams(hparams: Mapping[str, Any]) -> WorldModelConfig:
    """Official ``hparams.json`` / ``configs/*.json`` -> configuration. Training keys are ignored.

    Raises:
        ConfigError: a key is missing, or asks for something no official model uses.
    """
    h = dict(hparams)
    try:
        return _config(h)
    except KeyError as error:
        raise ConfigError(f"hparams lack the key {error}; {whose_hparams(h, 'lpwm')}") from None
    except TypeError as error:
        raise ConfigError(f"a value in the hparams is of another kind than in those of LPWM / DLPv3: {error}") from None


def _config(h: Mapping[str, Any]) -> WorldModelConfig:
    if h.get("features_dist", "gauss") != "gauss" or h.get("context_dist", "gauss") != "gauss":
        raise ConfigError("only Gaussian features and latent actions are supported (all official models use them)")
    if h.get("normalize_rgb", False):
        raise ConfigError("normalize_rgb=true is not supported (no official model uses it)")
    video = h["timestep_horizon"] > 1

    def cnn(base: str, multipliers: str, latent: str) -> dict[str, Any]:
        return {
            "base_channels": h[base], "channel_multipliers": h[multipliers], "latent_channels": h[latent],
            "num_blocks": h.get("num_res_blocks", 1), "block": "resnet" if h.get("use_resblock", False) else "conv",
            "mid_blocks": h.get("cnn_mid_blocks", False),
        }

    glimpse = cnn("obj_base_ch", "obj_ch_mult", "obj_final_cnn_ch")
    config: dict[str, Any] = {
        "obs": {"height": h["image_size"], "width": h["image_size"], "channels": h["ch"], "views": h.get("n_views", 1)},
        "timestep_horizon": h["timestep_horizon"],
        "encoder": {
            "name": "particle", "patch_size": h["patch_size"], "proposals_per_patch": h.get("n_kp_per_patch", 1),
            "num_particles": h["n_kp_enc"], "select": "draw" if video else "keep", "glimpse_ratio": h["anchor_s"],
            "feature_dim": h["learned_feature_dim"],
            "background_dim": h.get("learned_bg_feature_dim", h["learned_feature_dim"]),
            "hidden_dim": h["mlp_hidden_dim"], "num_layers": h["pint_enc_layers"], "num_heads": h["pint_enc_heads"],
            "offset_std": h["offset_std"], "scale_std": h["scale_std"],
            "transparency_prior": (h["obj_on_alpha"], h["obj_on_beta"]),
            "proposal_cnn": cnn("obj_base_ch", "obj_ch_mult_prior", "obj_final_cnn_ch"), "glimpse_cnn": glimpse,
            "background_cnn": cnn("bg_base_ch", "bg_ch_mult", "bg_final_cnn_ch"), "padding": h.get("pad_mode", "zeros"),
        },
        "decoder": {
            "name": "particle", "glimpse_ratio": h["anchor_s"], "glimpse_map_size": h["obj_res_from_fc"],
            "hidden_dim": h["mlp_hidden_dim"], "glimpse_cnn": glimpse,
            "background_cnn": cnn("bg_final_cnn_ch", "bg_ch_mult", "bg_final_cnn_ch"),
        },
        "objective": _objective(h),
    }
    return WorldModelConfig.parse(config | (_dynamics(h) if video else {}))


def _objective(h: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": "elbo", "reconstruction": h.get("recon_loss_type", "mse"),
        "num_static_frames": h.get("num_static_frames", 1), "warmup_epochs": h.get("warmup_epoch", 1),
        "weights": {
            "reconstruction": h["beta_rec"], "kl": h["beta_kl"], "dynamics": h.get("beta_dyn", h["beta_kl"]),
            "dynamics_reconstruction": h.get("beta_dyn_rec", 1.0), "transparency": h.get("beta_obj", 0.0),
            "features": h["kl_balance"],
        },
    }


def _dynamics(h: Mapping[str, Any]) -> dict[str, Any]:
    conditioners: dict[str, Any] = {}
    if h.get("action_condition", False):
        conditioners["action"] = {
            "name": "action", "dim": h["action_dim"], "null_embedding": h.get("null_action_embed", False),
        }
    if h.get("random_action_condition", False):
        raise ConfigError("random_action_condition=true is an ablation of upstream's and is not supported")
    if h.get("language_condition", False):
        conditioners["language"] = {
            "name": "language", "embed_dim": h["language_embed_dim"], "max_length": h["language_max_len"],
        }
    if h.get("image_goal_condition", False):
        conditioners["goal_image"] = {"name": "goal-image"}
    pool = h.get("ctx_pool_mode", "none")
    return {
        "dynamics": {
            "name": "pint", "dim": h["pint_dim"], "num_layers": h["pint_dyn_layers"], "num_heads": h["pint_dyn_heads"],
            "dropout": h["dropout"], "predict_delta": h.get("predict_delta", False),
            "scale_prior": 0.75 * h["anchor_s"],
        },
        "latent_action": {
            "name": "gaussian", "action_dim": h.get("context_dim") or h["learned_feature_dim"], "pool": pool,
            "dim": h["pint_dim"], "num_layers": h["pint_ctx_layers"], "num_heads": h["pint_ctx_heads"],
            "dropout": h["dropout"],
        },
        "conditioners": conditioners,
    }


def from_lpwm(checkpoint: str | Path, hparams: str | Path | Mapping[str, Any]) -> ComposedWorldModel:
    """Official checkpoint (a state dict saved with ``torch.save``) and its ``hparams.json`` -> worldkit model.

    Args:
        checkpoint: Path of the ``.pth`` file; loaded without running any code in it.
        hparams: Path of the run's ``hparams.json``, or the dict itself.
    Raises:
        CheckpointError: the file is damaged or of another model, or keys and hparams disagree (every such key is
            listed).
        ConfigError: the hparams ask for something that is not supported.
    """
    table = read_hparams(hparams)
    state = read_state(checkpoint)
    refuse_other_projects(state, "lpwm")
    model = build(config_from_hparams(table))
    load_state(model, state)
    return model.eval()
