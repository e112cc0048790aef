"""Made-up data for the checks, and options that make our own components small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import registry as registries
from ..batch import Batch
from ..conditions import Condition
from ..config import ObsSpec, WorldModelConfig, merge, nest
from ..distributions import Categorical
from ..encoders.base import Encoding
from ..latents import Field, Latent, LatentDist, LatentSpec, TokenGroup, particle_spec, pixel_spec

BATCH, WINDOW, SIDE = 2, 4, 32
LAST, SECOND = (slice(None), slice(-1, None)), (slice(1, 2),)
"""Indices of the last time step, and of sample 1."""

_CNN = {"base_channels": 8, "channel_multipliers": (1, 2), "latent_channels": 8}
_TRANSFORMER = {"dim": 16, "num_heads": 2, "num_layers": 2, "dropout": 0.0}
_VQ = {"channels": 8, "groups": 4, "multipliers": (1, 1, 1, 2), "num_blocks": 1, "attention": (), "map_channels": 8}
_CONV, _MLP = {"depth": 2, "multipliers": (2, 3, 4)}, {"units": 8, "layers": 2}
_VECTORS = {"vectors": {"speed": 1, "joints": 3}, "discrete": {"door": 3}}
OBSERVED: dict[str, dict[str, Any]] = {"mlp": {"height": 0, "width": 0, **_VECTORS}, "multi": _VECTORS,
                                      "identity": {"height": 8, "width": 8},
                                      "simnorm": {"height": 0, "width": 0, **_VECTORS},
                                      "simnorm-conv": {"height": 40, "width": 40},
                                      "with-vectors": {"vectors": {"pose": 7}}}
"""What small models with these encoders observe besides, or in place of, a picture."""
LEARNS: dict[str, dict[str, Any]] = {
    "denoising": {"objective": "denoising", "encoder": "identity", "decoder": "identity", "dynamics": "unet-diffusion",
                  "latent_action": None},
    "heads": {"heads": {"reward": {"name": "gaussian"}}},
    "latent-action": {"objective": "latent-action", "latent_action": "vq", "dynamics": None},
    "world-models": {"objective": "world-models", "encoder": "conv-vae", "decoder": {"name": "conv-transposed",
                     "output": "sigmoid"}, "dynamics": "mdn-rnn", "latent_action": None},
    "tdmpc2": {"objective": "tdmpc2", "encoder": "simnorm", "decoder": None, "dynamics": "latent-mlp",
               "latent_action": None, "heads": {"reward": {"name": "symlog-two-hot", "hidden": (8,)}}},
    "iris": {"objective": {"name": "iris", "perceptual": 0}, "encoder": "vq", "dynamics": "token-transformer",
             "latent_action": None, "heads": {"reward": {"name": "categorical", "readout": {"units": 8}}}},
    "vq": {"encoder": "vq"},
    "jepa": {"objective": "jepa", "encoder": "vit-cls", "decoder": None, "dynamics": "adaln-causal",
             "latent_action": None, "conditioners": {"action": {"name": "action-mlp", "dim": 3}}},
    "frozen-jepa": {"objective": "frozen-jepa", "encoder": "with-vectors", "decoder": None, "dynamics": "vjepa2-ac",
                    "latent_action": None, "conditioners": {"action": {"name": "raw-action", "dim": 7}}},
    "masked-jepa": {"objective": "masked-jepa", "encoder": "jepa-vit", "decoder": None},
    "adapter": {"objective": "adapter", "encoder": "adapted", "decoder": "semantic"},
}
"""Objective -> what the small model that learns by it is made of, if it trains no particles and no decoder."""
SMALL: dict[str, dict[str, dict[str, Any]]] = {
    "encoder": {
        "adapted": {"picture": {"name": "jepa-vit", "patch_size": 8, "dim": 16, "num_heads": 2, "num_layers": 1},
                    "adapter": {"dim": 4, "num_layers": 1, "num_heads": 2, "hidden": 8}},
        "conv": _CONV, "conv-vae": {"depth": 2, "multipliers": (2, 3), "latent_dim": 4}, "mlp": _MLP,
        "multi": {"image": _CONV, "vectors": _MLP}, "particle": {
        "patch_size": 8, "num_particles": 6, "hidden_dim": 16, "proposal_cnn": _CNN, "glimpse_cnn": _CNN,
        "background_cnn": _CNN, "feature_dim": 3, "background_dim": 2},
        "impala": {"channels": (4, 8), "num_blocks": 1, "dim": 12},
        "menet": {"layers": ((8, 5, 4, 1), (3, 1, 1, 0))},
        "particle-tracking": {
            "num_particles": 8, "num_proposals": 10, "hidden_dim": 16, "feature_dim": 3, "background_dim": 2,
            "glimpse_channels": (8, 8), "background_channels": (8, 8)},
        "patch": {"patch_size": 8, "feature_dim": 3, "hidden_dim": 16, "cnn": _CNN},
        "slot": {"num_slots": 3, "slot_dim": 16, "hidden_dim": 16, "channels": (8, 8), "max_map": 8, "num_heads": 2,
                 "dropout": 0.0},
        "fsq": {**_VQ, "levels": (5, 4, 3)},
        "simnorm": {"latent_dim": 16, "simnorm": 4, "hidden": (8,)},
        "simnorm-conv": {"latent_dim": 8, "simnorm": 4, "channels": 8, "stack": 1},
        "vq": {**_VQ, "quantizer": {"codes": 9, "dim": 4}},
        "jepa-vit": {"patch_size": 8, "dim": 16, "num_heads": 2, "num_layers": 1},
        "space-time-vq": {**_TRANSFORMER, "patch_size": 16, "window": 4, "quantizer": {"codes": 6, "dim": 4}},
        "vit": {"dim": 12, "num_heads": 2, "num_layers": 1},
        "vit-cls": {"patch_size": 8, "dim": 12, "num_heads": 2, "num_layers": 1, "projector": 8},
        "with-vectors": {"picture": {"name": "jepa-vit", "patch_size": 8, "dim": 16, "num_heads": 2,
                                     "num_layers": 1}}},
    "decoder": {
        "conv": {**_CONV, "units": 8}, "conv-transposed": {"depth": 2}, "mlp": _MLP,
        "multi": {"image": {**_CONV, "units": 8}, "vectors": _MLP},
        "particle": {"glimpse_map_size": 4, "hidden_dim": 16, "glimpse_cnn": _CNN, "background_cnn": _CNN},
        "particle-tracking": {"hidden_dim": 16, "background_channels": (8, 8)},
        "patch": {"hidden_dim": 16, "cnn": _CNN},
        "semantic": {"channels": 8, "multipliers": (1, 1, 1, 2), "num_blocks": 1},
        "slot": {"channels": (8, 8)}, "upsampling": {"channels": 16, "num_blocks": 1, "hidden": 8},
        "space-time": {**_TRANSFORMER, "window": 4}, "vq": _VQ},
    "dynamics": {
        "causal-dit": {"dim": 16, "num_heads": 2, "num_layers": 1, "head_dim": 8, "patch_size": 2, "steps": 2},
        "causal-patches": {"num_layers": 1, "num_heads": 2, "head_dim": 4, "hidden": 8, "dropout": 0.0,
                           "action_dim": 4},
        "vjepa2-ac": {"dim": 24, "num_layers": 1, "num_heads": 2},
        "adaln-causal": {"num_layers": 1, "num_heads": 2, "head_dim": 4, "hidden": 8, "projector": 8, "dropout": 0.0},
        "pint": _TRANSFORMER, "pint-joint": _TRANSFORMER, "slotformer": _TRANSFORMER,
        "token-transformer": _TRANSFORMER,
        "factored": {"dim": 16, "num_heads": 2, "num_layers": 1},
        "flam": {"num_factors": 3, "dim": 16, "num_heads": 2, "num_layers": 1, "aggregator_layers": 1,
                 "num_iterations": 2},
        "gru": {"dim": 16, "num_heads": 2}, "latent-mlp": {"hidden": (16,)},
        "rssm": {"deterministic_dim": 16, "hidden_dim": 8, "num_variables": 4, "num_classes": 3,
                 "cell": {"name": "block-gru", "hidden": 8, "blocks": 2}},
        "mdn-rnn": {"units": 8, "components": 2},
        "diffusion": {"dim": 16, "num_heads": 2, "num_layers": 2, "history_layers": 2, "steps": 2},
        "maskgit": {**_TRANSFORMER, "steps": 3},
        "unet-diffusion": {"channels": (8, 16), "depths": (1, 1), "attention": (False, False), "dim": 16,
                           "sampling": {"steps": 2}}},
    "cell": {**{name: {"hidden": 6} for name in ("planet-gru", "gru", "layernorm-gru", "lstm")},
             "block-gru": {"hidden": 6, "blocks": 2},
             "transformer": {"hidden": 6, "window": 3, "num_heads": 2}},
    "latent action": {
        **{name: {"dim": 16, "num_heads": 2, "num_layers": 1, "action_dim": 3} for name in ("factored", "single")},
        "playslot": {"dim": 16, "num_heads": 2, "num_layers": 1, "quantizer": {"codes": 3, "dim": 4}},
        "gaussian": {**_TRANSFORMER, "action_dim": 3}, "vq": {**_TRANSFORMER, "quantizer": {
        "codes": 5, "dim": 4}}},
    "prior": {"diffusion": {**_TRANSFORMER, "frames": 2, "steps": 8},
              "dit": {"dim": 16, "num_heads": 2, "num_layers": 2, "steps": 8, "sampling_steps": 4}},
    "conditioner": {**{name: {"dim": 3} for name in ("action", "action-mlp", "raw-action", "transition-action")},
                    "language": {"embed_dim": 5, "max_length": 2}},
    "objective": {"iris": {"perceptual": 0}, "vq": {"perceptual": 0},
                  "jepa": {"sigreg": {"weight": 0.1, "projections": 8}},
                  "frozen-jepa": {"target": "detached", "distance": "l1", "rollout_frames": 2, "fields": ("features",)},
                  "masked-jepa": {"image": {"min_keep": 0, "num_targets": 2},
                                  "predictor": {"dim": 8, "num_layers": 1, "num_heads": 2}},
                  "two-stage": {"burn_in": 2}, "dreamer": {"free_nats": 0}, "planet": {"free_nats": 0}},
}
"""Options that make our own components small; options given to a check come on top."""


def example_spec(views: int = 1, kind: str = "particles") -> LatentSpec:
    """Per view: five particles (three of them drawn) and a background, 4 x 4 patches, 8 x 8 pixels, or four others.

    Kind ``"codes"``: 2 x 2 patches, each a number of one of six classes.
    """
    if kind == "particles":
        return particle_spec(num_particles=5, num_drawn=3, feature_dim=3, background_dim=2, views=views)
    if kind == "pixels":
        return pixel_spec(height=8, width=8, views=views)
    if kind == "codes":
        group = TokenGroup("patches", views * 4, (Field("code", 1, Categorical(6, index=True)),))
        return LatentSpec((group,), grid=(2, 2), views=views, kind="patches")
    grid = (4, 4) if kind == "patches" else None
    group = TokenGroup(kind, views * (16 if grid else 4), (Field("features", 3),))
    return LatentSpec((group,), grid=grid, views=views, kind=kind)


def example_latent(spec: LatentSpec, batch: int = BATCH, time: int = WINDOW, *, seed: int = 0) -> Latent:
    """Random latent ``[batch, time]``: normal with deviation 0.5, or uniform or log-normal within a field's bounds.

    Transparencies are between 0 and 1, whatever distribution they have. Codes are numbers of any of their classes.
    """
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for group in spec.groups:
        for f in group.fields:
            shape = batch, time, group.size, f.dim
            low, high = (0.0, 1.0) if f.name == "transparency" else f.dist.support
            values[group.name, f.name] = (
                torch.randint(int(low), int(high) + 1, shape, generator=generator) if f.dist.codes
                else _between(low, high, shape, generator)
            )
    return Latent.build(spec, values)


def example_encoding(spec: LatentSpec, batch: int = BATCH, time: int = WINDOW, *, seed: int = 4) -> Encoding:
    """What an encoder of this spec might have found: a random posterior, and its means."""
    generator, params = torch.Generator().manual_seed(seed), {}
    for key in spec.keys():
        f = spec.field(key)
        raw = torch.randn(batch, time, spec.group(key[0]).size, f.dist.raw_dim(f.dim), generator=generator)
        params[key] = f.dist.from_raw(0.5 * raw)
    posterior = LatentDist(spec, params)
    return Encoding(posterior, posterior.mode())


def _between(low: float, high: float, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    if math.isfinite(low) and math.isfinite(high):
        return low + (high - low) * torch.rand(shape, generator=generator)
    normal = 0.5 * torch.randn(shape, generator=generator)
    if math.isfinite(low):
        return low + normal.exp()
    return high - normal.exp() if math.isfinite(high) else normal


def example_video(obs: ObsSpec, frames: int, batch: int = BATCH, *, seed: int = 0) -> Tensor:
    """Random video in [0, 1], ``[B, T, C, H, W]`` (``[B, V, T, C, H, W]``)."""
    views = () if obs.views == 1 else (obs.views,)
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, *views, frames, obs.channels, obs.height, obs.width, generator=generator)


def example_vectors(obs: ObsSpec, frames: int, batch: int = BATCH, *, seed: int = 4) -> dict[str, Tensor]:
    """Random vectors beside the video, as ``obs`` names them."""
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[str, Tensor] = {}
    for name, width in obs.widths.items():
        if name in obs.discrete:
            drawn[name] = torch.randint(width, (batch, frames), generator=generator)
        else:
            drawn[name] = torch.randn(batch, frames, width, generator=generator)
    return drawn


def example_condition(config: Any, obs: ObsSpec, frames: int, batch: int = BATCH) -> Tensor:
    """Random raw value for one of our own conditioners."""
    generator = torch.Generator().manual_seed(1)
    if hasattr(config, "num_actions") and config.num_actions is not None:
        return torch.randint(config.num_actions, (batch, frames), generator=generator)
    if hasattr(config, "num_actions"):
        return torch.randn(batch, frames, config.dim, generator=generator)
    if config.name == "language":
        return torch.randn(batch, config.max_length, config.embed_dim, generator=generator)
    if config.name == "goal-image":
        return example_video(obs, 1, batch, seed=1).squeeze(-4)
    raise ValueError(f"no example for conditioner '{config.name}'; pass raw=... (or batch=... to check_model)")


def example_mask(config: Any, frames: int, batch: int = BATCH) -> Tensor:
    """A mask that hides some of the value of one of our own conditioners, in its finest form."""
    if hasattr(config, "num_actions"):
        return alternating((batch, frames))
    return alternating((batch, config.max_length) if config.name == "language" else (batch,))


def alternating(shape: Sequence[int]) -> Tensor:
    """A mask that is True and False by turns along its last axis."""
    return (torch.arange(shape[-1]) % 2 == 0).expand(tuple(shape))


def example_anchors(spec: LatentSpec) -> dict[str, Tensor]:
    """Positions on the diagonal, one per token of a view, if tokens have positions."""
    key = spec.find("position")
    if key is None:
        return {}
    return {"position": torch.linspace(-0.8, 0.8, spec.group(key[0]).size // spec.views)[:, None].repeat(1, 2)}


def example_conditioning(dim: int, spec: LatentSpec, time: int, memory_length: int) -> Condition:
    """A random condition in width ``dim`` with one entry per transition, in all three forms."""
    generator = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> Tensor:
        return torch.randn(BATCH, *shape, dim, generator=generator)

    memory = draw(memory_length) if memory_length else None
    return Condition(frame=draw(time), token=draw(time, spec.num_tokens), memory=memory)


def last_time(axis: int) -> tuple[Any, ...]:
    """Index of the last time step of a tensor whose time axis, counted from the end, is given."""
    return (..., slice(-1, None), *[slice(None)] * (-1 - axis))


def changed(x: Any, index: Any) -> Any:
    """A copy with other values at an index; fields stay in their bounds, video in (0, 1), whole numbers in range.

    Of a batch what is seen changes, video and vectors, at an index of clips and frames.
    """
    if isinstance(x, Batch):
        return replace(x, video=changed(x.video, index if x.video.ndim == 5 else _with_views(index)),
                       vectors={name: changed(value, index) for name, value in x.vectors.items()})
    if isinstance(x, Latent):
        values = {key: _changed(t, index, *x.spec.field(key).dist.support) for key, t in x.values.items()}
        return Latent.build(x.spec, values, score=None if x.score is None else changed(x.score, index))
    part = x[index]
    inside = x.is_floating_point() and part.numel() and part.min() >= 0 and part.max() <= 1
    return _changed(x, index, *((0.0, 1.0) if inside else (-math.inf, math.inf)))


def _with_views(index: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*index[:1], slice(None), *index[1:])


def _changed(x: Tensor, index: Any, low: float, high: float) -> Tensor:
    x, part = x.clone(), x[index]
    if not x.is_floating_point():
        x[index] = (part + 1) % (x.max() + 1)
    elif math.isfinite(low) and math.isfinite(high):
        x[index] = low + high - part
    elif math.isfinite(low) or math.isfinite(high):
        x[index] = 2 * part - (low if math.isfinite(low) else high)  # twice as far from the bound
    else:
        x[index] = part + 0.7
    return x


def small_config(**overrides: Any) -> WorldModelConfig:
    """A 32-pixel LPWM of a few thousand parameters; overrides as in `worldkit.create_config`.

    Our own components come small, too, when they are swapped in by name: ``small_config(dynamics="gru")``.
    """
    base = {
        "obs": {"height": SIDE, "width": SIDE}, "timestep_horizon": WINDOW, "objective": "elbo",
        "encoder": {"name": "particle", **SMALL["encoder"]["particle"]},
        "decoder": {"name": "particle", **SMALL["decoder"]["particle"]},
        "dynamics": {"name": "pint", **SMALL["dynamics"]["pint"]},
        "latent_action": {"name": "gaussian", **SMALL["latent action"]["gaussian"]},
    }
    changes = {kind: _shrunk(kind, value) for kind, value in nest(overrides).items()}
    base["obs"] = {**base["obs"], **OBSERVED.get(changes.get("encoder", {}).get("name", ""), {})}
    if changes.get("encoder", {}).get("name", "particle") != "particle" and "decoder" not in changes:
        decoder = registries.encoders.get(changes["encoder"]["name"]).default_decoder
        changes["decoder"] = _shrunk("decoder", decoder)
    return WorldModelConfig.parse(merge(base, changes))


def _shrunk(kind: str, value: Any) -> Any:
    """An override of a component with our small sizes underneath."""
    registry = WorldModelConfig.COMPONENTS.get(kind)
    if registry is None or value is None:
        return value
    value = {"name": value} if isinstance(value, str) else value
    if "name" not in value:
        return value
    name = registry.resolve(value["name"])
    return {**SMALL.get(registry.kind, {}).get(name, {}), **value, "name": name}


def example_batch(config: WorldModelConfig, frames: int | None = None, *, batch: int = BATCH) -> Batch:
    """Random clips with every condition that a model of this config reads, and what its heads learn.

    Args:
        config: A model's configuration.
        frames: Frames per clip; default: what a training clip has.
        batch: Number of clips.
    """
    frames = config.clip_length if frames is None else frames
    conditions = {name: example_condition(c, config.obs, frames, batch) for name, c in config.conditioners.items()}
    masks = {
        name: example_mask(c, frames, batch)
        for name, c in config.conditioners.items() if getattr(c, "null_embedding", False)
    }
    targets = {name: example_target(h, (batch, frames)) for name, h in config.heads.items()}
    return Batch(example_video(config.obs, frames, batch), conditions, masks, targets=targets,
                 vectors=example_vectors(config.obs, frames, batch))


def example_target(config: Any, shape: tuple[int, int], *, seed: int = 3) -> Tensor:
    """Random target ``[B, T]`` for a head, with an axis more where its option ``dim`` says so; flags of bernoulli."""
    drawn = torch.randn(*shape, *([dim] if (dim := getattr(config, "dim", None)) else []),
                        generator=torch.Generator().manual_seed(seed))
    return drawn > 0 if config.name == "bernoulli" else drawn
