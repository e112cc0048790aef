"""Official IRIS checkpoints -> worldkit models, number for number.

A checkpoint is one flat table of the agent: tokenizer, world model and actor-critic, and the weights of the perceptual
loss beside them. All sizes are read off the weights, but for the number of attention heads. The model has upstream's
refresh (``dynamics.refresh = "frame"``); ``worldkit convert iris`` also writes the actor-critic.

Source: github.com/eloialonso/iris @ 24326aa, names of weights only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..assembly import build
from ..config import WorldModelConfig
from ..errors import CheckpointError
from ..model import ComposedWorldModel
from .state import Target, fill, read_state, refuse_other_projects

PARTS = ("tokenizer.", "world_model.", "actor_critic.")
_NO_WEIGHTS = re.compile(r"^world_model\..*(\.attn\.mask|\.indices)$|^tokenizer\.lpips\.")
"""Masks and positions, which are built again; the perceptual network, see `perceptual_weights`."""
_PLACES = (
    (r"^tokenizer\.(encoder|decoder)\.(conv_in)\.", r"\1.stack.\2."),
    (r"^tokenizer\.(encoder|decoder)\.mid\.block_(\d)\.", r"\1.stack.middle.block\2."),
    (r"^tokenizer\.(encoder|decoder)\.mid\.attn_1\.", r"\1.stack.middle.attention."),
    (r"^tokenizer\.(encoder|decoder)\.(?:down|up)\.(\d+)\.block\.(\d+)\.", r"\1.stack.levels.\2.blocks.\3."),
    (r"^tokenizer\.(encoder|decoder)\.(?:down|up)\.(\d+)\.attn\.(\d+)\.", r"\1.stack.levels.\2.attentions.\3."),
    (r"^tokenizer\.(encoder|decoder)\.\w+\.(\d+)\.(?:down|up)sample\.conv\.", r"\1.stack.levels.\2.conv."),
    (r"^tokenizer\.(encoder|decoder)\.(norm|conv)_out\.", r"\1.stack.out.\2."),
    (r"^tokenizer\.pre_quant_conv\.", "encoder.project."), (r"^tokenizer\.post_quant_conv\.", "decoder.project."),
    (r"^tokenizer\.embedding\.weight$", "encoder.quantizer.codebook"),
    (r"^world_model\.transformer\.blocks\.(\d+)\.ln(\d)\.", r"dynamics.net.layers.\1.norm\2."),
    (r"^world_model\.transformer\.blocks\.(\d+)\.attn\.", r"dynamics.net.layers.\1.attention."),
    (r"^world_model\.transformer\.blocks\.(\d+)\.mlp\.0\.", r"dynamics.net.layers.\1.widen."),
    (r"^world_model\.transformer\.blocks\.(\d+)\.mlp\.2\.", r"dynamics.net.layers.\1.narrow."),
    (r"^world_model\.transformer\.ln_f\.", "dynamics.net.norm."),
    (r"^world_model\.pos_emb\.weight$", "dynamics.positions"),
    (r"^world_model\.embedder\.embedding_tables\.0\.weight$", "dynamics.action_rows"),
    (r"^world_model\.embedder\.embedding_tables\.1\.", "dynamics.code_rows."),
    (r"^world_model\.head_observations\.head_module\.", "dynamics.head."),
    (r"^world_model\.head_rewards\.head_module\.0\.", "heads.reward.readout.layers.0.linear."),
    (r"^world_model\.head_rewards\.head_module\.2\.", "heads.reward.readout.out."),
    (r"^world_model\.head_ends\.head_module\.0\.", "heads.terminated.readout.layers.0.linear."),
    (r"^world_model\.head_ends\.head_module\.2\.", "heads.terminated.readout.out."),
)
_THIRDS = {"q": 0, "k": 1, "v": 2, "query": 0, "key": 1, "value": 2}
"""Which rows of our ``qkv`` a projection is."""
_RENAMED = {"proj_out": "proj", "nin_shortcut": "shortcut"}


def from_iris(checkpoint: str | Path, *, num_heads: int = 4) -> ComposedWorldModel:
    """An official agent (``last.pt``, or a game's published file) -> the world model in it.

    Args:
        checkpoint: Path of the file; loaded without running any code in it.
        num_heads: Attention heads of the transformer, which weights do not tell.
    Raises:
        CheckpointError: the file is damaged or of another model; every key without a place is listed.
    """
    return model_of(read_state(checkpoint), num_heads=num_heads)


def model_of(state: Mapping[str, Tensor], *, num_heads: int = 4) -> ComposedWorldModel:
    """The world model of an official agent's state dict; see `from_iris`."""
    refuse_other_projects(state, "iris")
    strange = [key for key in state if not key.startswith(PARTS)]
    if strange or not any(key.startswith("tokenizer.") for key in state):
        raise CheckpointError(
            f"this is no agent of IRIS: its keys begin with {', '.join(PARTS)}, and this file has "
            f"{', '.join(strange[:4]) or 'no tokenizer.*'}{', ...' if len(strange) > 4 else ''}; give last.pt or a "
            "game's published file (not optimizer.pt)"
        )
    model = build(config_of(state, num_heads=num_heads))
    weights = {key: value for key, value in state.items()
               if not _NO_WEIGHTS.search(key) and not key.startswith("actor_critic.")}
    names = {name for name, _ in model.named_parameters()}
    fill(model, weights, canonical=lambda key: key, target_of=lambda key: target_of(key, model, names),
         between="the checkpoint and the sizes read off it", advice="Is this a whole agent of IRIS?")
    return model.eval()


def config_of(state: Mapping[str, Tensor], *, num_heads: int = 4) -> WorldModelConfig:
    """The configuration that an official agent's weights ask for.

    Raises:
        CheckpointError: a weight that tells a size is missing.
    """
    try:
        return _config(state, num_heads)
    except KeyError as error:
        raise CheckpointError(f"this agent of IRIS lacks {error}, which tells a size of it; give a whole checkpoint "
                              "(last.pt)") from None


def _config(state: Mapping[str, Tensor], num_heads: int) -> WorldModelConfig:
    def shape(key: str) -> tuple[int, ...]:
        return tuple(state[key].shape)

    down = "tokenizer.encoder.down."
    levels = 1 + max(int(found[1]) for key in state if (found := re.match(rf"{re.escape(down)}(\d+)\.", key)))
    blocks = 1 + max(int(found[1]) for key in state if (found := re.match(rf"{re.escape(down)}0\.block\.(\d+)", key)))
    channels = shape("tokenizer.encoder.conv_in.weight")[0]
    widths = [shape(f"{down}{i}.block.0.conv1.weight")[0] for i in range(levels)]
    blocks_of_time = shape("world_model.head_rewards.indices")[0]
    positions, dim = shape("world_model.pos_emb.weight")
    side = math.isqrt(positions // blocks_of_time - 1) * 2 ** (levels - 1)
    mask = state["world_model.transformer.blocks.0.attn.mask"]
    layers = 1 + max(int(found[1]) for key in state
                     if (found := re.match(r"world_model\.transformer\.blocks\.(\d+)\.", key)))
    codes, code_dim = shape("tokenizer.embedding.weight")
    stack: dict[str, Any] = {
        "name": "vq", "channels": channels, "multipliers": [width // channels for width in widths],
        "num_blocks": blocks, "map_channels": shape("tokenizer.encoder.conv_out.weight")[0],
        "attention": [side // 2**i for i in range(levels) if f"{down}{i}.attn.0.q.weight" in state],
    }
    readout = {"layers": 1, "units": dim, "norm": "none", "activation": "relu", "init": "normal"}
    return WorldModelConfig.parse({
        "obs": {"height": side, "width": side, "channels": shape("tokenizer.encoder.conv_in.weight")[1]},
        "timestep_horizon": blocks_of_time - 1,
        "encoder": {**stack, "quantizer": {"codes": codes, "dim": code_dim}}, "decoder": stack,
        "dynamics": {
            "name": "token-transformer", "dim": dim, "num_layers": layers, "num_heads": num_heads, "refresh": "frame",
            "attention": "block-causal" if bool(mask.triu(1).any()) else "causal",
        },
        "conditioners": {"action": {
            "name": "raw-action", "num_actions": shape("world_model.embedder.embedding_tables.0.weight")[0]}},
        "heads": {
            "reward": {"name": "categorical", "values": [-1, 0, 1], "readout": readout},
            "terminated": {"name": "categorical", "values": [0, 1], "readout": readout},
        },
        "objective": {"name": "iris"},
    })


def target_of(key: str, model: ComposedWorldModel, names: set[str]) -> Target | None:
    """Our parameter behind an official key; None if there is no such place.

    Args:
        key: Official name.
        model: The model.
        names: Of all its parameters.
    """
    for pattern, place in _PLACES:
        if not re.match(pattern, key):
            continue
        name = re.sub(pattern, place, key)
        *before, layer, last = name.split(".")
        if layer in _THIRDS and "attention" in name:
            name = ".".join([*before, "qkv", last])
            if name not in names:
                return None
            rows = model.get_parameter(name).shape[0] // 3
            return Target(name, slice(_THIRDS[layer] * rows, (_THIRDS[layer] + 1) * rows))
        name = ".".join([*before, _RENAMED.get(layer, layer), last])
        return Target(name) if name in names else None
    return None


def perceptual_weights(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The perceptual network that official checkpoints carry: (backbone, heads) of `worldkit.metrics.perceptual`.

    ``model.use_perceptual(VGGPerceptual(*perceptual_weights(state)))`` needs no download then.
    """
    backbone, heads, prefix = {}, {}, "tokenizer.lpips."
    for key, value in state.items():
        if found := re.match(rf"{re.escape(prefix)}net\.slice\d\.(\d+)\.(weight|bias)$", key):
            backbone[f"features.{found[1]}.{found[2]}"] = value
        elif re.match(rf"{re.escape(prefix)}lin\d\.model\.1\.weight$", key):
            heads[key.removeprefix(prefix)] = value
    return backbone, heads
