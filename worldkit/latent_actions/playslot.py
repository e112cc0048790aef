"""PlaySlot's latent actions: how an action token's reading changes from frame to frame, drawn to one of few prototypes.

Every frame is read by itself: an extra token looks at all tokens of the frame and gives a mean and a variance. The
action of a transition has the DIFFERENCE of the two means and the sum of the two variances; a draw from it goes to the
nearest of a few prototypes, moving averages, and the gradient goes straight through. So a transition played backwards
has the negative mean. One action tells all tokens, or, with ``per_token``, every token is read by itself and has its
own (the paper's InvDyn-S and InvDyn-M).

Actions are the prototypes' vectors. The policy draws any prototype.

Source: PlaySlot (arXiv:2502.07600), github.com/angelvillar96/PlaySlot, from a description of it. Not reproduced: the
residual "variability" of a draw; its training through an autoregressive rollout with decoded pictures (objective
``inverse-forward`` is teacher-forced, on features).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import repeat
from pydantic import Field
from torch import Tensor, nn

from ..conditions import Condition
from ..config import ComponentConfig
from ..distributions import Normal, Sampler, full_precision
from ..errors import IncompatibleComponentsError
from ..latents import Latent, LatentSpec
from ..nn.attention import Block
from ..nn.conv import mlp
from ..nn.quantize import QuantizerConfig, VectorQuantizer
from ..nn.spec import LatentEmbed
from .base import ActionDist, LatentAction


class PrototypesConfig(QuantizerConfig):
    """Options of the prototypes: four of them, of 16 numbers."""

    codes: int = Field(default=4, gt=1)
    dim: int = Field(default=16, gt=0)
    beta: float = Field(default=0.25, ge=0)
    codebook: str = Field(default="ema", pattern="^(ema|gradient)$")  # type: ignore[assignment]
    restart_after: int = Field(default=50, ge=0)


class PlaySlotConfig(ComponentConfig):
    """Options of PlaySlot's latent actions; defaults are upstream's, but ``quantizer.restart_after``, which is 0 there.

    Attributes:
        quantizer: The prototypes; ``quantizer.dim`` is the width of an action.
        per_token: Every token has an action of its own.
        dim, num_layers, num_heads: The transformer over the tokens of a frame (of a single one with ``per_token``: an
            MLP).
    """

    name: str = "playslot"
    quantizer: PrototypesConfig = PrototypesConfig()
    per_token: bool = False
    dim: int = Field(default=128, gt=0)
    num_layers: int = Field(default=4, gt=0)
    num_heads: int = Field(default=4, gt=0)

    @property
    def action_dim(self) -> int:
        """Width of an action."""
        return self.quantizer.dim


@dataclass(frozen=True)
class Prototyped(ActionDist):
    """Gaussian actions, of which draws go to prototypes."""

    quantizer: VectorQuantizer

    def __getitem__(self, index: Any) -> Prototyped:
        return Prototyped(self.dist, self.params[index], self.quantizer)

    def drawn(self, sampler: Sampler, name: str) -> Tensor:
        """Before the choice of a prototype."""
        return self.dist.sample(self.params, sampler, name)

    def sample(self, sampler: Sampler, name: str) -> Tensor:
        return self.quantizer(self.drawn(sampler, name), sampler).vectors

    def kl(self, prior: ActionDist) -> Tensor:
        """0: prototypes are all that holds actions back."""
        return torch.zeros_like(self.params[..., 0])


@dataclass(frozen=True)
class AnyPrototype(ActionDist):
    """Every prototype is as likely; the mean is the first one."""

    quantizer: VectorQuantizer

    def __getitem__(self, index: Any) -> AnyPrototype:
        return AnyPrototype(self.dist, self.params[index], self.quantizer)

    def sample(self, sampler: Sampler, name: str) -> Tensor:
        chance = sampler.uniform(name, self.params[..., 0])
        chance = torch.zeros_like(chance) if sampler.deterministic else chance
        return self.quantizer.look_up((chance * self.quantizer.config.codes).long())


class PlaySlotLatentAction(LatentAction):
    """See the module's docstring.

    Example:
        >>> from worldkit.testing.examples import example_latent, example_spec
        >>> config, spec = PlaySlotConfig(dim=8, num_layers=1, num_heads=2), example_spec(kind="slots")
        >>> actions = PlaySlotLatentAction(config, spec=spec, anchors={}, window=4, dynamics_dim=12)
        >>> z = example_latent(spec, time=5)
        >>> actions(z, Condition())[0].sample(Sampler(), "").shape
        torch.Size([2, 4, 1, 16])
        >>> back, there = (Normal.split(actions(x, Condition())[0].params)[0] for x in (z[:, [1, 0]], z[:, :2]))
        >>> torch.allclose(back, -there, atol=1e-6)
        True
    """

    Config = PlaySlotConfig
    requires = frozenset({"continuous"})
    takes = frozenset()
    gives = frozenset({"frame", "token"})
    config: PlaySlotConfig

    def __init__(self, config: PlaySlotConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
                 dynamics_dim: int, memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, dynamics_dim=dynamics_dim,
                         memory_length=memory_length)
        if config.per_token and spec.identity != "tracked":
            raise IncompatibleComponentsError("latent_action.per_token needs tokens that keep their identity: take a "
                                              "recurrent slot encoder, or per_token = false")
        self.cond_dim, dim, width = config.dim, config.dim, config.quantizer.dim
        self.embed_latent = LatentEmbed(spec, dim, anchors=anchors)
        self.action_token = None if config.per_token else nn.Parameter(0.02 * torch.randn(dim))
        blocks = [Block(dim, config.num_heads, nn.LayerNorm) for _ in range(config.num_layers)]
        self.reader = mlp(dim, 2 * dim, dim) if config.per_token else nn.Sequential(*blocks)
        self.to_action = nn.Linear(dim, 2 * width)
        self.quantizer = VectorQuantizer(config.quantizer)
        self.to_condition = nn.Linear(width, dynamics_dim)

    @property
    def count(self) -> int:
        """Actions per transition."""
        return self.spec.num_tokens if self.config.per_token else 1

    def embed(self, z: Latent) -> Tensor:
        return self.embed_latent(z, mark_views=False)

    def _read(self, z: Latent) -> Prototyped:
        """Actions of the transitions of any number of frames: each frame is read by itself."""
        tokens = self.embed_latent(z)
        if self.action_token is None:
            read = self.reader(tokens)
        else:
            token = repeat(self.action_token, "d -> b t 1 d", b=tokens.shape[0], t=tokens.shape[1])
            read = self.reader(torch.cat([token, tokens], 2))[:, :, :1]
        mean, variance = full_precision(self.to_action(read)).chunk(2, -1)
        variance = variance.abs()[:, 1:] + variance.abs()[:, :-1]
        params = Normal.pack(mean[:, 1:] - mean[:, :-1], (variance + 1e-6).log())
        return Prototyped(Normal(), params, self.quantizer)

    def _prior(self, batch: int, frames: int) -> AnyPrototype:
        like = self.to_action.weight
        return AnyPrototype(Normal(), like.new_zeros(batch, frames, self.count, 2 * self.config.quantizer.dim),
                            self.quantizer)

    def forward(self, z: Latent, cond: Condition) -> tuple[ActionDist, ActionDist]:
        return self._read(z), self._prior(*z.shape)

    def losses(self, video: Tensor, posterior: ActionDist) -> dict[str, Tensor]:
        """What draws means to their prototypes (and, without moving averages, prototypes to means)."""
        assert isinstance(posterior, Prototyped)
        mean, _ = Normal.split(posterior.params)
        found = self.quantizer.eval()(mean)  # the draw of this step has moved the averages already
        self.quantizer.train(self.training)
        losses = {"commitment": found.beta * found.commitment.mean(-1)}
        return losses if self.config.quantizer.codebook == "ema" else {"codebook": found.codebook.mean(-1), **losses}

    def condition(self, action: Tensor) -> Condition:
        told = self.to_condition(action)
        return Condition(token=told) if self.config.per_token else Condition(frame=told[:, :, 0])

    def start(self, z: Latent, cond: Condition, *, streaming: bool = False) -> tuple[ActionDist, int]:
        return self._read(z), z.shape[0]

    def next(self, carry: int) -> ActionDist:
        return self._prior(carry, 1)

    def observe(self, carry: int, z: Latent, cond: Condition) -> None:
        """Nothing to be told: any prototype may be next."""
