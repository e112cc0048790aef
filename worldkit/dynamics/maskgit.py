"""Genie's dynamics: the tokens of the next frame are guessed all at once, masked, and put down a few at a time.

The next frame stands IN PLACE behind the frames so far, its tokens partly replaced by a mask, and the network says
what is under the masks: so tokens that were put down help with the others (the other reading of the paper, in which
frame t predicts frame t + 1 from outside, leaves nothing for them to do). What leads to a frame, its condition, is
added to that frame's tokens; the first frame has none. Trained on frames 1..T-1 masked at random rates, by the
cross-entropy of what is masked.

A frame is drawn in ``steps`` rounds. In each the tokens that are still masked are drawn, and the surest of them stay,
as many as a cosine schedule says. Frames before are fixed and attention over time is causal, so their keys and values
are computed once; rounds cost one frame. When the window is full, the oldest frame goes and what is known of the others
is computed anew once per frame (``exact``), or the older half goes (``streaming``, an approximation).

Source: Genie (arXiv:2402.15391), sections 2.1.3 and 2.2; MaskGIT (arXiv:2202.04200). Left open there and chosen here:
reading in place; the order in which tokens are put down; the loss counts masked tokens only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..conditions import Condition
from ..config import ComponentConfig
from ..distributions import Sampler, full_precision
from ..errors import ConfigError
from ..latents import Latent, LatentSpec
from ..nn.memory import Memory
from ..nn.space_time import SpaceTimeTransformer
from .base import Dynamics, Window

Order = Literal["confidence", "random"]


class MaskGITConfig(ComponentConfig):
    """Options of masked-token dynamics.

    Attributes:
        dim, num_layers, num_heads, dropout: The transformer; a layer is a block of attention in space, attention in
            time and a feed-forward.
        head_dim: Width of a head; None: ``dim / num_heads``.
        qk_norm: Queries and keys are normalised.
        cond_dim: Width of what it is told; None: that of the latent actions' codes, where these steer it alone, else
            ``dim``. 0: nothing.
        told: How: ``"add"``, to all tokens of the frame that the transition leads to (the paper), or ``"prepend"``, as
            a token more in that frame.
        mask_rates: Least and largest share of masked tokens in training; every clip draws its own.
        clean_history: Share of training clips whose frames up to a random one are shown whole, as they are when a frame
            is drawn. 0: the paper.
        steps: Rounds per frame.
        temperature: Of the draws; the paper 2 for platform games, 1 for CoinRun.
        order: Which tokens stay: ``"confidence"``, the most probable ones, or any (``"random"``).
        order_noise: Gumbel noise on the log-probabilities that the order goes by, which falls to 0 with the rounds.
    """

    name: str = "maskgit"
    dim: int = Field(default=512, gt=0)
    num_layers: int = Field(default=6, gt=0)
    num_heads: int = Field(default=8, gt=0)
    head_dim: int | None = Field(default=None, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    qk_norm: bool = True
    cond_dim: int | None = Field(default=None, ge=0)
    told: Literal["add", "prepend"] = "add"
    mask_rates: tuple[float, float] = (0.5, 1.0)
    clean_history: float = Field(default=0.0, ge=0, le=1)
    steps: int = Field(default=25, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    order: Order = "confidence"
    order_noise: float = Field(default=0.0, ge=0)


@dataclass(frozen=True)
class Refinement:
    """How frames are drawn; may differ from one rollout to the next, see `MaskGITConfig`.

    Raises:
        ConfigError: no round at all, or a temperature that is not above 0.
    """

    steps: int
    temperature: float
    order: Order
    order_noise: float

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ConfigError(f"steps must be at least 1: a frame takes a round or more to draw, got {self.steps!r}")
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be above 0 (a deterministic rollout takes the likeliest tokens), got "
                              f"{self.temperature!r}")


def masked_counts(tokens: int, steps: int) -> list[int]:
    """How many tokens are still masked after each round of a cosine schedule; none after the last.

    Example:
        >>> counts = masked_counts(256, 25)
        >>> [256 - counts[round - 1] for round in (1, 12, 20, 25)]
        [1, 69, 177, 256]
        >>> masked_counts(1, 4), masked_counts(2, 3)
        ([1, 1, 0, 0], [2, 1, 0])
    """
    return [round(tokens * math.cos(math.pi / 2 * step / steps)) for step in range(1, steps)] + [0]


class _Carry:
    """Keys and values of the frames so far, and the frames themselves; the newest one may still have to be added."""

    def __init__(self, codes: Tensor, told: Tensor, streaming: bool):
        self.codes, self.told, self.streaming = codes, told, streaming  # [B, T, N], [B, T, N or 1, D]
        self.memory = Memory()
        self.leading: Tensor | None = None  # what the frame that was just drawn was told


class MaskGIT(Dynamics):
    """Masked prediction of the next frame's codes.

    Attributes:
        sampling: A `Refinement`. Replace it to trade time for quality:
            ``model.dynamics.sampling = replace(model.dynamics.sampling, steps=8)``.

    Example:
        >>> from worldkit.conditions import EMPTY
        >>> from worldkit.testing.examples import example_latent, example_spec
        >>> config, spec = MaskGITConfig(dim=16, num_heads=2, num_layers=1, steps=3), example_spec(kind="codes")
        >>> dynamics = MaskGIT(config, spec=spec, anchors={}, window=4)
        >>> z = example_latent(spec, batch=2, time=4)
        >>> dynamics.loss(z, EMPTY, Sampler())["cross_entropy"].shape
        torch.Size([2, 3])
        >>> dynamics.predict(dynamics.start(z, EMPTY), EMPTY, Sampler(), mean=False).shape
        torch.Size([2, 1])
    """

    Config = MaskGITConfig
    explicit_prior = False
    requires = frozenset({"codes", "tracked"})
    takes = frozenset({"frame", "token"})

    def __init__(self, config: MaskGITConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
                 memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, memory_length=memory_length)
        self.cond_dim = config.cond_dim or config.dim
        (self.key,) = spec.keys()
        self.num_codes = spec.field(self.key).dist.classes
        self.code_embedding = nn.Embedding(self.num_codes, config.dim)
        self.mask_token = nn.Parameter(0.02 * torch.randn(config.dim))
        nn.init.normal_(self.code_embedding.weight, std=0.02)
        self.embed_condition = None if config.cond_dim == 0 else nn.Linear(self.cond_dim, config.dim, bias=False)
        self.no_condition = nn.Parameter(0.02 * torch.randn(config.dim)) if config.told == "prepend" else None
        self.transformer = SpaceTimeTransformer(
            dim=config.dim, num_layers=config.num_layers, num_heads=config.num_heads, head_dim=config.head_dim,
            qk_norm=config.qk_norm, dropout=config.dropout, max_frames=window + 1,
            num_tokens=spec.num_tokens + (config.told == "prepend"),
        )
        self.to_logits = nn.Linear(config.dim, self.num_codes)
        nn.init.normal_(self.to_logits.weight, std=0.02)
        nn.init.zeros_(self.to_logits.bias)
        self.sampling = Refinement(config.steps, config.temperature, config.order, config.order_noise)

    # -- the network

    def _told(self, cond: Condition, like: Tensor, frames: int) -> Tensor:
        """What frames 1.. are told, embedded, ``[B, frames, 1 or N, D]``; zeros where there is nothing."""
        steer = cond.adaln()
        if steer is None or self.embed_condition is None:
            return like.new_zeros(like.shape[0], frames, 1, self.config.dim)
        return self.embed_condition(steer)

    def _tokens(self, codes: Tensor, told: Tensor, masked: Tensor | None = None, *, first: bool) -> Tensor:
        """Input of the transformer.

        Args:
            codes: ``[B, T, N]``.
            told: What led to every frame, embedded.
            masked: bool ``[B, T, N]``.
            first: Frame 0 begins the window, so nothing leads to it.
        """
        x = self.code_embedding(codes)
        if masked is not None:
            x = torch.where(masked[..., None], self.mask_token.to(x.dtype), x)
        if first:
            told = torch.cat([torch.zeros_like(told[:, :1]), told[:, 1:]], 1)
        if self.no_condition is None:
            return x + told
        extra = told.mean(2, keepdim=True) + self.no_condition
        return torch.cat([x, extra.expand(x.shape[0], -1, -1, -1)], 2)

    def logits(self, hidden: Tensor) -> Tensor:
        """Of the codes of every token: ``[B, T, N, codes]``."""
        return full_precision(self.to_logits(hidden[:, :, : self.spec.num_tokens]))

    def _whole(self, codes: Tensor, cond: Condition, masked: Tensor | None = None) -> Tensor:
        """The transformer's output for all frames of a clip, ``[B, T, N (+ 1), D]``."""
        told = self._told(cond, self.mask_token.expand(codes.shape[0], -1), codes.shape[1] - 1)
        told = torch.cat([told.new_zeros(told.shape[0], 1, *told.shape[2:]), told], 1)
        return self.transformer(self._tokens(codes, told, masked, first=True))

    # -- training

    def loss(self, z: Latent, cond: Condition, sampler: Sampler) -> dict[str, Tensor]:
        """Nats per masked token. Entries are scaled so that their mean over time is the mean over what is masked."""
        codes = z.values[self.key][..., 0]
        if sampler.deterministic:  # a loss needs masks: the same every time, so that losses can be compared
            sampler = Sampler(generator=torch.Generator(codes.device).manual_seed(0))
        masked = self.mask(codes, sampler)
        logits = self.logits(self._whole(codes, cond, masked))[:, 1:]
        nats = F.cross_entropy(logits.flatten(0, 2), codes[:, 1:].flatten(), reduction="none")
        counted = masked[:, 1:].to(nats.dtype)
        share = counted.sum((1, 2), keepdim=True).clamp(min=1) / counted.shape[1]
        return {"cross_entropy": (nats.view_as(counted) * counted / share).sum(2)}

    def mask(self, codes: Tensor, sampler: Sampler) -> Tensor:
        """What training hides of clips ``[B, T, N]``: bool, nothing of frame 0."""
        low, high = self.config.mask_rates
        like = torch.empty(codes.shape, device=codes.device)
        rate = low + (high - low) * sampler.uniform("maskgit.rate", like[:, 0, 0])
        masked = sampler.uniform("maskgit.mask", like) < rate[:, None, None]
        shown = torch.ones(codes.shape[0], dtype=torch.long, device=codes.device)
        if self.config.clean_history:
            chosen = sampler.uniform("maskgit.clean", like[:, 0, 0]) < self.config.clean_history
            until = 1 + (sampler.uniform("maskgit.until", like[:, 0, 0]) * (codes.shape[1] - 1)).long()
            shown = torch.where(chosen, until, shown)
        return masked & (torch.arange(codes.shape[1], device=codes.device) >= shown[:, None])[..., None]

    # -- prediction

    def start(self, z: Latent, cond: Condition, *, window: Window = "exact") -> _Carry:
        keep = slice(max(0, z.shape[1] - self.window), None)
        codes = z.values[self.key][..., 0]
        told = self._told(cond, self.mask_token.expand(codes.shape[0], -1), z.shape[1] - 1)
        told = torch.cat([told.new_zeros(told.shape[0], 1, *told.shape[2:]), told], 1)
        carry = _Carry(codes[:, keep], told[:, keep], window == "streaming")
        self._remember(carry, carry.codes.shape[1])
        return carry

    def _remember(self, carry: _Carry, new: int) -> None:
        """Keys and values of the newest frames; of the whole window where it had to slide."""
        if carry.codes.shape[1] > self.window:
            keep = max(1, self.window // 2) if carry.streaming else self.window
            carry.codes, carry.told = carry.codes[:, -keep:], carry.told[:, -keep:]
            carry.memory, new = Memory(), keep
        first = carry.memory.length == 0
        self.transformer(self._tokens(carry.codes[:, -new:], carry.told[:, -new:], first=first), memory=carry.memory)

    def predict(self, carry: _Carry, cond: Condition, sampler: Sampler, *, mean: bool) -> Latent:
        """One frame. A deterministic sampler asks for the likeliest tokens; ``mean`` alone for nothing."""
        told = self._told(cond, self.mask_token.expand(carry.codes.shape[0], -1), 1)
        *_, (codes, _) = self.rounds(carry, told, sampler)
        carry.leading = told
        return Latent.build(self.spec, {self.key: codes[..., None]})

    def rounds(self, carry: _Carry, told: Tensor, sampler: Sampler) -> Iterator[tuple[Tensor, Tensor]]:
        """(codes ``[B, 1, N]``, which are still masked) after every round that puts a token down."""
        codes, choice, left = carry.codes[:, -1:], self.sampling, self.spec.num_tokens
        masked = torch.ones_like(codes, dtype=torch.bool)  # what stands under a mask does not matter
        for number, remaining in enumerate(masked_counts(codes.shape[-1], choice.steps), 1):
            if remaining == left:
                continue
            logits = self.logits(self._try(carry, codes, told, masked))
            drawn = sampler.categorical("maskgit.codes", logits / choice.temperature)
            rank = self._rank(logits, drawn, sampler, 1 - number / choice.steps).masked_fill(~masked, -torch.inf)
            kept = torch.zeros_like(masked).scatter_(-1, rank.topk(left - remaining, -1).indices, True)
            codes, masked, left = torch.where(kept, drawn, codes), masked & ~kept, remaining
            yield codes, masked

    def _rank(self, logits: Tensor, drawn: Tensor, sampler: Sampler, noise: float) -> Tensor:
        """The higher, the sooner a token is put down, ``[B, 1, N]``."""
        if self.sampling.order == "random":
            return sampler.uniform("maskgit.order", logits[..., 0])
        sure = logits.log_softmax(-1).gather(-1, drawn[..., None])[..., 0]
        if self.sampling.order_noise and noise:
            sure = sure + self.sampling.order_noise * noise * sampler.gumbel("maskgit.order", sure)
        return sure

    def _try(self, carry: _Carry, codes: Tensor, told: Tensor, masked: Tensor | None) -> Tensor:
        """The transformer's output for a frame behind those so far, ``[B, 1, N, D]``; nothing is remembered."""
        length = carry.memory.length
        hidden = self.transformer(self._tokens(codes, told, masked, first=False), memory=carry.memory)
        carry.memory.length = length
        return hidden

    def observe(self, carry: _Carry, z: Latent) -> None:
        assert carry.leading is not None  # predict() comes before
        carry.codes = torch.cat([carry.codes, z.values[self.key][..., 0]], 1)
        told = (carry.told, carry.leading)
        tokens = max(x.shape[2] for x in told)  # of a frame and of a token: told of every token
        carry.told = torch.cat([x.expand(-1, -1, tokens, -1) for x in told], 1)
        self._remember(carry, 1)

    # -- what heads read

    def feature_dim(self) -> int:
        return self.config.dim

    def features(self, z: Latent, cond: Condition) -> Tensor:
        """The transformer's output for the frames reached, whole: ``[B, T - 1, N, dim]``; heads do not train it."""
        with torch.no_grad():
            return self._whole(z.values[self.key][..., 0], cond)[:, 1:, : self.spec.num_tokens]

    def step_features(self, carry: _Carry, left: Latent, reached: Latent, cond: Condition) -> Tensor:
        assert carry.leading is not None  # predict() comes before
        with torch.no_grad():
            codes = reached.values[self.key][..., 0]
            return self._try(carry, codes, carry.leading, None)[:, :, : self.spec.num_tokens]
