"""Official DIAMOND checkpoints -> worldkit models, number for number.

A checkpoint is ONE flat state dict: ``denoiser.*``, and ``rew_end_model.*`` with ``actor_critic.*`` (Atari) or
``upsampler.*`` (csgo). Sizes are read off the weights; the noise that they were trained with off the configuration
beside them, or taken to be the published one. Here every official tensor is a view of one of ours (`denoiser_views`,
...): scale and shift of all blocks are rows of one layer, tables of actions are transposed.

Vocabulary (theirs -> ours): ``denoiser.inner_model -> dynamics.denoiser``, ``rew_end_model -> dynamics.outcomes`` and
its last layer ``-> heads.reward, heads.terminated``, ``sigma_offset_noise -> noise.offset``,
``num_steps_conditioning -> timestep_horizon``, ``cond_channels -> dim``, ``attn_depths -> attention``,
``lstm_dim -> width``.

Source: github.com/eloialonso/diamond @ 5bcd159, 851cefb (csgo); key names only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..assembly import build
from ..config import WorldModelConfig
from ..errors import CheckpointError
from ..model import ComposedWorldModel
from ..nn.denoiser import Denoiser
from ..nn.outcomes import Outcomes
from ..nn.unet import ConditionedBlocks, UNet
from ..presets import preset_spec
from .published import published
from .state import read_state, refuse_other_projects

Read = Callable[[nn.Parameter], Tensor]
"""What is looked at of a parameter: itself, or its gradient."""
PARTS = ("denoiser", "rew_end_model", "actor_critic", "upsampler")
"""What the names of tensors in a checkpoint begin with."""


def itself(parameter: nn.Parameter) -> Tensor:
    """The values of a parameter."""
    return parameter.data


def from_diamond(
    checkpoint: str | Path, *, game: str | None = None, size: tuple[int, int] | None = None
) -> ComposedWorldModel:
    """An official checkpoint -> the world model in it.

    Args:
        checkpoint: The ``.pt`` file (loaded without running any code in it), a folder laid out as the official
            repository, or ``"hub:eloialonso/diamond"``.
        game: Which one, of those in a repository; see `worldkit.convert.published.published`.
        size: Height and width of the pictures, of csgo alone (others tell it): default 150 x 280.
    Raises:
        CheckpointError: no such game, or a file that is damaged or of another model; every key without a place is
            listed.
    """
    file, text = published("diamond", checkpoint, game)
    return model_of(read_state(file), settings=text, size=size)


def model_of(state: Mapping[str, Tensor], *, settings: str = "", size: tuple[int, int] | None = None
             ) -> ComposedWorldModel:
    """The world model of an official state dict; see `from_diamond`.

    Args:
        state: Flat, of a whole agent.
        settings: Text of the configuration beside it, for the noise that weights do not tell.
        size: See there.
    """
    refuse_other_projects(state, "diamond")
    strange = [key for key in state if not key.startswith(tuple(f"{part}." for part in PARTS))]
    if strange or not any(key.startswith("denoiser.") for key in state):
        raise CheckpointError(
            f"this is no agent of DIAMOND: its keys begin with {', '.join(f'{p}.' for p in PARTS)}, and this file has "
            f"{', '.join(strange[:4]) or 'no denoiser.*'}{', ...' if len(strange) > 4 else ''}; give a game's "
            "published file, or agent_versions/agent_epoch_NNNNN.pt of a run (not state.pt)"
        )
    parts = {part: {key.removeprefix(f"{part}."): x for key, x in state.items() if key.startswith(f"{part}.")}
             for part in PARTS}
    try:
        config = config_of(parts, noise_in(settings), size)
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(f"this is no whole agent of DIAMOND: {error} is missing, or of another shape") from error
    model = build(config)
    dynamics: Any = model.dynamics
    fill(denoiser_views(dynamics.denoiser), parts["denoiser"], where="denoiser.* of this file")
    if parts["rew_end_model"]:
        fill(outcomes_views(dynamics.outcomes, model.heads), parts["rew_end_model"],
             where="rew_end_model.* of this file")
    if parts["upsampler"]:
        fill(denoiser_views(dynamics.upsampler), parts["upsampler"], where="upsampler.* of this file")
    return model.eval()


# -- sizes, read off the weights

State = Mapping[str, Tensor]


def config_of(
    parts: Mapping[str, State], noise: Mapping[str, Mapping[str, float]], size: tuple[int, int] | None
) -> WorldModelConfig:
    """Our configuration for official weights, by part."""
    net, csgo = parts["denoiser"], bool(parts["upsampler"])
    preset = WorldModelConfig.parse(preset_spec("diamond-csgo" if csgo else "diamond").config).to_dict()
    actions, width = net["inner_model.act_emb.0.weight"].shape
    dim, channels = len(net["inner_model.cond_proj.0.weight"]), len(net["inner_model.conv_out.weight"])
    dynamics = {**preset["dynamics"], **_levels(net, "inner_model.unet.d_blocks"), "dim": dim,
                "noise": {**preset["dynamics"]["noise"], **noise.get("denoiser", {})},
                "noisy_past": "inner_model.noise_cond_emb.weight" in net}
    config = {**preset, "timestep_horizon": dim // width, "dynamics": dynamics}
    if csgo:
        up = parts["upsampler"]
        preset_up = preset["dynamics"]["upsampler"]
        dynamics["upsampler"] = {
            **preset_up, **_levels(up, "inner_model.unet.d_blocks"), "dim": len(up["inner_model.cond_proj.0.weight"]),
            "noise": {**preset_up["noise"], **noise.get("upsampler", {})}}
        config["conditioners"] = {"action": {"name": "raw-action", "dim": actions}}
        config["obs"] = {**preset["obs"], "channels": channels}
        if size is not None:
            config["obs"] |= {"height": size[0], "width": size[1]}
        return WorldModelConfig.parse(config)
    config["conditioners"] = {"action": {"name": "raw-action", "num_actions": actions}}
    if outcomes := parts["rew_end_model"]:
        levels = _levels(outcomes, "encoder.blocks", middle=True)
        area = outcomes["lstm.weight_ih_l0"].shape[1] // levels["channels"][-1]
        side = math.isqrt(area) * 2 ** (len(levels["channels"]) - 1)
        dynamics["outcomes"] = {**levels, "dim": outcomes["act_emb.weight"].shape[1],
                                "width": outcomes["lstm.weight_hh_l0"].shape[1]}
        config["obs"] = {"height": side, "width": side, "channels": channels}
    else:
        del dynamics["outcomes"], config["heads"]
    return WorldModelConfig.parse(config)


def _levels(named: State, prefix: str, *, middle: bool = False) -> dict[str, list[Any]]:
    """Channels, depths and attention of levels ``prefix.I.resblocks.J``; the last one may be the middle."""
    depths: dict[int, int] = {}
    for key in named:
        if found := re.match(re.escape(prefix) + r"\.(\d+)\.resblocks\.(\d+)\.", key):
            depths[int(found[1])] = max(depths.get(int(found[1]), 0), int(found[2]) + 1)
    levels = range(len(depths) - middle)
    return {
        "channels": [len(named[f"{prefix}.{i}.resblocks.0.conv1.weight"]) for i in levels],
        "depths": [depths[i] for i in levels],
        "attention": [f"{prefix}.{i}.resblocks.0.attn.qkv_proj.weight" in named for i in levels],
    }


def noise_in(settings: str) -> dict[str, dict[str, float]]:
    """Part -> options of its noise that an official configuration (YAML) sets.

    Example:
        >>> noise_in("denoiser:\\n  sigma_data: 0.5\\n  sigma_offset_noise: 0.1\\n")
        {'denoiser': {'data': 0.5, 'offset': 0.1}}
    """
    found: dict[str, dict[str, float]] = {}
    part, names = "", {"sigma_data": "data", "sigma_offset_noise": "offset"}
    for line in settings.splitlines():
        if top := re.match(r"^(\w+):", line):
            part = top[1]
        elif value := re.match(r"^\s+(sigma_data|sigma_offset_noise):\s*([\d.eE+-]+)", line):
            found.setdefault(part, {})[names[value[1]]] = float(value[2])
    return found


# -- official names of our tensors


def denoiser_views(denoiser: Denoiser, read: Read = itself) -> dict[str, Tensor]:
    """Official name, as in ``denoiser.``, -> view of our tensor (of its gradient, if ``read`` gives that)."""
    views = {"inner_model.noise_emb.weight": denoiser.level.frequencies[None]} if read is itself else {}
    if denoiser.past_level is not None and read is itself:
        views["inner_model.noise_cond_emb.weight"] = denoiser.past_level.frequencies[None]
    if denoiser.actions is not None:
        views["inner_model.act_emb.0.weight"] = read(denoiser.actions.weight).T
    for i in (0, 2):
        views |= _layer(f"inner_model.cond_proj.{i}", denoiser.mlp[i], read)
    net: UNet = denoiser.net
    views |= _layer("inner_model.conv_in", net.conv_in, read)
    for i, level in enumerate(net.down):
        views |= _layer(f"inner_model.unet.downsamples.{i}.conv", level.resample, read)
    for i, level in enumerate(net.up):
        views |= _layer(f"inner_model.unet.upsamples.{i}.conv", level.resample, read)
    names = {"d_blocks": net.down, "u_blocks": net.up}
    places = {f"inner_model.unet.{name}.{i}.resblocks.{j}": block for name, levels in names.items()
              for i, level in enumerate(levels) for j, block in enumerate(level.blocks)}
    places |= {f"inner_model.unet.mid_blocks.resblocks.{j}": block for j, block in enumerate(net.middle)}
    views |= _blocks(net, places, read)
    return views | _layer("inner_model.norm_out.norm", net.norm_out, read) | _layer(
        "inner_model.conv_out", net.conv_out, read)


def outcomes_views(outcomes: Outcomes, heads: Mapping[str, nn.Module], read: Read = itself) -> dict[str, Tensor]:
    """Official name, as in ``rew_end_model.``, -> view; of its last layer the rows of the two heads, by ``#``."""
    blocks = outcomes.blocks
    views = _layer("encoder.conv_in", blocks.conv_in, read)
    if outcomes.actions is not None:
        views["act_emb.weight"] = read(outcomes.actions.weight).T
    for i, level in enumerate(blocks.down):
        views |= _layer(f"encoder.downsamples.{i}.conv", level.resample, read)
    places = {f"encoder.blocks.{i}.resblocks.{j}": block for i, level in enumerate([*blocks.down])
              for j, block in enumerate(level.blocks)}
    places |= {f"encoder.blocks.{len(blocks.down)}.resblocks.{j}": block for j, block in enumerate(blocks.middle)}
    views |= _blocks(blocks, places, read)
    views |= {f"lstm.{name}": read(p) for name, p in outcomes.lstm.named_parameters()}
    views |= _layer("head.0", outcomes.out[0], read)
    start = 0
    for head in (heads["reward"], heads["terminated"]):
        weight = read(head.readout.out.weight)
        views[f"head.2.weight#{start}:{start + len(weight)}"] = weight
        start += len(weight)
    return views


def _layer(name: str, layer: nn.Module, read: Read) -> dict[str, Tensor]:
    """Weight and bias of a layer; nothing of an identity."""
    return {f"{name}.{key}": read(p) for key, p in layer.named_parameters(recurse=False)}


def _blocks(net: ConditionedBlocks, places: Mapping[str, nn.Module], read: Read) -> dict[str, Tensor]:
    """Residual blocks, by their official places; their norms are rows of one layer."""
    where, views = {id(block): place for place, block in places.items()}, {}
    for block, first, second in net.rows():
        place = where[id(block)]
        for norm, rows in (("norm1", first), ("norm2", second)):
            for key, p in net.modulate.named_parameters():
                views[f"{place}.{norm}.linear.{key}"] = read(p)[rows]
        layers = {"conv1": block.conv1, "conv2": block.conv2, "proj": block.shortcut}
        if not isinstance(block.attention, nn.Identity):
            a = block.attention
            layers |= {"attn.norm.norm": a.norm, "attn.qkv_proj": a.qkv, "attn.out_proj": a.proj}
        for key, layer in layers.items():
            views |= _layer(f"{place}.{key}", layer, read)
    return views


def fill(views: Mapping[str, Tensor], state: Mapping[str, Tensor], *, where: str) -> None:
    """Put official tensors into ours; every one has a place, and every place is filled.

    Args:
        views: Official name, with the rows after ``#`` where it is a part of a tensor, -> ours.
        state: Official name -> tensor.
        where: What they are of, for the error.
    Raises:
        CheckpointError: listing every name without a place, every place without a tensor, and other sizes.
    """
    given: dict[str, Tensor] = {}
    names = {name.partition("#")[0] for name in views}
    missing, unused, wrong = sorted(names - state.keys()), sorted(state.keys() - names), []
    for name, view in views.items():
        key, _, rows = name.partition("#")
        if key not in state:
            continue
        tensor = state[key]
        if rows:
            first, last = map(int, rows.split(":"))
            size = sum(len(v) for n, v in views.items() if n.partition("#")[0] == key)
            tensor = tensor[first:last] if len(tensor) == size else tensor
        if tuple(tensor.shape) != tuple(view.shape):
            wrong.append(f"{key} is {list(tensor.shape)}, but this model needs {list(view.shape)}")
        given[name] = tensor
    problems = [f"{title}:\n    " + "\n    ".join(lines) for title, lines in (
        ("keys with no place in this model", unused), ("keys that are missing", missing),
        ("keys that do not fit", wrong)) if lines]
    if problems:
        raise CheckpointError(f"{where} is no checkpoint of DIAMOND, or of another version\n  " + "\n  ".join(problems))
    with torch.no_grad():
        for name, tensor in given.items():
            views[name].copy_(tensor)
