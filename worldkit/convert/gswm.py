"""Official G-SWM checkpoints -> worldkit models, number for number.

A checkpoint is a dict whose entry "model" is the state dict; sizes are read off it. What weights do not tell (how far
things may move in a frame, priors) comes from the configuration of the run, given as a preset or as upstream's table
ARCH. Keys that no frame ever depends on have no place here, and are named in `UNUSED`.

Source: github.com/zhixuan-lin/G-SWM @ 1423553 (GPL-3.0), names of weights and options only.
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
from ..errors import CheckpointError, ConfigError
from ..gswm import GSWM, GSWMConfig
from ..presets import preset_names, preset_spec
from .state import Target, fill, read_state, refuse_other_projects

UNUSED = {
    r"^fg_module\.prop_cond_init_(post|prior)$": "initial interactions, which nothing reads",
    r"\.num_batches_tracked$": "a counter of batches",
    r"^fg_module\.img_encoder\.enc\.0\.weight$": "the same tensor as fg_module.img_encoder.conv1.weight",
}
"""Keys (a pattern) that no frame depends on -> what they are. Besides: the last rows of the first discovery head, which
are motions that nothing reads; the background's networks, where the configuration has none; and what looks at the
background, where the configuration does not (ablation "no_sa")."""

_CELL = r"(weight_ih|weight_hh|bias_ih|bias_hh)$"
_PLACES: tuple[tuple[str, str], ...] = (
    (r"^fg_module\.img_encoder\.(?:conv1|enc\.0)\.", "encoder.cells.image.first."),
    (r"^fg_module\.img_encoder\.enc\.1\.", "encoder.cells.image.norm."),
    (r"^fg_module\.img_encoder\.enc\.3\.(\d)\.", r"encoder.cells.image.stages.0.\1."),
    (r"^fg_module\.img_encoder\.enc\.4\.(\d)\.", r"encoder.cells.image.stages.1.\1."),
    (r"^fg_module\.img_encoder\.enc\.5\.(\d)\.", r"encoder.cells.image.stages.2.\1."),
    (r"^fg_module\.img_encoder\.last\.", "encoder.cells.image.last."),
    (r"^fg_module\.proposal_encoder\.enc\.", "encoder.glimpses.convs."),
    (r"^fg_module\.proposal_encoder\.enc_what\.", "encoder.glimpses.out."),
    (r"^fg_module\.bg_attention_encoder\.enc\.", "dynamics.environment.net.convs."),
    (r"^fg_module\.bg_attention_encoder\.enc_what\.", "dynamics.environment.net.out."),
    (r"^fg_module\.pred_proposal\.net\.mod\.layers\.", "encoder.growth."),
    (r"^fg_module\.glimpse_decoder\.fc\.", "decoder.glimpses.project."),
    (r"^fg_module\.glimpse_decoder\.net\.", "decoder.glimpses.convs."),
    (r"^fg_module\.latent_post_disc\.enc\.", "encoder.cells.motion.layers."),
    (r"^fg_module\.pres_depth_where_what(?:_latent)?_post_disc\.enc\.", "encoder.cells.attributes.layers."),
    (r"^fg_module\.(?:latent|pres_depth_where_what)_post_prop\.enc\.layers\.", "encoder.observed."),
    (r"^fg_module\.(?:latent|pres_depth_where_what)_prior_prop\.enc\.layers\.", "dynamics.expected."),
    (r"^fg_module\.pres_depth_where_what_prior\.enc\.layers\.", "dynamics.attributes."),
    (r"^fg_module\.prop_map_mlp\.layers\.", "encoder.cells.found_map.net."),
    (r"^fg_module\.prop_cond_self_(post|prior)\.layers\.", r"\1.interaction.alone."),
    (r"^fg_module\.prop_cond_relational_(post|prior)\.layers\.", r"\1.interaction.pairs."),
    (r"^fg_module\.prop_cond_weights_(post|prior)\.layers\.", r"\1.interaction.weights."),
    (r"^fg_module\.temporal_rnn_(post|prior)_input\.mod\.", r"\1.project."),
    (rf"^fg_module\.temporal_rnn_(post|prior)\.mod\.(?={_CELL})", r"\1.cell."),
    (r"^fg_module\.([hc])_init_(post|prior)$", r"\2.initial_\1"),
    (r"^bg_module\.([hc])_init_post$", r"encoder.context.initial_\1"),
    (r"^bg_module\.([hc])_init_prior$", r"dynamics.context.initial_\1"),
    (r"^bg_module\.enc\.", "encoder.context.look.convs."),
    (r"^bg_module\.enc_fc\.", "encoder.context.look.out."),
    (r"^bg_module\.dec_fc\.", "decoder.scenery.project."),
    (r"^bg_module\.dec\.", "decoder.scenery.convs."),
    (rf"^bg_module\.rnn_post\.(?={_CELL})", "encoder.context.cell."),
    (rf"^bg_module\.rnn_prior\.(?={_CELL})", "dynamics.context.cell."),
    (r"^bg_module\.post_net\.layers\.", "encoder.context.net."),
    (r"^bg_module\.prior_net\.layers\.", "dynamics.context.net."),
)
_CHAINS = {"post.": "encoder.memory.", "prior.": "dynamics.memory."}
_RENAMED = {"bn1": "norm1", "bn2": "norm2", "downsample": "shortcut"}
"""Inside of residual blocks."""


PRESET = "g-swm-balls"
"""Whose configuration a checkpoint is read with, if nobody says otherwise."""


def from_gswm(checkpoint: str | Path, config: str | Mapping[str, Any] | GSWMConfig = PRESET) -> GSWM:
    """An official checkpoint -> the model.

    Args:
        checkpoint: Path of a ``model_*.pth`` or of a published file; loaded without running any code in it.
        config: What its weights do not tell: a preset (``"g-swm-maze"``), upstream's table of options ``ARCH``, or a
            configuration.
    Raises:
        CheckpointError: the file is damaged, of another model, or of another configuration; every key without a place
            is listed.
    """
    return model_of(read_state(checkpoint), config)


def model_of(state: Mapping[str, Tensor], config: str | Mapping[str, Any] | GSWMConfig = PRESET) -> GSWM:
    """The model of an official state dict; see `from_gswm`.

    Raises:
        CheckpointError: as there.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    refuse_other_projects(state, "gswm")
    strange = [key for key in state if not key.startswith(("fg_module.", "bg_module."))]
    if strange or "fg_module.img_encoder.last.weight" not in state:
        raise CheckpointError("this is no checkpoint of G-SWM: its keys begin with fg_module. and bg_module., and this "
                              f"file has {', '.join(strange[:4]) or 'no image encoder'}; give a model_*.pth of it")
    if isinstance(config, str):
        config = config_of_preset(config)
    elif not isinstance(config, GSWMConfig):
        config = config_of(config)
    model = build(config)
    names = {name for name, _ in model.named_parameters()}
    kept = {key: _read_rows(key, value, model) for key, value in state.items() if not unused(key, model)}
    tensors = {key: value for key, value in kept.items() if not key.endswith(("running_mean", "running_var"))}
    fill(model, tensors, canonical=lambda key: key, target_of=lambda key: target_of(key, names),
         between="the checkpoint and its configuration",
         advice="Was it trained with this configuration? from_gswm(checkpoint, 'g-swm-maze'), or a table ARCH")
    buffers = dict(model.named_buffers())
    with torch.no_grad():
        for key in kept.keys() - tensors.keys():
            buffers[place_of(key)].copy_(kept[key])
    return model.eval()  # type: ignore[return-value]


def config_of_preset(name: str) -> GSWMConfig:
    """The configuration of a preset.

    Raises:
        ConfigError: it is no G-SWM.
    """
    config = WorldModelConfig.parse(preset_spec(name).config)
    if not isinstance(config, GSWMConfig):
        known = ", ".join(preset_names("g-swm*"))
        raise ConfigError(f"preset '{name}' is no G-SWM, whose checkpoint this is; those are: {known}")
    return config


def left_out(state: Mapping[str, Tensor], model: GSWM) -> dict[str, list[str]]:
    """Keys of a checkpoint that have no place in a model, by what they are."""
    found: dict[str, list[str]] = {}
    for key in state:
        if what := unused(key.removeprefix("module."), model):
            found.setdefault(what, []).append(key)
    return found


def unused(key: str, model: GSWM) -> str | None:
    """Why a key of a checkpoint has no place in a model; None if it has one."""
    for pattern, what in UNUSED.items():
        if re.search(pattern, key):
            return what
    if key.startswith("bg_module.") and model.decoder.scenery is None:
        return "a network of the background, which is off"
    if key.startswith("fg_module.bg_attention_encoder.") and model.dynamics.environment.net is None:
        return "what looks at the background, which objects do not see"
    return None


def place_of(key: str) -> str:
    """Our name of an official key; empty if there is none."""
    for pattern, place in _PLACES:
        if not (found := re.match(pattern, key)):
            continue
        rest, name = key[found.end():], found.expand(place)
        for old, new in _CHAINS.items():
            name = re.sub(rf"^{re.escape(old)}", new, name)
        if "layers" in pattern:  # upstream counts linear layers, we what lies between them as well
            index, dot, tail = rest.partition(".")
            rest = f"{2 * int(index)}{dot}{tail}"
        if ".stages." in name:
            rest = ".".join(_RENAMED.get(part, part) for part in rest.split("."))
        return name + rest
    return ""


def target_of(key: str, names: set[str]) -> Target | None:
    """Our parameter behind an official key; None if there is no such place."""
    name = place_of(key)
    return Target(name) if name in names else None


def _read_rows(key: str, value: Tensor, model: GSWM) -> Tensor:
    """An official tensor without the rows that nothing reads."""
    if re.match(r"fg_module\.pres_depth_where_what_latent_post_disc\.enc\.6\.", key):
        return value[: model.encoder.cells.attributes.layers[-1].out_channels]
    return value


def config_of(arch: Mapping[str, Any]) -> GSWMConfig:
    """The configuration that upstream's options ask for.

    Args:
        arch: Those of its table ARCH that are not its defaults.
    Raises:
        CheckpointError: an option has no meaning here.
    """
    a = {**DEFAULTS, **arch}
    unknown = sorted(key for key in arch if key not in {*DEFAULTS, *UNREAD} and arch[key] != FIXED.get(key))
    if unknown:
        raise CheckpointError(f"these options of ARCH are unknown, or only one value of them is: {', '.join(unknown)}")
    environment = "none" if not a["BG_CONDITIONED"] else "attention" if a["BG_ATTENTION"] else "whole"
    if a["DETER"]:
        environment = "attention"  # upstream's deterministic model heeds neither option

    def ramp(name: str, *, on: bool = True) -> dict[str, Any]:
        start = a[f"{name}_START_VALUE"]
        return {"start": start, "end": a[f"{name}_END_VALUE"] if on else start, "first": a[f"{name}_START_STEP"],
                "last": a[f"{name}_END_STEP"]}

    sigma = ramp("SIGMA") if a["SIGMA_ANNEAL"] else {"start": a["SIGMA"], "end": a["SIGMA"]}
    return GSWMConfig.parse({
        "family": "g-swm", "obs": {"height": a["IMG_SIZE"], "width": a["IMG_SIZE"], "channels": 3},
        "timestep_horizon": max(a["T"]),
        "encoder": {
            "grid": a["G"], "max_objects": a["MAX"], "feature_dim": a["Z_WHAT_DIM"],
            "motion_dim": 0 if a["DETER"] else a["Z_DYNA_DIM"], "map_dim": a["IMG_ENC_DIM"],
            "glimpse_size": a["GLIMPSE_SIZE"], "proposal_dim": a["PROPOSAL_ENC_DIM"],
            "found_map_dim": a["PROP_MAP_DIM"], "found_map_layers": a["PROP_MAP_MLP_LAYERS"],
            "found_map_sigma": a["PROP_MAP_SIGMA"], "growth": [a["PROPOSAL_UPDATE_MIN"], a["PROPOSAL_UPDATE_MAX"]],
            "rejection": a["REJECTION_THRESHOLD"] if a["REJECTION"] else None,
            "discovery_dropout": a["DISCOVERY_DROPOUT"], "temperature": a["TAU_START_VALUE"],
        },
        "dynamics": {
            "state_dim": a["RNN_HIDDEN_DIM"], "input_dim": a["RNN_INPUT_DIM"], "interaction_dim": a["PROP_COND_DIM"],
            "interaction_layers": a["PROP_COND_MLP_LAYERS"], "environment": environment,
            "environment_dim": a["BG_PROPOSAL_DIM"], "environment_margin": a["BG_PROPOSAL_SIZE"],
            "scale_step": a["Z_SCALE_UPDATE_SCALE"], "position_step": a["Z_SHIFT_UPDATE_SCALE"],
            "feature_step": a["Z_WHAT_UPDATE_SCALE"], "depth_step": a["Z_DEPTH_UPDATE_SCALE"],
            "context_state_dim": a["RNN_CTX_HIDDEN_DIM"],
        },
        "decoder": {"context_dim": a["Z_CTX_DIM"] if a["BG_ON"] else 0},
        "objective": {
            "lengths": a["T"], "milestones": a["T_MILESTONES"], "sigma": sigma, "temperature": ramp("TAU"),
            "presence": ramp("Z_PRES_PROB"), "size_mean": ramp("Z_SCALE_MEAN"), "size_std": a["Z_SCALE_STD"],
            "background_steps": a["BG_ONLY_STEP"] if a["BG_ON"] else 0, "presence_kl": a["AUX_PRES_KL"],
        },
    })


DEFAULTS: dict[str, Any] = {
    "DETER": False, "IMG_SIZE": 64, "GLIMPSE_SIZE": 16, "G": 8, "MAX": 16, "T": [2, 4, 6, 8, 10],
    "T_MILESTONES": [10000, 12500, 15000, 17500], "BG_ON": False, "BG_ONLY_STEP": 1000, "BG_CONDITIONED": True,
    "BG_ATTENTION": True, "BG_PROPOSAL_SIZE": 0.25, "DISCOVERY_DROPOUT": 0.5, "REJECTION": True,
    "REJECTION_THRESHOLD": 0.8, "AUX_PRES_KL": True, "PROP_MAP_SIGMA": 0.1, "PROPOSAL_UPDATE_MIN": 0.0,
    "PROPOSAL_UPDATE_MAX": 0.3, "SIGMA": 0.2, "SIGMA_ANNEAL": False, "SIGMA_START_VALUE": 0.2, "SIGMA_END_VALUE": 0.2,
    "SIGMA_START_STEP": 0, "SIGMA_END_STEP": 1, "TAU_START_VALUE": 1.0, "TAU_END_VALUE": 1.0, "TAU_START_STEP": 0,
    "TAU_END_STEP": 10000, "Z_PRES_PROB_START_VALUE": 1e-10, "Z_PRES_PROB_END_VALUE": 1e-10,
    "Z_PRES_PROB_START_STEP": 0, "Z_PRES_PROB_END_STEP": 1500, "Z_SCALE_MEAN_START_VALUE": -1.5,
    "Z_SCALE_MEAN_END_VALUE": -1.5, "Z_SCALE_MEAN_START_STEP": 0, "Z_SCALE_MEAN_END_STEP": 10000, "Z_SCALE_STD": 0.3,
    "Z_SCALE_UPDATE_SCALE": 0.3, "Z_SHIFT_UPDATE_SCALE": 0.1, "Z_WHAT_UPDATE_SCALE": 0.2, "Z_DEPTH_UPDATE_SCALE": 1.0,
    "Z_WHAT_DIM": 64, "Z_DYNA_DIM": 128, "Z_CTX_DIM": 128, "IMG_ENC_DIM": 128, "PROPOSAL_ENC_DIM": 128,
    "RNN_INPUT_DIM": 128, "RNN_HIDDEN_DIM": 128, "RNN_CTX_HIDDEN_DIM": 128, "PROP_MAP_MLP_LAYERS": [128, 128],
    "PROP_MAP_DIM": 128, "PROP_COND_MLP_LAYERS": [128, 128], "PROP_COND_DIM": 128, "BG_PROPOSAL_DIM": 128,
}
"""Upstream's options, as its table ARCH calls them, and their defaults."""
FIXED: dict[str, Any] = {"Z_PRES_DIM": 1, "Z_DEPTH_DIM": 1, "Z_WHERE_DIM": 4, "Z_SHIFT_MEAN": 0.0, "Z_SHIFT_STD": 1.0}
"""Options that are read with this value only."""
UNREAD = ("PROP_COND_SIGMA",)
"""Options that upstream does not read."""
