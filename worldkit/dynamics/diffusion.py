"""Diffusion dynamics: the change to the next frame is denoised, given the history and the condition of the transition.

Three separate objects: a network (`worldkit.nn.dit`), a noise schedule and a sampler (`worldkit.nn.diffusion`). A
causal transformer turns the frames so far into one context vector per token; the network denoises the packed latent of
ONE next frame. So training runs all transitions of a clip in parallel, and a rollout runs the history once per frame,
however many denoising steps it takes.

What is denoised is the CHANGE from the newest frame, standardised, and the network also sees the newest frame itself:
most numbers of a latent hardly change, and a network that must first reproduce them from tokens learns that slowly.

The history knows no conditions: they steer the network alone, so that classifier-free guidance (arXiv:2207.12598) can
leave them out at no cost to the history.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..conditions import Condition
from ..config import ComponentConfig
from ..distributions import Sampler, full_precision
from ..latents import Latent, LatentSpec
from ..nn.diffusion import SAMPLERS, SCHEDULES, check_combination, denoise, target_value
from ..nn.dit import DiT
from ..nn.rolling import Rolling
from ..nn.spec import LatentEmbed
from ..nn.standardize import RunningStandardizer
from ..nn.transformer import SpatioTemporalTransformer
from .base import Dynamics, Window


class DiffusionConfig(ComponentConfig):
    """Options of diffusion dynamics.

    Attributes:
        dim: Token width of history and network.
        num_layers: Layers of the denoising network.
        history_layers: Layers of the causal transformer over the frames so far.
        num_heads: Attention heads of both.
        dropout: On attention weights and after every projection.
        schedule: ``"flow"`` (straight paths), ``"cosine"``, or ``"linear"`` (DDPM).
        target: What the network predicts: ``"x0"`` (the data), ``"epsilon"`` (the noise), or ``"v"`` (the velocity).
        sampler: ``"ddim"``, ``"ddpm"`` (adds noise on the way), or ``"euler"`` (flow only; there the same as ddim).
        steps: Denoising steps per frame.
        guidance: 1 follows the condition as learned, more exaggerates it, 0 ignores it.
        condition_dropout: Share of training clips whose conditions are hidden, which is what guidance needs.
    """

    name: str = "diffusion"
    dim: int = Field(default=512, gt=0)
    num_layers: int = Field(default=6, gt=0)
    history_layers: int = Field(default=2, gt=0)
    num_heads: int = Field(default=8, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    schedule: Literal["flow", "cosine", "linear"] = "flow"
    target: Literal["x0", "epsilon", "v"] = "v"
    sampler: Literal["ddim", "ddpm", "euler"] = "ddim"
    steps: int = Field(default=10, gt=0)
    guidance: float = Field(default=1.0, ge=0)
    condition_dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> DiffusionConfig:
        check_combination(self.schedule, self.target, self.sampler)
        return self


@dataclass(frozen=True)
class Sampling:
    """How frames are drawn; may differ from one rollout to the next, see `DiffusionConfig`."""

    steps: int
    guidance: float
    sampler: str


@dataclass
class _Carry:
    rolling: Rolling
    pending: Latent  # newest frame, [B, 1]


class Diffusion(Dynamics):
    """Denoising of the next frame.

    Attributes:
        sampling: A `Sampling`. Replace it to trade time for quality:
            ``model.dynamics.sampling = replace(model.dynamics.sampling, steps=4)``.

    Example:
        >>> from worldkit.conditions import EMPTY
        >>> from worldkit.testing import example_latent, example_spec
        >>> config = DiffusionConfig(dim=16, num_heads=2, num_layers=1, history_layers=1)
        >>> dynamics = Diffusion(config, spec=example_spec(), anchors={}, window=4)
        >>> z = example_latent(example_spec(), batch=2, time=4)
        >>> dynamics.loss(z, EMPTY, Sampler())["denoising"].shape
        torch.Size([2, 3])
        >>> dynamics.predict(dynamics.start(z, EMPTY), EMPTY, Sampler(), mean=False).position.shape
        torch.Size([2, 1, 5, 2])
    """

    Config = DiffusionConfig
    explicit_prior = False
    requires = frozenset({"tracked", "continuous"})
    takes = frozenset({"frame", "token", "memory"})

    def __init__(self, config: DiffusionConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
                 memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, memory_length=memory_length)
        self.cond_dim = config.dim
        shared = {"dim": config.dim, "num_heads": config.num_heads, "num_tokens": spec.num_tokens,
                  "dropout": config.dropout}
        self.embed_latent = LatentEmbed(spec, config.dim, anchors=anchors)
        self.history = SpatioTemporalTransformer(num_layers=config.history_layers, max_frames=window, **shared)
        columns = [(group.size, sum(f.dim for f in group.fields)) for group in spec.groups]
        self.newest_scale = RunningStandardizer(columns, spec.packed_dim)
        self.change_scale = RunningStandardizer(columns, spec.packed_dim)
        self.newest = nn.Linear(spec.packed_dim, config.dim)
        self.network = DiT(width=spec.packed_dim, num_layers=config.num_layers, **shared)
        # always added, so that it learns from clips with and without their conditions; alone it stands for "not told"
        self.null_memory = nn.Parameter(0.02 * torch.randn(memory_length, config.dim)) if memory_length else None
        self.schedule = SCHEDULES[config.schedule]
        self.sampling = Sampling(config.steps, config.guidance, config.sampler)

    def embed(self, z: Latent) -> Tensor:
        return self.embed_latent(z, mark_views=False)

    def loss(self, z: Latent, cond: Condition, sampler: Sampler) -> dict[str, Tensor]:
        """Half the squared error of the network's answer, summed over tokens and columns (standardised units)."""
        z = z.detach()
        if sampler.deterministic:  # a loss needs noise: the same every time, so that losses can be compared
            sampler = Sampler(generator=torch.Generator(z.presence.device).manual_seed(0))
        packed = full_precision(z.pack())
        newest, change = packed[:, :-1], packed.diff(dim=1)
        if self.training:
            self.newest_scale.update(newest)
            self.change_scale.update(change)
        context = self._context(self.history(self.embed_latent(z[:, :-1])), newest)
        data = self.change_scale(change)
        level = sampler.uniform("diffusion.level", data[:, :, 0, 0])
        noise = self._noise(data, sampler)
        noisy = self.schedule.mix(data, noise, level[..., None, None])
        answer = self._answer(noisy, level, context, cond, self._kept(data, cond, sampler))
        target = target_value(self.config.target, self.schedule, data, noise, level[..., None, None])
        return {"denoising": 0.5 * (answer - target).square().sum((2, 3))}

    def _context(self, history: Tensor, newest: Tensor) -> Tensor:
        return history + self.newest(self.newest_scale(newest))

    def _noise(self, like: Tensor, sampler: Sampler) -> Tensor:
        zero = torch.zeros_like(like)
        return sampler.normal("diffusion.noise", zero, zero) * self.change_scale.used

    def _kept(self, data: Tensor, cond: Condition, sampler: Sampler) -> Tensor | None:
        """1 where a clip's conditions are shown, 0 where they are hidden, ``[B]``; None: show all."""
        share = self.config.condition_dropout
        if not self.training or not share or cond.is_empty:
            return None
        return (sampler.uniform("diffusion.condition_dropout", data[:, 0, 0, 0]) >= share).to(data.dtype)

    def _answer(
        self, noisy: Tensor, level: Tensor, context: Tensor, cond: Condition, kept: Tensor | None
    ) -> Tensor:
        """The network's answer; conditions are hidden where ``kept`` is 0."""
        steer, memory = cond.adaln(), cond.memory
        if kept is not None:
            steer = None if steer is None else steer * kept[:, None, None, None]
            memory = None if memory is None else memory * kept[:, None, None]
        if self.null_memory is not None:
            memory = self.null_memory.expand(noisy.shape[0], -1, -1) + (0 if memory is None else memory)
        return full_precision(self.network(noisy, level, context, steer, memory)) * self.change_scale.used

    def _guided(self, noisy: Tensor, level: Tensor, context: Tensor, cond: Condition) -> Tensor:
        """``without + guidance * (with - without)`` the condition; both in one call of the network."""
        guidance = self.sampling.guidance
        if guidance == 1 or cond.is_empty:
            return self._answer(noisy, level, context, cond, None)
        twice = Condition(*(None if x is None else torch.cat([x, x]) for x in (cond.frame, cond.token, cond.memory)))
        kept = noisy.new_tensor([1.0, 0.0]).repeat_interleave(len(noisy))
        answer = self._answer(*(torch.cat([x, x]) for x in (noisy, level, context)), twice, kept)
        given, hidden = answer.chunk(2)
        return hidden + guidance * (given - hidden)

    def start(self, z: Latent, cond: Condition, *, window: Window = "exact") -> _Carry:
        """The newest frame waits for the condition of the transition that leaves it."""
        rolling = Rolling(self.history, window=self.window, streaming=window == "streaming")
        past = z.shape[1] - 1
        if past:
            rolling.begin(self.embed_latent(z[:, :past]), None)
        return _Carry(rolling, z[:, past:])

    def predict(self, carry: _Carry, cond: Condition, sampler: Sampler, *, mean: bool) -> Latent:
        """One frame. A deterministic sampler asks for the path that starts at zero noise and adds none."""
        newest, choice = full_precision(carry.pending.pack()), self.sampling
        context = self._context(carry.rolling.append(self.embed_latent(carry.pending), None)[:, -1:], newest)
        check_combination(self.config.schedule, self.config.target, choice.sampler)

        def denoiser(noisy: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            answer = self._guided(noisy, t.to(noisy).expand(noisy.shape[:2]), context, cond)
            return denoise(self.config.target, self.schedule, noisy, answer, t)

        noise = self._noise(newest, sampler)
        change = SAMPLERS[choice.sampler](self.schedule).sample(denoiser, noise, choice.steps, sampler)
        return Latent.unpack(self.spec, newest + self.change_scale.inverse(change)).bounded()

    def observe(self, carry: _Carry, z: Latent) -> None:
        carry.pending = z
