"""SlotFormer: joint attention over all tokens of the last few frames, over any described latent.

Every prediction reads one window of ``window`` frames: all its tokens attend to one another, in both directions of
time, and the newest frame's tokens become the next frame. Time is told by a sinusoidal encoding of a frame's age
(newest = 0), the same for all its tokens; nothing tells tokens of a group apart but their values, so permuted tokens
give permuted predictions and no token needs an identity. Predicted values are absolute, unless ``predict_delta``.

Without a causal mask hidden states of one window cannot serve the next: `prior` evaluates a window per frame, and
every rollout step recomputes its window, so that ``"streaming"`` rollouts are exact and no faster.

Source: SlotFormer (arXiv:2210.05861); upstream slotformer/video_prediction/models/slotformer.py @ 10a6d9b, written from
its description. Differences: conditions, shorter histories, several groups of tokens and distributions other than
points (with a last layer norm) are ours; layers start from weights of their own (upstream's are copies of one).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..component import NamedModules
from ..conditions import Condition
from ..config import ComponentConfig
from ..distributions import full_precision
from ..latents import Key, Latent, LatentDist, LatentSpec
from .base import Carry, Dynamics


class SlotFormerConfig(ComponentConfig):
    """Options of SlotFormer; defaults are upstream's for OBJ3D.

    Attributes:
        dim: Token width; the feed-forward layers are four times as wide.
        num_layers: Transformer layers.
        num_heads: Attention heads.
        dropout: On attention weights and after every projection.
        predict_delta: Predict how fields change that can be moved, unbounded ones (a model without training then
            repeats the last frame, and need not learn to copy). Upstream predicts values.
    """

    name: str = "slotformer"
    dim: int = Field(default=128, gt=0)
    num_layers: int = Field(default=4, gt=0)
    num_heads: int = Field(default=8, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    predict_delta: bool = False

    @model_validator(mode="after")
    def _check_width(self) -> SlotFormerConfig:
        if self.dim % 2 or self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} must be even and divisible by num_heads {self.num_heads}")
        return self


def age_encoding(length: int, dim: int) -> Tensor:
    """Sinusoidal encoding of the ages 0 (newest) to ``length - 1``: ``[length, dim]``, all sines before all cosines."""
    frequencies = 10000.0 ** -(torch.arange(0, dim, 2) / dim)
    angles = torch.outer(torch.arange(length), frequencies)
    return torch.cat([angles.sin(), angles.cos()], -1)


class SlotFormer(Dynamics):
    """Transformer encoder over the tokens of a window of frames."""

    Config = SlotFormerConfig
    requires = frozenset({"continuous"})
    takes = frozenset({"frame", "token", "memory"})

    def __init__(self, config: SlotFormerConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
                 memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, memory_length=memory_length)
        dim = self.cond_dim = config.dim
        self.inputs = NamedModules({g.name: nn.Linear(sum(f.dim for f in g.fields), dim) for g in spec.groups})
        self.outputs = NamedModules({
            g.name: nn.Linear(dim, sum(f.dist.raw_dim(f.dim) for f in g.fields)) for g in spec.groups
        })
        self.view_embedding = nn.Parameter(0.02 * torch.randn(spec.views, dim)) if spec.views > 1 else None
        self.register_buffer("ages", age_encoding(window, dim), persistent=False)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, config.num_heads, 4 * dim, config.dropout, batch_first=True,
                                       norm_first=True)
            for _ in range(config.num_layers)
        )
        # Upstream ends without a norm. Variances must not grow with what a rollout feeds back: they would explode.
        points = all(spec.field(key).dist.point for key in spec.keys())
        self.norm = nn.Identity() if points else nn.LayerNorm(dim)
        if config.predict_delta:
            self._start_at_rest()

    @torch.no_grad()
    def _start_at_rest(self) -> None:
        """Changes begin at zero (variance 0.01), whatever the tokens say."""
        for group in self.spec.groups:
            layer, sizes = self.outputs[group.name], [f.dist.raw_dim(f.dim) for f in group.fields]
            for f, weight, bias in zip(group.fields, layer.weight.split(sizes), layer.bias.split(sizes), strict=True):
                start = f.dist.raw_at(bias.new_zeros(f.dim), 0.01) if f.dist.movable else None
                if start is not None:
                    weight.zero_()
                    bias.copy_(start)

    def embed(self, z: Latent) -> Tensor:
        groups = ((g.name, [z.values[g.name, f.name] for f in g.fields]) for g in self.spec.groups)
        return torch.cat([self.inputs[name](torch.cat(values, -1)) for name, values in groups], 2)

    def _tokens(self, z: Latent, cond: Condition) -> Tensor:
        """``[B, T, N, D]``: latents, what conditions say about the transition that leaves each, and the view."""
        tokens, steer = self.embed(z), cond.adaln()
        if steer is not None:
            tokens = tokens + steer
        if self.view_embedding is not None:
            tokens = tokens + self.spec.spread_views(self.view_embedding[None, :, None])
        return tokens

    def _next(self, windows: Tensor, memory: Tensor | None, absent: Tensor | None = None) -> Tensor:
        """Windows ``[M, W, N, D]`` -> tokens of the frame after each, ``[M, N, D]``.

        Args:
            windows: Tokens, oldest frame first.
            memory: Further tokens to attend to, ``[M, L, D]``.
            absent: ``[M, W]``, True for frames that do not exist.
        """
        length, count = windows.shape[1:3]
        x = rearrange(windows + self.ages[:length].flip(0)[:, None], "m w n d -> m (w n) d")
        if absent is not None:
            absent = repeat(absent, "m w -> m (w n)", n=count)
        if memory is not None:
            x = torch.cat([memory, x], 1)
            absent = None if absent is None else F.pad(absent, (memory.shape[1], 0), value=False)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=absent)
        return self.norm(x[:, -count:])

    def _predict(self, tokens: Tensor, newest: Latent) -> LatentDist:
        """Distributions from tokens ``[B, T, N, D]``; ``newest``: the last frame that each of them has seen."""
        params: dict[Key, Tensor] = {}
        for group, part in zip(self.spec.groups, tokens.split([g.size for g in self.spec.groups], 2), strict=True):
            raw = full_precision(self.outputs[group.name](part))
            columns = raw.split([f.dist.raw_dim(f.dim) for f in group.fields], -1)
            params |= {(group.name, f.name): f.dist.from_raw(c) for f, c in zip(group.fields, columns, strict=True)}
        predicted = LatentDist(self.spec, params)
        return predicted.shift(newest) if self.config.predict_delta else predicted

    def prior(self, z: Latent, cond: Condition) -> LatentDist:
        frames = z.shape[1]
        length = min(self.window, frames)
        padded = F.pad(self._tokens(z, cond), (0, 0, 0, 0, length - 1, 0))
        windows = rearrange(padded.unfold(1, length, 1), "b t n d w -> (b t) w n d")
        end, age = torch.arange(frames, device=padded.device), torch.arange(length, device=padded.device).flip(0)
        absent = repeat(end[:, None] < age, "t w -> (b t) w", b=padded.shape[0])
        memory = repeat(cond.memory, "b l d -> (b t) l d", t=frames) if self.memory_length else None
        return self._predict(rearrange(self._next(windows, memory, absent), "(b t) n d -> b t n d", t=frames), z)

    def step(self, carry: Carry, cond: Condition) -> LatentDist:
        """As `prior`'s last entry, without the windows before it."""
        history, cond = carry.seen(cond, self.window)
        after = self._next(self._tokens(history, cond), cond.memory if self.memory_length else None)
        return self._predict(after[:, None], carry.history[:, -1:])
