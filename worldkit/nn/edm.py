r"""Diffusion by noise level, as EDM (arXiv:2206.00364) and DIAMOND have it: preconditioning, levels, and the sampler.

A network F is asked through

.. math:: D(x; \sigma) = c_{skip}\, x + c_{out}\, F(c_{in}\, x;\ c_{noise}), \qquad s = \sqrt{\sigma^2 + \sigma_o^2},

with the deviation of data :math:`\sigma_d`: :math:`c_{in} = 1 / \sqrt{s^2 + \sigma_d^2}`,
:math:`c_{skip} = \sigma_d^2 / (s^2 + \sigma_d^2)`, :math:`c_{out} = s \sqrt{c_{skip}}`, :math:`c_{noise} = \ln(s) / 4`.

Unusual, all of it DIAMOND's, and what its official weights were trained with:

- offset noise :math:`\sigma_o`, one number per channel, joins the noise of training, and s stands for sigma in the
  sampler as well, although that adds none: a level near 0 is taken for :math:`\sigma_o`;
- the sampler begins at N(0, 1), not at the highest level (``SamplingConfig.start``);
- with churn, which the upsampler of DIAMOND's csgo uses, the network is told the level before churn
  (``SamplingConfig.churn_told``);
- pictures are clamped and cut to 256 levels after EVERY call of the network, downwards (`to_levels`), half a level too
  dark on average.

Source: eloialonso/diamond @ 5bcd159 and 851cefb (csgo), written from their description.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..config import Config
from ..distributions import Sampler

Levels = Literal["down", "nearest", "none"]
"""How a picture is cut to 256 levels: to the one below (as DIAMOND), to the nearest one, or not at all."""


class NoiseConfig(Config):
    """Noise of training: ``ln sigma ~ N(mean, deviation)``, clamped.

    Attributes:
        mean, deviation: Of the logarithm.
        low, high: Of sigma.
        offset: Deviation of noise that is the same in all places of a channel, see the module's docstring.
        data: Deviation of the data that the network counts on.
    """

    mean: float = -0.4
    deviation: float = Field(default=1.2, gt=0)
    low: float = Field(default=2e-3, gt=0)
    high: float = Field(default=20.0, gt=0)
    offset: float = Field(default=0.3, ge=0)
    data: float = Field(default=0.5, gt=0)

    def draw(self, like: Tensor, sampler: Sampler, name: str) -> Tensor:
        """A sigma for every row of ``like``, ``[B]``."""
        normal = standard(sampler, f"{name}.level", like.new_zeros(like.shape[0]))
        return (normal * self.deviation + self.mean).exp().clamp(self.low, self.high)

    def add(self, x: Tensor, sigma: Tensor, sampler: Sampler, name: str) -> Tensor:
        """Maps ``[B, C, H, W]`` with noise of levels ``[B]``, and offset noise."""
        offset = standard(sampler, f"{name}.offset", x.new_zeros(*x.shape[:2], 1, 1)) if self.offset else 0.0
        pixels = standard(sampler, f"{name}.pixels", torch.zeros_like(x))
        return x + pixels * sigma[:, None, None, None] + self.offset * offset


def standard(sampler: Sampler, name: str, zeros: Tensor) -> Tensor:
    """Standard normal numbers of the shape of ``zeros``; zeros of a deterministic sampler."""
    return sampler.normal(name, zeros, zeros)


@dataclass(frozen=True)
class Preconditioning:
    """The four factors at noise levels, in the shape of these; see the module's docstring.

    Example:
        >>> at = Preconditioning.at(torch.tensor([0.002, 5.0]), NoiseConfig())
        >>> [round(x, 3) for x in at.skip.tolist()], [round(x, 3) for x in at.noise.tolist()]
        ([0.735, 0.01], [-0.301, 0.403])
    """

    into: Tensor
    skip: Tensor
    out: Tensor
    noise: Tensor

    @classmethod
    def at(cls, sigma: Tensor, config: NoiseConfig) -> Preconditioning:
        s, variance = (sigma.square() + config.offset**2).sqrt(), config.data**2
        skip = variance / (s.square() + variance)
        return cls((s.square() + variance).rsqrt(), skip, s * skip.sqrt(), s.log() / 4)


def to_levels(x: Tensor, how: Levels) -> Tensor:
    """Pictures in [-1, 1], clamped and cut to 256 levels; without gradient.

    ``"down"`` is not idempotent in float32: 63 of the 256 levels come back as the one below.

    Example:
        >>> to_levels(torch.tensor([-2.0, 0.0]), "down").add(1).mul(127.5).round().tolist()
        [0.0, 127.0]
        >>> to_levels(torch.tensor([-2.0, 0.002]), "nearest").add(1).mul(127.5).round().tolist()
        [0.0, 128.0]
    """
    if how == "none":
        return x.detach()
    level = x.detach().clamp(-1, 1).add_(1).div_(2).mul_(255)
    level = level.trunc_() if how == "down" else level.round_()
    return level.div_(255).mul_(2).sub_(1)


class SamplingConfig(Config):
    """From noise to a picture.

    Attributes:
        steps: Noise levels; as many calls of the network (one fewer than twice as many with ``order`` 2).
        low, high: Of the levels, which descend; then comes 0.
        rho: How they are spread: larger, and more of them are low.
        order: 1: Euler, 2: Heun.
        churn: How much noise is put back, over all steps; between levels ``churn_low`` and ``churn_high`` alone.
        churn_noise: Deviation of that noise, nominally 1.
        churn_told: With churn the network is told the level ``"before"`` that (as upstream) or ``"after"`` it.
        start: ``"unit"``: begin at N(0, 1), whatever the level (as upstream), ``"level"``: at N(0, high^2).
        past_noise: Deviation of noise on the frames that are given, of models that learnt with such (csgo: 0.005).
        past_noise_grows: It comes on top of that of the step before (as upstream), else it is drawn anew.
    Example:
        >>> [round(x, 4) for x in SamplingConfig().levels()]
        [5.0, 0.2831, 0.002, 0.0]
    """

    steps: int = Field(default=3, ge=1)
    low: float = Field(default=2e-3, gt=0)
    high: float = Field(default=5.0, gt=0)
    rho: float = Field(default=7.0, gt=0)
    order: Literal[1, 2] = 1
    churn: float = Field(default=0.0, ge=0)
    churn_low: float = Field(default=0.0, ge=0)
    churn_high: float | None = Field(default=None, gt=0)
    churn_noise: float = Field(default=1.0, gt=0)
    churn_told: Literal["before", "after"] = "before"
    start: Literal["unit", "level"] = "unit"
    past_noise: float = Field(default=0.0, ge=0)
    past_noise_grows: bool = True

    @model_validator(mode="after")
    def _descend(self) -> SamplingConfig:
        if self.low >= self.high:
            raise ValueError(f"noise levels descend from high to low, but low {self.low} is not below high {self.high}")
        return self

    def levels(self) -> list[float]:
        """The noise levels, ``steps + 1`` of them, from the highest to 0."""
        high, low = self.high ** (1 / self.rho), self.low ** (1 / self.rho)
        spread = [i / max(1, self.steps - 1) for i in range(self.steps)]
        return [(high + t * (low - high)) ** self.rho for t in spread] + [0.0]

    def plan(self) -> list[Step]:
        """What happens in every step."""
        levels, most = self.levels(), math.sqrt(2) - 1
        steps = []
        for now, then in zip(levels, levels[1:], strict=False):
            within = self.churn_low <= now and (self.churn_high is None or now <= self.churn_high)
            churned = now * (1 + (min(self.churn / self.steps, most) if within else 0.0))
            steps.append(Step(now, churned, then, now if self.churn_told == "before" else churned,
                              self.order == 2 and then > 0))
        return steps

    def told(self) -> list[float]:
        """The noise level of every call of the network."""
        return [level for step in self.plan() for level in ([step.told, step.then] if step.corrected else [step.told])]


@dataclass(frozen=True)
class Step:
    """One step of a sampler: noise levels before it, with churn, and after it; what the network is told; and whether it
    is asked again at the end of the step (Heun)."""

    now: float
    churned: float
    then: float
    told: float
    corrected: bool


Denoise = Callable[[Tensor, int, Tensor], Tensor]
"""(noisy maps, number of the call, the frames that are given) -> the picture behind them."""


def sample(
    denoise: Denoise, zeros: Tensor, given: Tensor, config: SamplingConfig, sampler: Sampler, name: str
) -> Iterator[Tensor]:
    """Maps after every step, from the noise that it begins with to the picture.

    Args:
        denoise: Asked `SamplingConfig.told` times, one after the other.
        zeros: Of the shape of the picture, ``[B, C, H, W]``.
        given: Frames that the network is given, ``[B, K, H, W]``.
        config: How.
        sampler: Source of noise; of a deterministic one all of it is 0.
        name: Of the draws.
    """
    x, call = standard(sampler, f"{name}.start", zeros) * (config.high if config.start == "level" else 1), 0
    fresh = given
    yield x
    for step in config.plan():
        if step.churned > step.now:
            noise = standard(sampler, f"{name}.churn", zeros)
            x = x + noise * (config.churn_noise * math.sqrt(step.churned**2 - step.now**2))
        if config.past_noise:
            given = given if config.past_noise_grows else fresh
            given = given + config.past_noise * standard(sampler, f"{name}.past", torch.zeros_like(given))
        slope = (x - denoise(x, call, given)) / step.churned
        call += 1
        ahead = x + slope * (step.then - step.churned)
        if step.corrected:
            other = (ahead - denoise(ahead, call, given)) / step.then
            call += 1
            ahead = x + (slope + other) / 2 * (step.then - step.churned)
        x = ahead
        yield x
