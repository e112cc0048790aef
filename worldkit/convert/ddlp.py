"""Official DDLP / DLPv2 checkpoints -> worldkit models, number for number.

A DDLP (video) has the dynamics `pint-joint` and follows its particles; a DLPv2 (images) has neither. What weights
depend on of upstream's defects is switched on in the configuration: ``encoder.lost_layers``,
``encoder.correlation_norm``, ``dynamics.depth_logvar``; and, for those who go on training, ``objective.background_kl``.

Vocabulary of encoder and decoder: `worldkit.convert.ddlp_perception`; of the rest (theirs -> ours):
``pint_dim -> dim``, ``beta_dyn_rec -> weights.dynamics_reconstruction``, ``kl_balance -> weights.features``,
``warmup_epoch -> warmup_epochs``.

Source: github.com/taldatech/ddlp @ 5686275.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..assembly import build
from ..config import WorldModelConfig
from ..errors import CheckpointError, ConfigError
from ..model import ComposedWorldModel
from .ddlp_dynamics import MASK, dynamics_name, parameter_of
from .ddlp_perception import ALIASES, BUFFERS, is_video, perception_config, perception_target
from .state import Target, fill, read_hparams, read_state, refuse_other_projects, whose_hparams


def from_ddlp(checkpoint: str | Path, hparams: str | Path | Mapping[str, Any]) -> ComposedWorldModel:
    """Official checkpoint (a state dict saved with ``torch.save``) and its ``hparams.json`` -> worldkit model.

    Args:
        checkpoint: Path of the ``.pth`` file; loaded without running any code in it.
        hparams: Path of the run's ``hparams.json`` (or the configuration it was started with), or the dict itself.
    Raises:
        CheckpointError: the file is damaged or of another model, or keys and hparams disagree (every such key is
            listed, and what the weights say of the hparams).
        ConfigError: the hparams ask for something that is not supported.
    """
    table = read_hparams(hparams)
    state = read_state(checkpoint)
    refuse_other_projects(state, "ddlp")
    config = config_from_hparams(table)
    refuse_contradictions(state, table)
    model = build(config)
    load_state(model, state)
    return model.eval()


def config_from_hparams(hparams: Mapping[str, Any]) -> WorldModelConfig:
    """Official ``hparams.json`` / ``configs/*.json`` -> configuration. Training keys are ignored.

    Raises:
        ConfigError: a key is missing, or asks for something no official model uses.
    """
    try:
        return _config(hparams)
    except KeyError as error:
        raise ConfigError(f"hparams lack the key {error}; {whose_hparams(hparams, 'ddlp')}") from None
    except TypeError as error:
        raise ConfigError(f"a value in the hparams is of another kind than in those of DDLP: {error}") from None


def _config(h: Mapping[str, Any]) -> WorldModelConfig:
    video = is_video(h)
    tracked = h.get("use_tracking", video)
    config: dict[str, Any] = {
        "obs": {"height": h["image_size"], "width": h["image_size"], "channels": h["ch"]},
        "timestep_horizon": h["timestep_horizon"] if video else h.get("timestep_horizon", 10) if tracked else 1,
        **perception_config(h),
        "objective": {
            "name": "ddlp", "reconstruction": h.get("recon_loss_type", "mse"),
            "num_static_frames": h.get("num_static_frames", 4), "warmup_epochs": h.get("warmup_epoch", 1),
            "background_kl": "mean" if video else "sum",
            "weights": {
                "reconstruction": h.get("beta_rec", 1.0), "kl": h.get("beta_kl", 0.1),
                "dynamics": h.get("beta_dyn", h.get("beta_kl", 0.1)),
                "dynamics_reconstruction": h.get("beta_dyn_rec", 1.0), "features": h.get("kl_balance", 1e-3),
            },
        },
    }
    if video:
        config["dynamics"] = {
            "name": "pint-joint", "dim": h["pint_dim"], "num_layers": h["pint_layers"], "num_heads": h["pint_heads"],
            "predict_delta": h.get("predict_delta", True), "depth_logvar": "shared",
        }
    return WorldModelConfig.parse(config)


def canonical_key(key: str) -> str:
    """Upstream key with alias prefixes replaced."""
    for alias, prefix in ALIASES:
        if key.startswith(alias):
            return prefix + key.removeprefix(alias)
    return key


def target_of(key: str, model: ComposedWorldModel) -> Target | None:
    """Our parameter behind a canonical upstream key; None if there is no such thing."""
    if (rest := key.removeprefix("dyn_module.")) != key:
        return parameter_of(model, dynamics_name(rest))
    return perception_target(key, model)


def load_state(model: ComposedWorldModel, state: Mapping[str, Tensor]) -> None:
    """Fill a model with an official state dict; see `convert.state.fill`."""
    kept = {key: tensor for key, tensor in state.items() if not (BUFFERS.search(key) or MASK.search(key))}
    fill(model, kept, canonical=canonical_key, target_of=lambda key: target_of(key, model))


_Shape = tuple[int, ...]
_FIRST = "fg_module.particle_attribute_enc.cnn.main.in_block_1.main."
_BLOCK = "dyn_module.particle_transformer.blocks.0.attn."
_SAID: tuple[tuple[str, str, Callable[[_Shape], int]], ...] = (
    ("n_kp_enc", _BLOCK + "rel_pos_bias.particle_rel_pos_bias", lambda s: (s[0] + 1) // 2 - 1),
    ("timestep_horizon", _BLOCK + "rel_pos_bias.rel_pos_bias", lambda s: (s[0] + 1) // 2),
    ("pint_heads", _BLOCK + "rel_pos_bias.rel_pos_bias", lambda s: s[1]),
    ("pint_dim", "dyn_module.particle_transformer.head.weight", lambda s: s[0]),
    ("learned_feature_dim", "fg_module.object_dec.fc.0.weight", lambda s: s[1]),
    ("n_kp_enc", "fg_module.particle_mixer.mixer.3.weight", lambda s: s[0]),
)
"""Hparam, key of a weight, and what its shape says of that hparam."""


def refuse_contradictions(state: Mapping[str, Tensor], h: Mapping[str, Any]) -> None:
    """Raise a `CheckpointError` that names every hparam and the weight that contradicts it."""
    found = []
    for name, key, said in _SAID:
        if key in state and name in h and said(tuple(state[key].shape)) != h[name]:
            shape = list(state[key].shape)
            found.append(f"{name} is {h[name]!r} in the hparams, {said(tuple(shape))} in the weights: {key} is {shape}")
    moving = any(key.startswith("dyn_module.") for key in state)
    if moving != is_video(h):
        kinds = ("of video, with dynamics" if x else "of images, without dynamics" for x in (is_video(h), moving))
        found.append("the hparams are of a model {}; the weights are of one {}".format(*kinds))
    layers = {key.split(".")[3] for key in state if key.startswith("dyn_module.particle_transformer.blocks.")}
    if moving and h.get("pint_layers", len(layers)) != len(layers):
        found.append(f"pint_layers is {h['pint_layers']!r} in the hparams, {len(layers)} in the weights")
    stacks = (("prior_channels", "fg_module.particle_features_enc.cnn.main."),
              ("enc_channels", "bg_module.bg_cnn_enc.main."))
    for name, prefix in stacks:
        widths = _widths(state, prefix)
        if widths and name in h and widths != sorted(set(h[name])):
            found.append(f"{name} is {h[name]!r} in the hparams, of the widths {widths} in the weights: {prefix}*")
    seen = next((t.shape[1] for k, t in state.items() if k.startswith(_FIRST) and t.ndim == 4), None)
    wanted = h.get("ch", 3) + h.get("use_correlation_heatmaps", is_video(h))
    if seen is not None and seen != wanted:
        found.append(f"use_correlation_heatmaps is {h.get('use_correlation_heatmaps')!r} in the hparams, but the "
                     f"attribute encoder of the weights sees {seen} channels, not {wanted}")
    if found:
        raise CheckpointError("the checkpoint and its hparams disagree\n  " + "\n  ".join(found) +
                              "\n  Is this the hparams.json of the same run?")


def _widths(state: Mapping[str, Tensor], prefix: str) -> list[int]:
    """Widths of the blocks of a stack."""
    return sorted({t.shape[0] for key, t in state.items() if key.startswith(prefix) and t.ndim == 4})
