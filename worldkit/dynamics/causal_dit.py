"""semantic-wm's dynamics: a causal transformer denoises every frame of a clip at a noise level of its own.

The network is `worldkit.nn.causal_dit`, noise and samplers are `worldkit.nn.frame_noise`. Latents lie on a grid. A
rollout shows the given frames almost clean and keeps their keys and values, so that every denoising step costs one
frame; a window that is full slides, and is read anew.

Which frame carries an action is a choice. ``"reached"`` (the default): the one that it leads to; the first frame of a
clip carries none. So a frame depends on nothing that is not known when it is drawn. ``"left"``, as upstream trains: the
frame that it leaves; the last one carries none, and in training a frame is told the action that follows it.

Source: semantic-wm (arXiv:2605.06388), written from a description of the facts. Guidance is
``without + guidance (with - without)`` of both kinds of noise; upstream's flow takes guidance above 1 for 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..conditions import Condition
from ..config import ComponentConfig
from ..distributions import Sampler, full_precision
from ..errors import IncompatibleComponentsError
from ..latents import Latent, LatentSpec
from ..nn.causal_dit import CausalDiT, Temporal
from ..nn.frame_noise import FlowNoise, FrameNoise, Noisy, StepNoise, shift_of
from ..nn.memory import Memory
from ..nn.standardize import RunningStandardizer
from .base import Dynamics, Window


class CausalDiTConfig(ComponentConfig):
    """Options of the causal DiT; defaults are DiT-S's.

    Attributes:
        dim, num_layers, num_heads: Of the transformer; every layer is two blocks.
        patch_size: So many tokens of the latent to a side become one inside (2 for the latents of SD3's autoencoder).
        head: ``"wide"`` (``head_dim`` numbers a token) or ``"narrow"``.
        head_dim: Width of the wide head.
        temporal: ``"factored"``: tokens see themselves in earlier frames; ``"joint"``: all tokens of them.
        cond_dim: Numbers of an action; None: of the raw actions that it is told (conditioner ``raw-action``).
        actions: Which frame carries an action, ``"reached"`` or ``"left"``; see the module's docstring.
        null_action: What stands for none: a ``"learned"`` vector, or ``"last-entry"``, as upstream: an action of zeros
            whose last entry is 1, which must not mean anything else.
        action_dropout: Share of training clips whose actions are hidden, which guidance needs.
        noise: ``"flow"`` or ``"ddpm"``.
        history: Frames of a training clip that are given (flow); 0: all are noisy.
        history_noise: Noise on them in training; see `worldkit.nn.frame_noise.FlowNoise`.
        time_shift: Of times; None: by the latent's size, see `worldkit.nn.frame_noise.shift_of`.
        time_mean, time_std: Of the logit of times (flow); ``time_std`` 0: times are uniform.
        steps: Denoising steps per frame.
        guidance: 1 follows actions as learned, more exaggerates them, 0 ignores them.
        standardize: Bring every channel to mean 0 and variance 1, by running statistics; for latents whose scale may be
            any. Upstream takes them as they are.
        positions: Where a token is in its frame: its ``"index"``, or places between -1 and 1 (``"pixel"``; one view).
        mixed_views: Number the columns of several views as upstream's code does by mistake.
    """

    name: str = "causal-dit"
    dim: int = Field(default=384, gt=0)
    num_layers: int = Field(default=12, gt=0)
    num_heads: int = Field(default=6, gt=0)
    patch_size: int = Field(default=1, gt=0)
    head: Literal["wide", "narrow"] = "wide"
    head_dim: int = Field(default=2048, gt=0)
    temporal: Temporal = "factored"
    cond_dim: int | None = Field(default=None, ge=0)
    actions: Literal["reached", "left"] = "reached"
    null_action: Literal["learned", "last-entry"] = "learned"
    action_dropout: float = Field(default=0.1, ge=0, lt=1)
    noise: Literal["flow", "ddpm"] = "flow"
    history: int = Field(default=1, ge=0)
    history_noise: float = Field(default=0.3, ge=0)
    time_shift: float | None = Field(default=None, gt=0)
    time_mean: float = 0.0
    time_std: float = Field(default=1.0, ge=0)
    steps: int = Field(default=10, gt=0)
    guidance: float = Field(default=1.0, ge=0)
    standardize: bool = False
    positions: Literal["index", "pixel"] = "index"
    mixed_views: bool = False

    @model_validator(mode="after")
    def _check(self) -> CausalDiTConfig:
        if self.noise == "ddpm" and self.steps > 1000:
            raise ValueError(f"noise 'ddpm' has 1000 steps, and steps {self.steps} are more")
        return self


@dataclass(frozen=True)
class Sampling:
    """How frames are drawn; may differ from one rollout to the next, see `CausalDiTConfig`."""

    steps: int
    guidance: float


@dataclass
class _Carry:
    """State of a rollout: the frames of the window ``[B, T, N, C]``, and the actions between them."""

    frames: Tensor
    actions: Tensor
    streaming: bool
    memories: dict[bool, Memory] | None = None  # with actions (True) and without: of all frames but the newest
    action: Tensor | None = None  # of the transition to come, `predict` to `observe`


class CausalDiffusion(Dynamics):
    """Denoising of frames after frames; window ``timestep_horizon``, that is one frame less than it sees at once.

    Attributes:
        sampling: A `Sampling`. Replace it to trade time for quality:
            ``model.dynamics.sampling = replace(model.dynamics.sampling, steps=4)``.

    Example:
        >>> from worldkit.conditions import EMPTY
        >>> from worldkit.testing import example_latent, example_spec
        >>> config = CausalDiTConfig(dim=16, num_heads=2, num_layers=1, head_dim=8, steps=2, patch_size=2)
        >>> spec = example_spec(kind="patches")
        >>> dynamics = CausalDiffusion(config, spec=spec, anchors={}, window=4)
        >>> z = example_latent(spec, batch=2, time=5)
        >>> dynamics.loss(z, EMPTY, Sampler())["denoising"].shape
        torch.Size([2, 4])
        >>> dynamics.predict(dynamics.start(z, EMPTY), EMPTY, Sampler(), mean=False).features.shape
        torch.Size([2, 1, 16, 3])
    """

    Config = CausalDiTConfig
    explicit_prior = False
    requires = frozenset({"grid", "tracked", "continuous"})
    takes = frozenset({"frame"})
    config: CausalDiTConfig

    def __init__(self, config: CausalDiTConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
                 memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, memory_length=memory_length)
        self._check(config, spec, window)
        assert spec.grid is not None  # required
        group = spec.groups[0]
        channels, tokens = sum(f.dim for f in group.fields), group.size // spec.views // config.patch_size**2
        self.cond_dim = 10 if config.cond_dim is None else config.cond_dim
        self.network = CausalDiT(
            channels=channels, grid=spec.grid, views=spec.views, patch_size=config.patch_size, dim=config.dim,
            num_layers=config.num_layers, num_heads=config.num_heads, action_dim=self.cond_dim,
            head_dim=config.head_dim if config.head == "wide" else None, temporal=config.temporal,
            learned_null=config.null_action == "learned", pixel_positions=config.positions == "pixel",
            mixed_views=config.mixed_views, limit=window + 1,
        )
        self.scale = RunningStandardizer([(group.size, channels)], channels) if config.standardize else None
        shift = shift_of(tokens, channels) if config.time_shift is None else config.time_shift
        self.noise: FrameNoise = StepNoise(shift) if config.noise == "ddpm" else FlowNoise(
            config.history, config.history_noise, shift, config.time_mean, config.time_std)
        self.sampling = Sampling(config.steps, config.guidance)
        one = torch.randn(group.size, channels, generator=torch.Generator().manual_seed(0), device="cpu")
        self.register_buffer("one_noise", one, persistent=False)

    @staticmethod
    def _check(config: CausalDiTConfig, spec: LatentSpec, window: int) -> None:
        if len(spec.groups) > 1:
            raise IncompatibleComponentsError(
                f"dynamics 'causal-dit' predicts tokens on a grid alone, and this latent has {spec.groups[1].name} "
                "beside them: let patches carry vectors, -o encoder.channels=10")
        if config.noise == "flow" and config.history > window:
            raise IncompatibleComponentsError(
                f"dynamics.history {config.history} leaves no frame to learn in clips of {window + 1} frames "
                f"(timestep_horizon + 1): take at most {window}")
        if config.positions == "pixel" and spec.views > 1:
            raise IncompatibleComponentsError("dynamics.positions 'pixel' knows one view, and there are "
                                              f"{spec.views} (obs.views): take 'index'")
        if config.mixed_views and spec.views == 1:
            raise IncompatibleComponentsError("dynamics.mixed_views numbers the columns of several views, and there is "
                                              "one (obs.views): leave it out")

    # -- latents as tokens, conditions as actions of frames

    def _tokens(self, z: Latent) -> Tensor:
        """``[B, T, N, C]``: all fields side by side, on the network's scale."""
        tokens = self._side_by_side(z)
        return tokens if self.scale is None else self.scale(tokens)

    def _side_by_side(self, z: Latent) -> Tensor:
        group = self.spec.groups[0]
        values = [z.values[group.name, f.name] for f in group.fields]
        return full_precision(values[0] if len(values) == 1 else torch.cat(values, -1))

    def _latent(self, tokens: Tensor) -> Latent:
        group = self.spec.groups[0]
        tokens = tokens if self.scale is None else self.scale.inverse(tokens)
        parts = tokens.split([f.dim for f in group.fields], -1)
        return Latent.build(self.spec, {(group.name, f.name): x for f, x in zip(group.fields, parts, strict=True)})

    def _told(self, cond: Condition, like: Tensor) -> Tensor:
        """Actions of the transitions between frames ``like``: ``[B, T - 1, A]``."""
        shape = like.shape[0], like.shape[1] - 1, self.cond_dim
        return like.new_zeros(shape) if cond.frame is None else cond.frame.to(like.dtype)

    def carried(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Actions of transitions ``[B, T - 1, A]`` -> of frames ``[B, T, A]``; which frames carry one, ``[B, T]``."""
        none = actions.new_zeros(actions.shape[0], 1, self.cond_dim)
        parts = [none, actions] if self.config.actions == "reached" else [actions, none]
        given = torch.ones(actions.shape[0], actions.shape[1] + 1, dtype=torch.bool, device=actions.device)
        given[:, 0 if self.config.actions == "reached" else -1] = False
        return torch.cat(parts, 1), given

    # -- training

    def errors(self, noisy: Noisy, actions: Tensor | None, given: Tensor | None, sampler: Sampler) -> Tensor:
        """Mean squared error of the answer for every frame that counts, ``[B, T - counts]``.

        Args:
            noisy: Frames ``[B, T]`` and what is known of them.
            actions, given: As of `CausalDiT.told`; in training clips are drawn whose actions are hidden.
            sampler: Source of randomness.
        """
        share = self.config.action_dropout
        if actions is not None and self.training and share:
            hidden = sampler.uniform("diffusion.action_dropout", noisy.level[:, :1]) < share
            given = torch.ones_like(noisy.level, dtype=torch.bool) if given is None else given
            given = given & ~hidden
        answer = self.network(noisy.frames, noisy.level, actions, given)
        return (answer - noisy.target)[:, noisy.counts :].square().mean((2, 3))

    def loss(self, z: Latent, cond: Condition, sampler: Sampler) -> dict[str, Tensor]:
        """Mean squared error of velocities; 0 of given frames, and scaled so that the mean is that of the others.

        Frame 0, which no transition reaches, counts nowhere.
        """
        if self.scale is not None and self.training:
            self.scale.update(self._side_by_side(z.detach()))
        data = self._tokens(z.detach())
        if sampler.deterministic:  # a loss needs noise: the same every time, so that losses can be compared
            sampler = Sampler(generator=torch.Generator(data.device).manual_seed(0))
        actions, given = self.carried(self._told(cond, data)) if self.cond_dim else (None, None)
        if cond.frame is None and given is not None:
            given = torch.zeros_like(given)
        noisy = self.noise.noisy(data, sampler, training=self.training)
        errors = self.errors(noisy, actions, given, sampler)
        skipped = max(1, noisy.counts)
        errors = errors[:, skipped - noisy.counts :]
        scale = (data.shape[1] - 1) / errors.shape[1]
        return {"denoising": torch.nn.functional.pad(scale * errors, (skipped - 1, 0))}

    # -- rollouts

    def start(self, z: Latent, cond: Condition, *, window: Window = "exact") -> _Carry:
        tokens = self._tokens(z)
        actions = self._told(cond, tokens)
        return _Carry(tokens[:, -self.window :], actions[:, max(0, tokens.shape[1] - self.window) :],
                      window == "streaming")

    def predict(self, carry: _Carry, cond: Condition, sampler: Sampler, *, mean: bool) -> Latent:
        """One frame. A deterministic sampler asks for the path from one noise, the same for every frame and clip.

        Zero would be none that the network has seen: of a trained one such paths end far from what it draws.
        """
        newest = carry.frames[:, -1:]
        carry.action = self._told(cond, torch.cat([newest, newest], 1))
        zero = torch.zeros_like(newest)
        noise = (self.one_noise.to(newest).expand_as(newest) if sampler.deterministic
                 else sampler.normal("diffusion.noise", zero, zero))
        actions = torch.cat([carry.actions, carry.action], 1)
        return self._latent(self.draw(carry, noise, actions, hidden=cond.frame is None)).bounded()

    def draw(self, carry: _Carry, noise: Tensor, actions: Tensor, *, hidden: bool = False) -> Tensor:
        """Frames ``[B, F, N, C]`` that follow on a window; one, or a pyramid of several (``noise="ddpm"``).

        Args:
            carry: State of the rollout.
            noise: Standard normal, ``[B, F, N, C]``.
            actions: Between all frames, those to come included, ``[B, T + F - 1, A]``.
            hidden: They are not told.
        """
        told, given = self.carried(actions) if self.cond_dim else (None, None)
        return self.draw_told(carry, noise, told, torch.zeros_like(given) if hidden and given is not None else given)

    def draw_told(self, carry: _Carry, noise: Tensor, told: Tensor | None, given: Tensor | None) -> Tensor:
        """As `draw`, of what frames carry: ``told`` ``[B, T + F, A]``, ``given`` ``[B, T + F]`` (None: all)."""
        guidance = self.sampling.guidance if told is not None else 1.0
        kinds = [kind for kind, weight in ((True, guidance), (False, 1 - guidance)) if weight]
        past = carry.frames.shape[1]
        if carry.memories is None or set(carry.memories) != set(kinds):
            carry.memories = {kind: Memory() for kind in kinds}
        memories = carry.memories
        if told is not None and given is None:
            given = torch.ones(told.shape[:2], dtype=torch.bool, device=told.device)
        for kind, memory in memories.items():
            fresh = carry.frames[:, memory.length :]
            if fresh.shape[1]:
                part = slice(memory.length, past)
                shown, level = self.noise.given(fresh)
                self._answer(shown, shown.new_full(shown.shape[:2], level), told, given, part, kind, memory)
                memory.length = past
        now = slice(past, past + noise.shape[1])

        def answer(frames: Tensor, level: Tensor) -> Tensor:
            said = {kind: self._answer(frames, level, told, given, now, kind, memory)
                    for kind, memory in memories.items()}
            if len(said) == 1:
                return next(iter(said.values()))
            return said[False] + guidance * (said[True] - said[False])

        drawn = self.noise.drawn(answer, noise, self.sampling.steps)
        if self.config.actions == "left":  # what leaves the newest frame may be another the next time
            for memory in memories.values():
                memory.length = past - 1
        return drawn

    def _answer(self, frames: Tensor, level: Tensor, told: Tensor | None, given: Tensor | None, part: slice,
                kind: bool, memory: Memory) -> Tensor:
        if told is None or given is None:
            return self.network(frames, level, memory=memory)
        shown = given[:, part]
        return self.network(frames, level, told[:, part], shown if kind else torch.zeros_like(shown), memory=memory)

    def observe(self, carry: _Carry, z: Latent) -> None:
        carry.frames = torch.cat([carry.frames, self._tokens(z)], 1)
        assert carry.action is not None  # as `predict` was asked
        carry.actions = torch.cat([carry.actions, carry.action], 1)
        if carry.frames.shape[1] > self.window:
            gone = max(1, self.window // 2) if carry.streaming else 1
            carry.frames, carry.actions, carry.memories = carry.frames[:, gone:], carry.actions[:, gone:], None
