"""A recurrent dynamics: one GRU along time, its weights shared by all tokens.

In every frame the tokens exchange what they know twice (attention, weights shared over time): before the GRU they see
where the others are and read the memory, after it they see how the others move, which collisions depend on. A rollout
carries the hidden states, so one more frame costs one frame however long the history is: there is no window to slide,
and ``"exact"`` and ``"streaming"`` rollouts are the same.

The cell is that of Cho et al. (2014, arXiv:1406.1078), as in `torch.nn.GRU`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from ..conditions import Condition
from ..config import ComponentConfig
from ..latents import Latent, LatentDist, LatentSpec
from ..nn.attention import Block, RMSNorm
from ..nn.spec import LatentEmbed, LatentHead
from ..nn.transformer import join_tokens
from .base import Dynamics, Window


class GRUConfig(ComponentConfig):
    """Options of the recurrent dynamics.

    Attributes:
        dim: Width of tokens and of hidden states.
        num_layers: GRU layers on top of one another.
        num_heads: Heads of the attention among tokens.
        interaction: Let the tokens of a frame attend to one another (and to the memory). Without it every token moves
            alone, and a memory is averaged and added to every token.
        predict_delta: Predict how fields change that can be moved, unbounded ones (`Distribution.movable`; a model
            without training then repeats the last frame). Otherwise predict their values, positions relative to their
            anchors.
        scale_prior: Initial mean of predicted scale logits, as a box side over image side in (0, 1); only without
            ``predict_delta``.
    """

    name: str = "gru"
    dim: int = Field(default=512, gt=0)
    num_layers: int = Field(default=1, gt=0)
    num_heads: int = Field(default=8, gt=0)
    interaction: bool = True
    predict_delta: bool = True
    scale_prior: float = Field(default=0.1875, gt=0, lt=1)


def _per_frame(block: Block, tokens: Tensor) -> Tensor:
    """A block over the tokens of every frame, ``[B, T, N, D]``."""
    return rearrange(block(rearrange(tokens, "b t n d -> (b t) n d")), "(b t) n d -> b t n d", t=tokens.shape[1])


@dataclass
class _Carry:
    hidden: Tensor | None  # [num_layers, B * N, D]; None before the first frame
    pending: Latent  # newest frame, [B, 1]


class GRU(Dynamics):
    """Attention among the tokens of a frame, then a GRU along time for every token.

    Example:
        >>> import torch
        >>> from worldkit.conditions import EMPTY
        >>> from worldkit.testing import example_latent, example_spec
        >>> dynamics = GRU(GRUConfig(dim=16, num_heads=2), spec=example_spec(), anchors={}, window=4)
        >>> z = example_latent(example_spec(), batch=2, time=4)
        >>> dynamics.prior(z, EMPTY).mode().position.shape
        torch.Size([2, 4, 5, 2])
    """

    Config = GRUConfig
    requires = frozenset({"tracked", "continuous"})
    takes = frozenset({"frame", "token", "memory"})

    def __init__(self, config: GRUConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
                 memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, memory_length=memory_length)
        self.cond_dim = config.dim
        self.embed_latent = LatentEmbed(spec, config.dim, anchors=anchors)
        self.interactions = nn.ModuleList(
            Block(config.dim, config.num_heads) for _ in range(2 if config.interaction else 0)
        )
        self.recurrent = nn.GRU(config.dim, config.dim, config.num_layers, batch_first=True)
        self.norm = RMSNorm(config.dim)
        self.head = LatentHead(spec, config.dim, anchors=None if config.predict_delta else anchors)
        if config.predict_delta:
            self.head.start_at_rest()
        else:
            self.head.start_from(config.scale_prior)

    def embed(self, z: Latent) -> Tensor:
        return self.embed_latent(z, mark_views=False)

    def _inputs(self, z: Latent, cond: Condition) -> Tensor:
        """Tokens ``[B, T, N, D]`` that know the condition and, with interaction, one another."""
        tokens, steer = self.embed_latent(z), cond.adaln()
        if steer is not None:
            tokens = tokens + steer
        if not self.interactions:
            return tokens if cond.memory is None else tokens + cond.memory.mean(1)[:, None, None]
        joined, _ = join_tokens(tokens, [] if cond.memory is None else [cond.memory], None)
        return _per_frame(self.interactions[0], joined)[:, :, : self.spec.num_tokens]

    def _advance(self, z: Latent, cond: Condition, hidden: Tensor | None) -> tuple[LatentDist, Tensor]:
        """Predictions for the frames after those of ``z``, and the hidden states after its last one."""
        tokens = self._inputs(z, cond)
        out, hidden = self.recurrent(rearrange(tokens, "b t n d -> (b n) t d"), hidden)
        tokens = tokens + rearrange(out, "(b n) t d -> b t n d", n=self.spec.num_tokens)
        if self.interactions:
            tokens = _per_frame(self.interactions[1], tokens)
        return self._predict(tokens, z), hidden

    def _predict(self, tokens: Tensor, z: Latent) -> LatentDist:
        out = self.head(self.norm(tokens))
        if not self.config.predict_delta:
            return out
        return out.shift(z)

    def prior(self, z: Latent, cond: Condition) -> LatentDist:
        return self._advance(z, cond, None)[0]

    def start(self, z: Latent, cond: Condition, *, window: Window = "exact") -> _Carry:
        """The newest frame waits for the condition of the transition that leaves it."""
        past = z.shape[1] - 1
        hidden = self._advance(z[:, :past], cond, None)[1] if past else None
        return _Carry(hidden, z[:, past:])

    def step(self, carry: _Carry, cond: Condition) -> LatentDist:
        out, carry.hidden = self._advance(carry.pending, cond, carry.hidden)
        return out

    def observe(self, carry: _Carry, z: Latent) -> None:
        carry.pending = z
