"""Official DLPv2 / DDLP keys and hparams of encoder and decoder -> ours.

Vocabulary (theirs -> ours): ``z -> position``, ``z_scale -> scale``, ``z_obj_on -> transparency``,
``z_depth -> depth``, ``z_features -> features``, ``z_bg -> background``, ``z_base -> base``, ``kp_p -> proposals``,
``n_kp_enc -> num_particles``, ``n_kp_prior -> num_proposals``, ``anchor_s -> glimpse_ratio``,
``filtering_heuristic -> select``, ``learned_feature_dim -> feature_dim``, ``prior_channels -> glimpse_channels``,
``enc_channels -> background_channels``, ``use_correlation_heatmaps -> correlation``.

Upstream's heads for y, x, scale, depth and transparency are one matrix here. Names of its convolution blocks hold
widths and sides, so they are made again from a model's sizes, with the repetitions that lose layers.

Source: github.com/taldatech/ddlp @ 5686275.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..errors import ConfigError
from ..model import ComposedWorldModel
from .state import Target

ALIASES = (
    ("fg_module.object_dec.decode.", "fg_module.object_dec.main."),
    ("fg_module.particle_mixer.mixer.0.fn.", "fg_module.particle_mixer.conv."),
    ("fg_module.particle_mixer.mixer.1.fn.", "fg_module.particle_mixer.dense."),
    ("particle_mixer.", "fg_module.particle_mixer."),
)
"""Upstream registers some modules twice; (alias prefix, canonical prefix)."""

BUFFERS = re.compile(r"^(logvar_kp|mu_scale_prior|logvar_scale_p|logvar_offset_p|obj_on_a_p|obj_on_b_p)$")
"""Constants that follow from the hparams."""

_HEADS = {  # of the attribute encoder -> rows of ours: offset mean y, x, log variance y, x; scale; depth; transparency
    "x_head": [0, 2], "y_head": [1, 3], "scale_xy_head": [4, 5, 6, 7], "depth_head": [8, 9], "obj_on_head": [10, 11],
}

_LAYERS = (
    ("fg_module.particle_mixer.pos_projection.", "encoder.start.mixer.place."),
    ("fg_module.particle_mixer.conv_projection.", "encoder.start.mixer.look."),
    ("fg_module.particle_mixer.conv.", "encoder.start.mixer.among."),
    ("fg_module.particle_mixer.dense.", "encoder.start.mixer.within."),
    ("fg_module.particle_mixer.mixer.0.norm.", "encoder.start.mixer.norm_among."),
    ("fg_module.particle_mixer.mixer.1.norm.", "encoder.start.mixer.norm_within."),
    ("fg_module.particle_mixer.mixer.2.", "encoder.start.mixer.norm_out."),
    ("fg_module.particle_mixer.mixer.3.", "encoder.start.mixer.weigh."),
    ("fg_module.particle_attribute_enc.projection.", "encoder.attributes.project."),
    ("fg_module.particle_attribute_enc.backbone.", "encoder.attributes.read."),
    ("fg_module.particle_features_enc.projection.", "encoder.look.project."),
    ("fg_module.particle_features_enc.backbone.", "encoder.look.read."),
    ("fg_module.particle_features_enc.features_head.", "encoder.look.read.4."),
    ("bg_module.bg_enc.", "encoder.background."),
    ("fg_module.object_dec.fc.", "decoder.glimpse.to_map."),
    ("bg_module.latent_to_feat_map.mlp.", "decoder.background.to_map."),
)
"""Upstream prefix -> ours, with the same names behind."""


def perception_target(key: str, model: ComposedWorldModel) -> Target | None:
    """Our parameter of encoder or decoder behind a canonical upstream key; None if there is no such thing."""
    name, rows = _name_of(key, model)
    if name is None:
        return None
    try:
        model.get_parameter(name)
    except AttributeError:
        return None
    return Target(name, rows)


def _name_of(key: str, model: ComposedWorldModel) -> tuple[str | None, torch.Tensor | None]:
    for theirs, ours in _LAYERS:
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs), None
    if match := re.fullmatch(r"fg_module\.particle_attribute_enc\.(\w+_head)\.(weight|bias)", key):
        rows = _HEADS.get(match[1])
        return f"encoder.attributes.read.4.{match[2]}", None if rows is None else torch.tensor(rows)
    for theirs, ours, names in _stacks(model):
        if key.startswith(theirs):
            return _block(key.removeprefix(theirs), names, ours), None
    return None, None


def _stacks(model: ComposedWorldModel) -> list[tuple[str, str, list[str]]]:
    """Upstream prefix of every convolution stack, ours, and upstream's names of its blocks in our order."""
    encoder, decoder = model.encoder.config, model.decoder.config
    glimpse, image = model.encoder.glimpse_size, model.encoder.size[0]
    down, background = encoder.glimpse_channels, encoder.background_channels
    stacks = [
        ("fg_module.prior.enc.", "encoder.start.keypoints.cnn.", _down_names(down, encoder.patch_size)),
        ("fg_module.particle_mixer.cnn.", "encoder.start.mixer.cnn.", _down_names(down, glimpse)),
        ("fg_module.particle_attribute_enc.cnn.", "encoder.attributes.cnn.", _down_names(down, glimpse)),
        ("fg_module.particle_features_enc.cnn.", "encoder.look.cnn.", _down_names(down, glimpse)),
        ("bg_module.bg_cnn_enc.", "encoder.background_cnn.", _down_names(background, image)),
    ]
    ups = len(model.decoder.glimpse.stack.blocks) - 1
    growing = ["depth_up"] * min(ups, 1) + [f"conv_to_{8 << i}" for i in range(1, max(ups, 1) + 1)]
    stacks.append(("fg_module.object_dec.", "decoder.glimpse.stack.", [f"main.{n}" for n in growing]))
    levels = len(decoder.background_channels) - 1
    before = len(model.decoder.background.stack.blocks) - 1 - levels
    names = [f"latent_to_feat_map.cnn.depth_up_{i}" for i in range(before)] + ["dec.main.depth_up"]
    names += [f"dec.main.conv_to_{8 << i}" for i in range(levels)]
    return [*stacks, ("bg_module.", "decoder.background.stack.", names)]


def _down_names(channels: Sequence[int], side: int) -> list[str]:
    names = ["main.in_block_1", "main.in_block_2"]
    for width in channels[1:]:
        names += [f"main.conv_in_{side}_0", f"main.conv_in_{width}_1"]
        side //= 2
    return list(dict.fromkeys(names))  # a name that comes again keeps its first place, and there is one block of it


def _block(rest: str, names: Sequence[str], ours: str) -> str | None:
    """Our parameter for what follows a stack's prefix."""
    if match := re.fullmatch(r"keymap\.(weight|bias)", rest):
        return f"{ours}head.{match[1]}"
    if match := re.fullmatch(r"(?:dec\.|main\.)?final_conv\.main\.conv_\d+_to_\d+\.(weight|bias)", rest):
        return f"{ours}head.{match[1]}"
    match = re.fullmatch(r"(.+)\.main\.(conv_\d+_to_\d+|grouupnorm_\d+)\.(weight|bias)", rest)
    if match is None or match[1] not in names:
        return None
    part = "conv" if match[2].startswith("conv") else "norm"
    return f"{ours}blocks.{names.index(match[1])}.{part}.{match[3]}"


def is_video(h: Mapping[str, Any]) -> bool:
    """Whether hparams are of a DDLP (with dynamics), not of a DLPv2; configs of both hold the keys of dynamics.

    Example:
        >>> is_video({"timestep_horizon": 10}), is_video({"timestep_horizon": 10, "use_tracking": False}), is_video({})
        (True, False, False)
    """
    return "timestep_horizon" in h and h.get("use_tracking", True)


def perception_config(h: Mapping[str, Any]) -> dict[str, Any]:
    """Official hparams -> options of encoder and decoder.

    Raises:
        ConfigError: they ask for something that no official model uses.
        KeyError: a key is missing.
    """
    usual = {"n_kp": 1, "pad_mode": "replicate", "kp_activation": "tanh", "kp_range": [-1, 1], "use_resblock": False,
             "enable_enc_attn": False, "dropout": 0.0, "sigma": 1.0}
    for name, value in usual.items():
        given = h.get(name, value)
        if (list(given) if isinstance(given, tuple) else given) != value:
            raise ConfigError(f"{name}={given!r} is not supported: official models have {value!r}")
    selects = {"variance": "variance", "distance": "distance", "random": "random", "none": "mixer"}
    heuristic = h.get("filtering_heuristic", "variance")
    if heuristic not in selects:
        raise ConfigError(f"filtering_heuristic is one of {', '.join(selects)}; got {heuristic!r}")
    encoder = {
        "name": "particle-tracking", "patch_size": h["patch_size"], "num_particles": h["n_kp_enc"],
        "num_proposals": h["n_kp_prior"], "select": selects[heuristic], "tracking": h.get("use_tracking", is_video(h)),
        "proposal_frames": None if h.get("use_tracking") and not is_video(h) else h.get("num_static_frames", 4),
        "correlation": h.get("use_correlation_heatmaps", is_video(h)), "correlation_norm": "batch",
        "glimpse_ratio": h["anchor_s"], "feature_dim": h["learned_feature_dim"],
        "background_dim": h.get("bg_learned_feature_dim") or h["learned_feature_dim"],
        "offset_std": h["offset_std"], "scale_std": h["scale_std"],
        "transparency_prior": (h["obj_on_alpha"], h["obj_on_beta"]),
        "glimpse_channels": h["prior_channels"], "background_channels": h["enc_channels"], "lost_layers": True,
    }
    decoder = {"name": "particle-tracking", "glimpse_ratio": h["anchor_s"], "background_channels": h["enc_channels"]}
    return {"encoder": encoder, "decoder": decoder}
