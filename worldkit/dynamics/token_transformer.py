"""A causal transformer that reads frames of codes as text: a token for every code, one for the action, and so on.

A frame and the action that leaves it are a block. Every code of the next frame is drawn given all before it, the ones
of its own frame included; heads read the hidden state behind the action. A rollout keeps keys and values: a frame costs
one pass of each of its tokens (the last one goes together with the action behind it). What was drawn is committed as it
is; a frame that was changed in between is read again.

The transformer has room for ``window + 1`` blocks, so that a training clip of one frame more than the window fits in.
When that is full, a rollout slides on over its newest frames and reads them again (``refresh = "window"``: one by one
in "exact" rollouts, the older half at once in "streaming" ones), or forgets all but the newest frame, as upstream does
(``refresh = "frame"``).

Source: IRIS (arXiv:2209.00588), written from a description of it. Conditions are told by a table of rows (of one-hot
actions a row each); upstream's block-causal attention is there, and shows a code those that it is to predict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..conditions import EMPTY, Condition
from ..config import ComponentConfig
from ..distributions import Sampler, full_precision
from ..errors import IncompatibleComponentsError, ShapeError
from ..latents import Latent, LatentSpec
from ..nn.dropout import Dropout
from ..nn.memory import Memory
from ..nn.token_transformer import CausalTransformer
from .base import Dynamics, Window


class TokenTransformerConfig(ComponentConfig):
    """Options of the token transformer; the defaults are IRIS's.

    Attributes:
        dim: Token width.
        num_layers, num_heads: Of the transformer.
        dropout: Of embeddings, attention, and what layers add.
        attention: ``"causal"``, or ``"block-causal"``.
        refresh: What a rollout does when its memory is full: ``"window"`` reads the newest frames again, ``"frame"``
            the last one alone, as upstream.
        cond_dim: Width of conditions; None: that of actions as they are, else ``dim``.
    """

    name: str = "token-transformer"
    dim: int = Field(default=256, gt=0)
    num_layers: int = Field(default=10, gt=0)
    num_heads: int = Field(default=4, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    attention: Literal["causal", "block-causal"] = "causal"
    refresh: Literal["window", "frame"] = "window"
    cond_dim: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _check_width(self) -> TokenTransformerConfig:
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} must be divisible by num_heads {self.num_heads}")
        return self


@dataclass
class _Carry:
    """State of a rollout.

    Attributes:
        history: Newest frames, as many as the window has.
        cond: Of the transitions that leave them; one fewer until `predict` adds one.
        streaming: What happens at the end of the window.
        memory: Keys and values of the tokens that were fed, up to ``mark`` once and for all.
        waiting: Codes of the newest frame that are not fed yet, ``[B, n]``; None: nothing is, not even what was before.
        guess, drawn, told: What `predict` answered, ``[B, N]`` and as a latent, and the condition it was given.
        features: Hidden state behind the action, ``[B, 1, 1, D]``.
    """

    history: Latent
    cond: Condition
    streaming: bool
    memory: Memory = field(default_factory=Memory)
    mark: int = 0
    waiting: Tensor | None = None
    guess: Tensor | None = None
    drawn: Latent | None = None
    told: Condition = EMPTY
    features: Tensor | None = None


class TokenTransformer(Dynamics):
    """Codes drawn one after the other; `loss` is their cross-entropy.

    Example:
        >>> from worldkit.conditions import EMPTY
        >>> from worldkit.testing import example_latent, example_spec
        >>> spec = example_spec(kind="codes")
        >>> config = TokenTransformerConfig(dim=16, num_layers=1, num_heads=2)
        >>> dynamics = TokenTransformer(config, spec=spec, anchors={}, window=4).eval()
        >>> dynamics.loss(example_latent(spec, batch=2, time=4), EMPTY, Sampler())["tokens"].shape
        torch.Size([2, 3])
    """

    Config = TokenTransformerConfig
    explicit_prior = False
    requires = frozenset({"codes"})
    takes = frozenset({"frame"})
    config: TokenTransformerConfig

    def __init__(self, config: TokenTransformerConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
                 memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, memory_length=memory_length)
        if len(spec.keys()) > 1 or spec.packed_dim > 1:
            raise IncompatibleComponentsError(
                "dynamics 'token-transformer' reads one code per token, in one field; this latent has the fields "
                f"{', '.join('.'.join(key) for key in spec.keys())}, up to {spec.packed_dim} numbers wide"
            )
        (self.key,), self.tokens = spec.keys(), spec.num_tokens
        self.classes = spec.field(self.key).dist.classes  # type: ignore[attr-defined]
        self.cond_dim = config.dim if config.cond_dim is None else config.cond_dim
        self.block = self.tokens + 1
        self.code_rows = nn.Embedding(self.classes, config.dim)
        self.action_rows = nn.Parameter(0.02 * torch.randn(self.cond_dim, config.dim)) if self.cond_dim else None
        self.positions = nn.Parameter(0.02 * torch.randn((window + 1) * self.block, config.dim))
        self.drop = Dropout(config.dropout)
        self.net = CausalTransformer(
            config.dim, config.num_layers, config.num_heads, block=self.block, blocks=window + 1,
            attention=config.attention, dropout=config.dropout,
        )
        self.head = nn.Sequential(nn.Linear(config.dim, config.dim), nn.ReLU(), nn.Linear(config.dim, self.classes))
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    # -- whole clips

    def hidden(self, z: Latent, cond: Condition) -> Tensor:
        """Hidden states of all tokens of a clip, ``[B, L, D]``.

        Args:
            z: Latents of T frames, at most one more than the window.
            cond: Conditions of T - 1 transitions, or of T: then the action that leaves the last frame is a token, too.
        Raises:
            ShapeError: more frames.
        """
        if z.shape[1] > self.window + 1:
            raise ShapeError(f"{z.shape[1]} frames do not fit into the {self.window + 1} that dynamics "
                             f"'token-transformer' has positions for: give it the newest ones (z[:, -{self.window}:]), "
                             "or train it with a larger timestep_horizon")
        known = z.shape[1] - 1 if cond.frame is None else cond.frame.shape[1]
        return self.net(self._placed(self._sequence(self.codes(z), cond, known), 0))

    def codes(self, z: Latent) -> Tensor:
        """int64 ``[B, T, N]``.

        Raises:
            ShapeError: a code that there is not.
        """
        codes = z.values[self.key][..., 0]
        if type(codes) is Tensor and codes.device.type == "cpu" and codes.numel() and not torch.compiler.is_compiling():
            low, high = codes.aminmax()
            if low < 0 or high >= self.classes:
                raise ShapeError(f"codes must be numbers from 0 to {self.classes - 1}, got {int(low)} to {int(high)}: "
                                 "are they those of this model's encoder?")
        return codes

    def _sequence(self, codes: Tensor, cond: Condition, known: int) -> Tensor:
        """Embedded tokens of frames ``[B, T, N]`` and of the ``known`` (T or T - 1) actions; no positions yet."""
        rows, frames = self.code_rows(codes), codes.shape[1]
        actions = F.pad(self._actions(cond, rows[:, :known, 0]), (0, 0, 0, frames - known))
        sequence = torch.cat([rows, actions[:, :, None]], 2).flatten(1, 2)
        return sequence[:, : frames * self.block - (known < frames)]

    def _actions(self, cond: Condition, like: Tensor) -> Tensor:
        """Rows of the actions ``[B, T, D]``; zeros of the size of ``like`` where nothing is told."""
        if cond.frame is None or self.action_rows is None:
            return torch.zeros_like(like)
        return cond.frame.to(self.action_rows.dtype) @ self.action_rows

    def _placed(self, sequence: Tensor, start: int) -> Tensor:
        return self.drop(sequence + self.positions[start : start + sequence.shape[1]])

    def logits(self, hidden: Tensor) -> Tensor:
        """Of the codes of all frames, as hidden states of a clip predict them: ``[B, T * N - 1, classes]``.

        The first code of a clip is predicted by nothing. Code k > 0 of a frame is by the code before it, code 0 by the
        action; the last code of a frame predicts nothing.
        """
        frames = -(-hidden.shape[1] // self.block)
        place = torch.arange(1, frames * self.tokens, device=hidden.device)
        frame, code = place // self.tokens, place % self.tokens
        return full_precision(self.head(hidden[:, frame * self.block + code - 1]))

    def labels(self, z: Latent, valid: Tensor | None = None) -> Tensor:
        """What `logits` are held against, int64 ``[B, T * N - 1]``; -100 in frames not ``valid`` ``[B, T]``."""
        codes = self.codes(z)
        if valid is not None:
            codes = codes.masked_fill(~valid.bool()[..., None], -100)
        return codes.flatten(1)[:, 1:]

    def token_losses(self, z: Latent, hidden: Tensor, valid: Tensor | None = None) -> Tensor:
        """Cross-entropy of every code in nats, ``[B, T, N]``; 0 of the very first one, and of frames not ``valid``."""
        logits, labels = self.logits(hidden), self.labels(z, valid)
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=-100)
        return F.pad(losses.view_as(labels), (1, 0)).view(*z.shape, self.tokens)

    def loss(self, z: Latent, cond: Condition, sampler: Sampler) -> dict[str, Tensor]:
        """Cross-entropy of the codes of the frame that a transition leads to, summed over them."""
        return {"tokens": self.token_losses(z, self.hidden(z, cond)).sum(2)[:, 1:]}

    def feature_dim(self) -> int:
        return self.config.dim

    def features(self, z: Latent, cond: Condition) -> Tensor:
        """Hidden states behind the actions, ``[B, T - 1, 1, D]``, or as many as there are conditions."""
        return self.behind_actions(self.hidden(z, cond))

    def behind_actions(self, hidden: Tensor) -> Tensor:
        """Of the hidden states of a clip those behind actions, ``[B, actions, 1, D]``."""
        return hidden[:, self.tokens :: self.block, None]

    # -- rollouts

    def start(self, z: Latent, cond: Condition, *, window: Window = "exact") -> _Carry:
        keep = slice(max(0, z.shape[1] - self.window), None)
        return _Carry(z[:, keep], cond.at(keep), window == "streaming")

    def predict(self, carry: _Carry, cond: Condition, sampler: Sampler, *, mean: bool) -> Latent:
        """The next frame, code by code. A deterministic sampler asks for the likeliest of each."""
        if carry.waiting is None or carry.mark + carry.waiting.shape[1] + self.block > self.net.limit:
            self._refresh(carry)
        carry.memory.length = carry.mark
        hidden = self._feed(carry, cond)
        carry.features = hidden[:, -1:, None]
        drawn = [self._draw(hidden, sampler)]
        for _ in range(self.tokens - 1):
            hidden = self.net(self._placed(self.code_rows(drawn[-1]), carry.memory.length), carry.memory)
            drawn.append(self._draw(hidden, sampler))
        carry.guess = torch.cat(drawn, 1)
        carry.told = cond
        carry.drawn = Latent.build(self.spec, {self.key: carry.guess[:, None, :, None]})
        return carry.drawn

    def observe(self, carry: _Carry, z: Latent) -> None:
        codes = self.codes(z)[:, 0]
        fed = carry.memory.length
        drawn = z is carry.drawn or (carry.guess is not None and torch.equal(codes, carry.guess))
        if not drawn:  # another frame
            fed -= self.tokens - 1
            carry.waiting = codes
        else:
            carry.waiting = codes[:, -1:]
        carry.mark = fed
        keep = slice(max(0, carry.history.shape[1] + 1 - self.window), None)
        carry.history = type(z).cat([carry.history, z])[:, keep]
        carry.cond = carry.cond.then(carry.told).at(keep)

    def step_features(self, carry: _Carry, left: Latent, reached: Latent, cond: Condition) -> Tensor:
        return carry.features

    def _draw(self, hidden: Tensor, sampler: Sampler) -> Tensor:
        """A code ``[B, 1]``, given the last hidden state."""
        return sampler.categorical("token", full_precision(self.head(hidden[:, -1:])))

    def _feed(self, carry: _Carry, cond: Condition) -> Tensor:
        """Feed what waits, and the action that leaves the newest frame."""
        rows = self.code_rows(carry.waiting)
        tokens = torch.cat([rows, self._actions(cond, rows[:, :1])], 1)
        if not carry.memory.length and carry.history.shape[1] > 1:
            before = self.codes(carry.history)[:, :-1]
            tokens = torch.cat([self._sequence(before, carry.cond, before.shape[1]), tokens], 1)
        return self.net(self._placed(tokens, carry.memory.length), carry.memory)

    def _refresh(self, carry: _Carry) -> None:
        """Begin anew, with the newest frames that are to be read again: all of their tokens wait."""
        started = carry.waiting is not None
        if started and self.config.refresh == "frame":
            frames = 1
        elif started and carry.streaming:
            frames = max(1, carry.history.shape[1] // 2)
        else:
            frames = carry.history.shape[1]
        gone = slice(carry.history.shape[1] - frames, None)
        carry.history, carry.cond = carry.history[:, gone], carry.cond.at(gone)
        carry.memory, carry.mark, carry.waiting = Memory(), 0, self.codes(carry.history)[:, -1]
