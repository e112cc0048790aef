"""Noise on the frames of a clip, each at a level of its own: what a network learns from, and how frames are drawn.

Two kinds. `FlowNoise`: straight paths from data (time 0) to noise (time 1) at velocity ``noise - data``; times are
logit-normal and shifted towards noise for latents of many numbers. `StepNoise`: DDPM's 1000 steps on a sigmoid
schedule, velocity ``alpha noise - sigma data``. A network is told levels from 0 to 1000.

Frames that are given are clean, or nearly: while drawing they are told as a little noisy (flow: level 10; steps: 14,
and scaled accordingly), which forgives a rollout its own errors.

Source: semantic-wm (arXiv:2605.06388), after diffusion forcing (2407.01392), written from a description of the facts.
Unusual, as there: in training given frames have level 0, and not the 10 they are told while drawing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..distributions import Sampler

Answer = Callable[[Tensor, Tensor], Tensor]
"""(noisy frames ``[B, T, N, C]``, their levels ``[B, T]``) -> velocities ``[B, T, N, C]``."""
STEPS, STABLE = 1000, 14


@dataclass(frozen=True)
class Noisy:
    """Frames as a network learns from them.

    Attributes:
        frames: ``[B, T, N, C]``.
        level: Of every frame, 0 to 1000, ``[B, T]``.
        target: What it should answer, ``[B, T, N, C]``.
        counts: Frames that count, from this one on.
    """

    frames: Tensor
    level: Tensor
    target: Tensor
    counts: int


class FrameNoise(ABC):
    """One of the two kinds."""

    @abstractmethod
    def noisy(self, data: Tensor, sampler: Sampler, *, training: bool) -> Noisy:
        """Data ``[B, T, N, C]`` with noise."""

    @abstractmethod
    def given(self, data: Tensor) -> tuple[Tensor, float]:
        """Given frames as they are shown while others are drawn, and their level."""

    @abstractmethod
    def drawn(self, answer: Answer, noise: Tensor, steps: int) -> Tensor:
        """Frames of the shape of ``noise`` ``[B, T, N, C]``, which follow on the given ones."""


def shifted(time: Tensor, shift: float) -> Tensor:
    """Times in [0, 1] moved towards 1: ``s t / (1 + (s - 1) t)``.

    Example:
        >>> shifted(torch.tensor([0.0, 0.5, 1.0]), 3.0)
        tensor([0.0000, 0.7500, 1.0000])
    """
    return shift * time / (1 + (shift - 1) * time)


def shift_of(tokens: int, channels: int) -> float:
    """``sqrt(tokens * channels / 4096)``, at least 1 (which is ours: upstream has no smaller latents).

    Example:
        >>> [round(shift_of(256, channels), 3) for channels in (16, 96, 1024)]
        [1.0, 2.449, 8.0]
    """
    return max(1.0, math.sqrt(tokens * channels / 4096))


def logit_normal(uniform: Tensor, mean: float = 0.0, std: float = 1.0, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Times whose logit is normal, by the inverse of its distribution function, cut to [low, high].

    Args:
        uniform: In [0, 1), any shape.
        mean, std: Of the logit.
        low, high: In [0, 1].
    Example:
        >>> logit_normal(torch.tensor([0.5, 0.975])).round(decimals=3)
        tensor([0.5000, 0.8770])
    """
    ends = torch.tensor([low, high], dtype=torch.float64).logit()
    first, last = torch.special.ndtr((ends - mean) / std).tolist()
    return torch.sigmoid(mean + std * torch.special.ndtri(first + (last - first) * uniform)).clamp(low, high)


@dataclass(frozen=True)
class FlowNoise(FrameNoise):
    """Straight paths; the first ``history`` frames are given.

    Attributes:
        history: Frames that are given in training; 0: all are noisy, and count.
        history_noise: Noise on them, its size drawn from a normal distribution with this deviation.
        shift: See `shifted`.
        mean, std, low, high: Of times, see `logit_normal`; ``std`` 0: uniform times.
    Example:
        >>> noisy = FlowNoise(history=2).noisy(torch.randn(3, 5, 4, 2), Sampler(), training=True)
        >>> noisy.level[:, :2].max().item(), noisy.counts
        (0.0, 2)
    """

    history: int = 2
    history_noise: float = 0.3
    shift: float = 1.0
    mean: float = 0.0
    std: float = 1.0
    low: float = 0.0
    high: float = 1.0

    def times(self, uniform: Tensor) -> Tensor:
        """Times of uniform numbers."""
        if self.std:
            uniform = logit_normal(uniform, self.mean, self.std, self.low, self.high)
        return shifted(uniform, self.shift)

    def noisy(self, data: Tensor, sampler: Sampler, *, training: bool) -> Noisy:
        history = self.history if data.shape[1] > self.history else 0
        past, data = data[:, :history], data[:, history:]
        if history and training and self.history_noise:
            size = self.history_noise * _normal(sampler, "diffusion.history_size", past[..., :1, :1])
            past = (past + size * _normal(sampler, "diffusion.history_noise", past)) / (1 + size.square()).sqrt()
        time = self.times(sampler.uniform("diffusion.time", data[..., 0, 0]))
        noise = _normal(sampler, "diffusion.noise", data)
        mixed = torch.lerp(data, noise, time[..., None, None])
        level = torch.cat([time.new_zeros(past.shape[:2]), STEPS * time], 1)
        return Noisy(torch.cat([past, mixed], 1), level, torch.cat([torch.zeros_like(past), noise - data], 1), history)

    def given(self, data: Tensor) -> tuple[Tensor, float]:
        return data, 0.01 * STEPS

    def stops(self, steps: int) -> Tensor:
        """Times at which Euler's method stops, from 1 to 0, float64 ``[steps + 1]``."""
        return shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64), self.shift)

    def drawn(self, answer: Answer, noise: Tensor, steps: int) -> Tensor:
        x, stops = noise, self.stops(steps).tolist()
        for now, then in zip(stops, stops[1:], strict=False):
            x = x + (then - now) * answer(x, x.new_full(x.shape[:2], STEPS * now))
        return x


@dataclass(frozen=True)
class StepNoise(FrameNoise):
    """DDPM's steps; all frames of a clip are noisy, and count. Several are drawn as a pyramid, the next a step behind.

    Attributes:
        shift: See `shifted`.
    """

    shift: float = 1.0

    @property
    def kept(self) -> Tensor:
        """Share of the data's variance that is left after every step, float64 ``[1000]``."""
        return sigmoid_schedule()

    def number(self, uniform: Tensor) -> Tensor:
        """Steps, int64, of uniform numbers."""
        return (STEPS * shifted(uniform, self.shift)).floor().long().clamp(0, STEPS - 1)

    def noisy(self, data: Tensor, sampler: Sampler, *, training: bool) -> Noisy:
        return self.at(data, self.number(sampler.uniform("diffusion.time", data[..., 0, 0])), sampler)

    def at(self, data: Tensor, number: Tensor, sampler: Sampler) -> Noisy:
        """Data after steps ``[B, T]``."""
        alpha, sigma = self._factors(number, data)
        noise = _normal(sampler, "diffusion.noise", data)
        return Noisy(alpha * data + sigma * noise, number.to(data.dtype), alpha * noise - sigma * data, 0)

    def _factors(self, number: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of data and noise after steps ``[...]`` (-1: before the first), ``[..., 1, 1]``."""
        kept = torch.cat([self.kept, self.kept.new_ones(1)]).to(like.device)[number]  # the last one is that of -1
        return tuple(x.sqrt().to(like.dtype)[..., None, None] for x in (kept, 1 - kept))  # type: ignore[return-value]

    def given(self, data: Tensor) -> tuple[Tensor, float]:
        return self.kept[STABLE].sqrt().item() * data, float(STABLE)

    @staticmethod
    def stops(steps: int) -> Tensor:
        """Steps at which a sampler stops, from -1 (data) up, int64 ``[steps + 1]``.

        Example:
            >>> StepNoise.stops(4).tolist()
            [-1, 249, 499, 749, 999]
        """
        return torch.linspace(-1, STEPS - 1, steps + 1).long()

    @staticmethod
    def pyramid(steps: int, frames: int) -> Tensor:
        """Which of the stops frames are at, row by row: ``[steps + frames, frames]``.

        Example:
            >>> StepNoise.pyramid(2, 2).tolist()
            [[2, 2], [1, 2], [0, 1], [0, 0]]
        """
        row, frame = torch.arange(steps + frames)[:, None], torch.arange(frames)
        return (steps + frame - row).clamp(0, steps)

    def drawn(self, answer: Answer, noise: Tensor, steps: int) -> Tensor:
        stops = self.stops(steps).to(noise.device)
        x, rows = noise, stops[self.pyramid(steps, noise.shape[1]).to(noise.device)]
        for now, then in zip(rows, rows[1:], strict=False):
            clean = now < 0  # these are given by now
            alpha, sigma = self._factors(now, x)
            shown, level = self.given(x)
            seen = torch.where(clean[:, None, None], shown, x)
            told = now.to(x.dtype).where(~clean, now.new_tensor(level, dtype=x.dtype)).expand(x.shape[:2])
            velocity = answer(seen, told)
            data, fresh = alpha * x - sigma * velocity, sigma * x + alpha * velocity
            alpha, sigma = self._factors(then, x)
            x = torch.where((now == then)[:, None, None], x, alpha * data + sigma * fresh)
        return x


def sigmoid_schedule(steps: int = STEPS, start: float = -3.0, end: float = 3.0) -> Tensor:
    """Share of the data's variance that is left after every step, float64 ``[steps]``: a sigmoid from start to end.

    No step replaces more than 0.999 of it. Source: arXiv:2212.11972.

    Example:
        >>> round(sigmoid_schedule()[499].item(), 6)
        0.5
    """
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    first, last = torch.tensor([start, end], dtype=torch.float64).sigmoid()
    kept = (last - (t * (end - start) + start).sigmoid()) / (last - first)
    kept = kept / kept[0]
    return (1 - (1 - kept[1:] / kept[:-1]).clamp(0, 0.999)).cumprod(0)


def _normal(sampler: Sampler, name: str, like: Tensor) -> Tensor:
    zero = torch.zeros_like(like)
    return sampler.normal(name, zero, zero)
