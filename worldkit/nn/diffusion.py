r"""Diffusion in continuous time as three independent choices: noise schedule, prediction target, sampler.

Time t runs from 0 (data) to 1 (noise). A **schedule** mixes data :math:`x_0` and standard normal noise
:math:`\epsilon` into

.. math:: x_t = \alpha(t)\, x_0 + \sigma(t)\, \epsilon.

A **target** is what a network predicts from :math:`x_t`: some combination :math:`p\, x_0 + q\, \epsilon`. Together with
:math:`x_t` that makes two equations with two unknowns, so every target gives data and noise under every schedule
(`denoise`). A **sampler** walks from t = 1 to t = 0 and asks only for data and noise, so it does not know the target.

Sources: DDPM (arXiv:2006.11239), DDIM (2010.02502), variational diffusion models (2107.00630), v-prediction
(2202.00512), flow matching (2210.02747).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from ..distributions import Sampler
from ..errors import ConfigError

Denoiser = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(noisy values of any shape, time as a scalar tensor) -> (data, noise), as far as they can be told apart."""


class Schedule(ABC):
    """How much data and noise there is at time t (a tensor of any shape with values in [0, 1])."""

    variance_preserving = True
    """alpha^2 + sigma^2 = 1: mixtures of standardised data have unit variance at all times."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Factor of the data."""

    def sigma(self, t: Tensor) -> Tensor:
        """Factor of the noise."""
        return (1 - self.alpha(t).square()).clamp(min=0).sqrt()

    def velocity(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(p, q) of the target "v": the direction in which x moves, scaled so that ``alpha q - sigma p = 1``."""
        return -self.sigma(t), self.alpha(t)

    def mix(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Noisy data at time t; shapes broadcast."""
        return self.alpha(t) * data + self.sigma(t) * noise


class Cosine(Schedule):
    """alpha = cos(0.99 pi t / 2): noise grows evenly in angle. It ends just short of pure noise (alpha = 0.016),
    where a predicted epsilon still tells the data."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(0.495 * math.pi * t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(0.495 * math.pi * t)


class Linear(Schedule):
    """DDPM's: beta grows linearly from 1e-4 to 0.02 in 1000 steps; here its limit in continuous time (2011.13456)."""

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -0.25 * (20 - 0.1) * t.square() - 0.5 * 0.1 * t

    def alpha(self, t: Tensor) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()


class Flow(Schedule):
    """Flow matching: straight paths from data to noise at constant velocity ``noise - data``."""

    variance_preserving = False

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def velocity(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(t), torch.ones_like(t)


SCHEDULES: dict[str, Schedule] = {"cosine": Cosine(), "linear": Linear(), "flow": Flow()}


def _epsilon(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(t), torch.ones_like(t)


def _x0(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ones_like(t), torch.zeros_like(t)


TARGETS: dict[str, Callable[[Schedule, Tensor], tuple[Tensor, Tensor]]] = {
    "x0": _x0, "epsilon": _epsilon, "v": lambda schedule, t: schedule.velocity(t),
}
"""Name -> coefficients (p, q) of what the network predicts, ``p data + q noise``."""


def target_value(target: str, schedule: Schedule, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """What a perfect network would answer; shapes broadcast."""
    p, q = TARGETS[target](schedule, t)
    return p * data + q * noise


def denoise(target: str, schedule: Schedule, noisy: Tensor, answer: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """(data, noise) from noisy values and the network's answer, for t > 0; shapes broadcast.

    Example:
        >>> t, data, noise = torch.tensor(0.3), torch.randn(5), torch.randn(5)
        >>> v = target_value("v", SCHEDULES["cosine"], data, noise, t)
        >>> found, _ = denoise("v", SCHEDULES["cosine"], SCHEDULES["cosine"].mix(data, noise, t), v, t)
        >>> torch.allclose(found, data, atol=1e-5)
        True
    """
    (p, q), alpha, sigma = TARGETS[target](schedule, t), schedule.alpha(t), schedule.sigma(t)
    determinant = alpha * q - sigma * p
    return (q * noisy - sigma * answer) / determinant, (alpha * answer - p * noisy) / determinant


class DiffusionSampler(ABC):
    """From noise to data in any number of steps, evenly spaced in time."""

    def __init__(self, schedule: Schedule):
        self.schedule = schedule

    def sample(self, denoiser: Denoiser, noise: Tensor, steps: int, sampler: Sampler) -> Tensor:
        """Data in the shape of ``noise``.

        Args:
            denoiser: Tells data and noise apart.
            noise: Standard normal start; zeros for a deterministic path.
            steps: Calls of ``denoiser``, at least 1.
            sampler: Source of further noise, for samplers that add some.
        """
        x = noise
        for now, then in pairwise(torch.linspace(1, 0, steps + 1)):  # scalars stay on the CPU: they fit every device
            x = self.step(x, *denoiser(x, now), now, then, sampler)
        return x

    @abstractmethod
    def step(self, x: Tensor, data: Tensor, noise: Tensor, now: Tensor, then: Tensor, sampler: Sampler) -> Tensor:
        """Values at the earlier time ``then`` from those at ``now``."""


class DDIM(DiffusionSampler):
    """Deterministic: mix the same data and noise in the proportion of the earlier time (DDIM with eta = 0)."""

    def step(self, x: Tensor, data: Tensor, noise: Tensor, now: Tensor, then: Tensor, sampler: Sampler) -> Tensor:
        return self.schedule.mix(data, noise, then)


class DDPM(DiffusionSampler):
    """Ancestral: draw from q(x_then | x_now, data), which holds for every schedule (2107.00630, appendix A.4)."""

    def step(self, x: Tensor, data: Tensor, noise: Tensor, now: Tensor, then: Tensor, sampler: Sampler) -> Tensor:
        if then == 0:
            return data
        ratio = self.schedule.alpha(now) / self.schedule.alpha(then)
        kept = (self.schedule.sigma(then) / self.schedule.sigma(now)).square()  # share of the noise that stays
        fresh = self.schedule.sigma(now).square() - (ratio * self.schedule.sigma(then)).square()
        mean = ratio * kept * x + self.schedule.alpha(then) * fresh / self.schedule.sigma(now).square() * data
        return sampler.normal("diffusion.step", mean, (fresh * kept).log().expand(mean.shape))


class Euler(DiffusionSampler):
    """Euler's method for dx/dt = noise - data, the paths of flow matching."""

    def step(self, x: Tensor, data: Tensor, noise: Tensor, now: Tensor, then: Tensor, sampler: Sampler) -> Tensor:
        return x + (then - now) * (noise - data)


SAMPLERS: dict[str, type[DiffusionSampler]] = {"ddim": DDIM, "ddpm": DDPM, "euler": Euler}


def check_combination(schedule: str, target: str, sampler: str) -> None:
    """Refuse choices that contradict one another.

    Raises:
        ConfigError: with what fits.
    """
    if target == "epsilon" and schedule == "flow":
        raise ConfigError(
            "target 'epsilon' does not fit schedule 'flow': at t = 1 its mixture is noise alone, and the noise says "
            "nothing about the data. Targets that fit 'flow': x0, v. Schedules that fit 'epsilon': cosine, linear"
        )
    if sampler not in SAMPLERS:
        raise ConfigError(f"unknown sampler '{sampler}'; samplers: {', '.join(SAMPLERS)}")
    if sampler == "euler" and schedule != "flow":
        raise ConfigError(
            f"sampler 'euler' follows the straight paths of schedule 'flow', not those of '{schedule}'. Samplers that "
            f"fit '{schedule}': ddim, ddpm. Schedules that fit 'euler': flow"
        )
