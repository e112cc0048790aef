"""Gaussian latent actions of LPWM: one trunk over all frames, one head that has seen the outcome, one that has not.

At index t the trunk has seen frames up to t. The posterior head reads there the action that LED to frame t, the prior
head the action that will LEAVE it. Actions are per token, or pooled to one per frame.

Source: LPWM (arXiv:2603.04553); upstream modules/modules.py @ 4cf53c4 (DLPContext), written from its description.
Reproduced quirk: pooled by ``token`` or ``last``, every token gets its own copy of the distribution, so noise and KL
count once per token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from ..conditions import Condition
from ..config import ComponentConfig
from ..distributions import Normal, full_precision
from ..latents import Latent, LatentSpec
from ..nn.rolling import Rolling
from ..nn.spec import LatentEmbed, field_order
from ..nn.transformer import SpatioTemporalTransformer, join_tokens
from .base import ActionDist, LatentAction

_FIELDS = ("position", "scale", "features", "transparency", "depth", "origin")


class GaussianLatentActionConfig(ComponentConfig):
    """Options of Gaussian latent actions.

    Attributes:
        action_dim: Width of a latent action.
        pool: ``"none"``: one action per token. ``"token"``: read from an extra token; ``"last"``: from the last token
            (the background); both repeated for every token. ``"mean"``, ``"mlp"``: one action per frame, from the mean
            of all tokens or from an MLP over all of them.
        dim, num_layers, num_heads, dropout: The trunk, as in PINT.
    """

    name: str = "gaussian"
    action_dim: int = Field(default=7, gt=0)
    pool: Literal["none", "token", "last", "mean", "mlp"] = "none"
    dim: int = Field(default=512, gt=0)
    num_layers: int = Field(default=4, gt=0)
    num_heads: int = Field(default=8, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class _MLPPool(nn.Module):
    """All tokens of a frame -> one vector."""

    def __init__(self, num_tokens: int, dim: int):
        super().__init__()
        self.narrow, self.join = nn.Linear(dim, 32), nn.Linear(32 * num_tokens, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = rearrange(F.gelu(self.narrow(x)), "b t n d -> b t 1 (n d)")
        return F.gelu(self.join(x))


@dataclass
class _Carry:
    rolling: Rolling
    newest: Tensor  # trunk output of the newest frame, [B, 1, tokens, D]


class GaussianLatentAction(LatentAction):
    """Posterior and prior over Gaussian latent actions from one spatio-temporal trunk."""

    Config = GaussianLatentActionConfig
    requires = frozenset({"continuous"})
    takes = frozenset({"frame", "token", "memory"})
    gives = frozenset({"token"})

    def __init__(self, config: GaussianLatentActionConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor],
                 window: int, dynamics_dim: int, memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, dynamics_dim=dynamics_dim,
                         memory_length=memory_length)
        self.cond_dim = config.dim
        fields = {g.name: field_order(g, _FIELDS, anchors) for g in spec.groups if spec.kind == "particles"}
        self.embed_latent = LatentEmbed(spec, config.dim, fields=fields, anchors=anchors)
        self.pool_token = nn.Parameter(0.02 * torch.randn(config.dim)) if config.pool == "token" else None
        self.transformer = SpatioTemporalTransformer(
            dim=config.dim, num_layers=config.num_layers, num_heads=config.num_heads, max_frames=window + 1,
            num_tokens=spec.num_tokens + (config.pool == "token") + memory_length, dropout=config.dropout,
        )

        def pool() -> nn.Module:
            return _MLPPool(spec.num_tokens, config.dim) if config.pool == "mlp" else nn.Identity()

        self.posterior_pool, self.prior_pool = pool(), pool()
        self.posterior_head = nn.Linear(config.dim, 2 * config.action_dim)
        self.prior_head = nn.Linear(config.dim, 2 * config.action_dim)
        self.to_condition = nn.Linear(config.action_dim, dynamics_dim)

    def embed(self, z: Latent) -> Tensor:
        return self.embed_latent(z, mark_views=False)

    def _inputs(self, z: Latent, cond: Condition) -> tuple[Tensor, Tensor | None]:
        extras = [] if self.pool_token is None else [self.pool_token[None]]
        extras += [cond.memory] if self.memory_length else []
        return join_tokens(self.embed_latent(z), extras, cond.adaln())

    def _read(self, head: nn.Linear, pool: nn.Module, trunk: Tensor) -> ActionDist:
        tokens = self.spec.num_tokens
        if self.config.pool == "token":
            features = trunk[:, :, tokens : tokens + 1].expand(-1, -1, tokens, -1)
        elif self.config.pool == "last":
            features = trunk[:, :, tokens - 1 : tokens].expand(-1, -1, tokens, -1)
        elif self.config.pool == "mean":
            features = trunk[:, :, :tokens].mean(2, keepdim=True)
        else:
            features = pool(trunk[:, :, :tokens])
        return ActionDist(Normal(), full_precision(head(features)))

    def posterior(self, trunk: Tensor) -> ActionDist:
        """Action that led to each frame, from the trunk's output; entry 0 means nothing."""
        return self._read(self.posterior_head, self.posterior_pool, trunk)

    def prior(self, trunk: Tensor) -> ActionDist:
        """Action that will leave each frame, from the trunk's output."""
        return self._read(self.prior_head, self.prior_pool, trunk)

    def forward(self, z: Latent, cond: Condition) -> tuple[ActionDist, ActionDist]:
        trunk = self.transformer(*self._inputs(z, cond))
        return self.posterior(trunk)[:, 1:], self.prior(trunk)

    def condition(self, action: Tensor) -> Condition:
        return Condition(token=F.gelu(self.to_condition(action)).expand(-1, -1, self.spec.num_tokens, -1))

    def start(self, z: Latent, cond: Condition, *, streaming: bool = False) -> tuple[ActionDist, _Carry]:
        """Frames beyond ``window + 1`` are read through sliding windows of ``window + 1`` frames."""
        rolling = Rolling(self.transformer, window=self.window, streaming=streaming)
        tokens, c = self._inputs(z, cond)
        length, reach = tokens.shape[1], self.window + 1
        if length <= self.window:
            trunk = rolling.append(tokens, c)
            return self.posterior(trunk)[:, 1:], _Carry(rolling, trunk[:, -1:])
        parts = [self.transformer(tokens[:, :reach], None if c is None else c[:, :reach])]
        for end in range(reach + 1, length + 1):
            window = slice(end - reach, end)
            parts.append(self.transformer(tokens[:, window], None if c is None else c[:, window], last_only=True))
        rolling.remember(tokens[:, :-1], None if c is None else c[:, :-1])
        newest = rolling.append(tokens[:, -1:], None if c is None else c[:, -1:])
        return self.posterior(torch.cat(parts, 1))[:, 1:], _Carry(rolling, newest)

    def next(self, carry: _Carry) -> ActionDist:
        return self.prior(carry.newest)

    def observe(self, carry: _Carry, z: Latent, cond: Condition) -> None:
        carry.newest = carry.rolling.append(*self._inputs(z, cond))
