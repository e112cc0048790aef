"""DINO-WM's predictor: patches carry the action as channels, and see all patches of their frame and those before.

What comes out of the blocks is the next frame as it is, without a last layer; the action's channels of it are not used.
A learned table tells the tokens of a window apart. A rollout keeps keys and values, so that one more frame costs one
frame (beyond the window it is computed anew).

Source: DINO-WM (arXiv:2411.04983); gaoyuezhou/dino_wm @ 0a9492f, written from its description.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from pydantic import Field
from torch import Tensor, nn

from ..conditions import Condition
from ..config import ComponentConfig
from ..distributions import full_precision
from ..errors import IncompatibleComponentsError
from ..latents import Latent, LatentDist, LatentSpec
from ..nn.dropout import Dropout
from ..nn.memory import Memory
from ..nn.prenorm import NormedAttention, NormedMLP
from ..nn.vit import frames_mask
from .remembering import Remembering


class CausalPatchesConfig(ComponentConfig):
    """Options of DINO-WM's predictor; defaults are upstream's.

    Attributes:
        num_layers: Blocks.
        num_heads, head_dim: Of their attention, whose inner width may be any.
        hidden: Width of their MLPs.
        dropout: On attention weights, and after every projection.
        action_dim: Channels that every patch carries for the action.
    """

    name: str = "causal-patches"
    num_layers: int = Field(default=6, gt=0)
    num_heads: int = Field(default=16, gt=0)
    head_dim: int = Field(default=64, gt=0)
    hidden: int = Field(default=2048, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    action_dim: int = Field(default=10, gt=0)


class CausalPatches(Remembering):
    """Patches and actions -> the next patches; window ``timestep_horizon`` (DINO-WM: 3)."""

    Config = CausalPatchesConfig
    requires = frozenset({"grid", "tracked", "continuous"})
    takes = frozenset({"frame"})
    same_in_training = False
    config: CausalPatchesConfig

    def __init__(self, config: CausalPatchesConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
                 memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, memory_length=memory_length)
        if len(spec.groups) > 1:
            raise IncompatibleComponentsError(
                f"dynamics 'causal-patches' predicts patches alone, and this latent has {spec.groups[1].name} beside "
                "them: let patches carry vectors, -o encoder.channels=10"
            )
        self.cond_dim, group = config.action_dim, spec.groups[0]
        self._raw = [field.dist.raw_dim(field.dim) for field in group.fields]
        width = spec.flat_dim(group.name)
        dim = width + self.cond_dim
        self.places = nn.Parameter(torch.randn(1, window * group.size, dim))
        self.drop = Dropout(config.dropout)
        self.blocks = nn.ModuleList(nn.ModuleList([
            NormedAttention(dim, config.num_heads, config.head_dim, config.dropout),
            NormedMLP(dim, config.hidden, config.dropout),
        ]) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(dim)
        self.outputs = nn.Identity() if sum(self._raw) == width else nn.Linear(width, sum(self._raw))
        self.width = width

    def ahead(self, z: Latent, cond: Condition, memory: Memory | None = None, *, last: bool = False) -> LatentDist:
        group = self.spec.groups[0]
        patches = z.flat(group.name)
        frames, count = patches.shape[1:3]
        first = 0 if memory is None else memory.length
        told = patches.new_zeros(patches.shape[0], frames, self.cond_dim) if cond.frame is None else cond.frame
        x = torch.cat([patches, told[:, :, None].expand(-1, -1, count, -1).to(patches)], -1).flatten(1, 2)
        x = self.drop(x + self.places[:, first * count : (first + frames) * count])
        mask = frames_mask(frames, count, first, x.device)
        for layer, (attention, mlp) in enumerate(self.blocks):
            remember = None if memory is None else partial(memory.extend, layer, frames=frames, limit=self.window)
            asking = count if last and layer == len(self.blocks) - 1 else None
            mixed = attention(x, mask=mask, remember=remember, last=asking)
            x = (x if asking is None else x[:, -asking:]) + mixed
            x = x + mlp(x)
        if memory is not None:
            memory.length += frames
        out = full_precision(self.outputs(self.norm(x)[..., : self.width])).unflatten(1, (-1, count))
        return LatentDist(self.spec, {
            (group.name, field.name): field.dist.from_raw(raw)
            for field, raw in zip(group.fields, out.split(self._raw, -1), strict=True)
        })
