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

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..nn.denoiser import Denoiser
from ..nn.outcomes import Outcomes
from ..nn.unet import ConditionedBlocks, UNet

Read = Callable[[nn.Parameter], Tensor]
"""What is looked at of a parameter: itself, or its gradient."""
PARTS = ("denoiser", "rew_end_model", "actor_critic", "upsampler")
"""What the names of tensors in a checkpoint begin with."""


def itself(parameter: nn.Parameter) -> Tensor:
    """The values of a parameter."""
    return parameter.data


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
