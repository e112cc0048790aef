"""LeWM's predictor: a frame is one token, attention is causal over the last few frames, and the action of a transition
modulates the frame that it leaves, through AdaLN-zero.

All tokens of a latent are laid side by side to one vector; of one token, as encoder `vit-cls` gives, that is the latent
itself. What comes out passes through a projector with a batch norm (running statistics outside of training).

Unusual: the attention and the MLP of a block norm the modulated input again (`worldkit.nn.prenorm`), and the projector
alone decides the scale of a prediction.

A rollout keeps keys and values, so that one more frame costs one frame (beyond the window it is computed anew).

Source: LeWM (arXiv:2603.19312); galilai-group/stable-worldmodel @ addbab4, written from its description.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..conditions import Condition
from ..config import ComponentConfig
from ..latents import Latent, LatentDist, LatentSpec
from ..nn.dropout import Dropout
from ..nn.memory import Memory
from ..nn.prenorm import AdaLNBlock, Projector
from .features import flat_frames, told_frames
from .remembering import Remembering


class AdaLNCausalConfig(ComponentConfig):
    """Options of LeWM's predictor.

    Attributes:
        dim: Width of the blocks; None: the latent's.
        num_layers: Blocks.
        num_heads, head_dim: Of their attention, whose inner width may be any.
        hidden: Width of their MLPs.
        dropout: On attention weights, and after every projection.
        projector: Width of the last projector's hidden layer; None: a linear layer, or nothing where widths agree.
        projector_norm: ``"batch"`` (LeWM) or ``"layer"``.
    """

    name: str = "adaln-causal"
    dim: int | None = Field(default=None, gt=0)
    num_layers: int = Field(default=6, gt=0)
    num_heads: int = Field(default=16, gt=0)
    head_dim: int = Field(default=64, gt=0)
    hidden: int = Field(default=2048, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    projector: int | None = Field(default=2048, gt=0)
    projector_norm: Literal["batch", "layer"] = "batch"


class AdaLNCausal(Remembering):
    """Frames and conditions -> the next frame, at every index; window ``timestep_horizon`` (LeWM: 3).

    Example:
        >>> from worldkit.testing import example_latent, example_spec
        >>> z = example_latent(example_spec(kind="slots"), batch=2, time=3)
        >>> config = AdaLNCausalConfig(num_layers=1, num_heads=2, head_dim=4, hidden=8, projector=8)
        >>> dynamics = AdaLNCausal(config, spec=z.spec, anchors={}, window=3)
        >>> dynamics.prior(z, Condition(frame=torch.randn(2, 3, dynamics.cond_dim))).shape
        torch.Size([2, 3])
    """

    Config = AdaLNCausalConfig
    requires = frozenset({"tracked", "continuous"})
    takes = frozenset({"frame", "token", "memory"})
    same_in_training = False
    config: AdaLNCausalConfig

    def __init__(self, config: AdaLNCausalConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
                 memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, memory_length=memory_length)
        self.width = sum(group.size * field.dim for group in spec.groups for field in group.fields)
        self._sizes = {key: (spec.group(key[0]).size, spec.field(key).dist.raw_dim(spec.field(key).dim))
                       for key in spec.keys()}
        outputs = sum(count * width for count, width in self._sizes.values())
        dim = self.cond_dim = config.dim or self.width
        self.inputs = nn.Identity() if dim == self.width else nn.Linear(self.width, dim)
        self.places = nn.Parameter(torch.randn(1, window, dim))
        self.drop = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            AdaLNBlock(dim, config.num_heads, config.head_dim, config.hidden, config.dropout)
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        if config.projector is not None:
            self.outputs: nn.Module = Projector(dim, config.projector, outputs, norm=config.projector_norm)
        else:
            self.outputs = nn.Identity() if dim == outputs else nn.Linear(dim, outputs)

    def hidden(self, frames: Tensor, told: Tensor, memory: Memory | None = None, *, last: bool = False) -> Tensor:
        """Frames ``[B, T, width]`` and conditions ``[B, T, dim]`` -> ``[B, T or 1, dim]``, before the projector."""
        first, count = 0 if memory is None else memory.length, frames.shape[1]
        x = self.drop(self.inputs(frames) + self.places[:, first : first + count])
        for layer, block in enumerate(self.blocks):
            remember = None if memory is None else partial(memory.extend, layer, frames=count, limit=self.window)
            x = block(x, told, remember=remember, last=1 if last and layer == len(self.blocks) - 1 else None)
        if memory is not None:
            memory.length += count
        return self.norm(x)

    def embed(self, z: Latent) -> Tensor:
        return self.inputs(flat_frames(z))[:, :, None].expand(-1, -1, self.spec.num_tokens, -1)

    def ahead(self, z: Latent, cond: Condition, memory: Memory | None = None, *, last: bool = False) -> LatentDist:
        frames = flat_frames(z)
        out = self.outputs(self.hidden(frames, told_frames(cond, frames, self.cond_dim), memory, last=last))
        raw = out.split([count * width for count, width in self._sizes.values()], -1)
        return LatentDist(self.spec, {
            key: self.spec.field(key).dist.from_raw(x.unflatten(-1, size))
            for (key, size), x in zip(self._sizes.items(), raw, strict=True)
        })
