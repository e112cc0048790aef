r"""Diffusion in continuous time as three independent choices: noise schedule, prediction target, sampler.

Time t runs from 0 (data) to 1 (noise). A **schedule** mixes data :math:`x_0` and standard normal noise
:math:`\epsilon` into

.. math:: x_t = \alpha(t)\, x_0 + \sigma(t)\, \epsilon.

A **target** is what a network predicts from :math:`x_t`: some combination :math:`p\, x_0 + q\, \epsilon`. Together with
:math:`x_t` that makes two equations with two unknowns, so every target gives data and noise under every schedule
(`denoise`). A **sampler** walks from t = 1 to t = 0 and asks only for data and noise, so it does not know the target.

Sources: DDPM (arXiv:2006.11239), DDIM (2010.02502), variational diffusion models (2107.00630), v-prediction
(2202.00512), flow matching (2210.02747). `CosineSteps` (improved DDPM, 2102.09672) and `LinearSteps` (DDPM) have a
fixed number of steps, as most published models are trained with: their times are whole steps.
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

Denoiser = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
"""(noisy values of any shape, time as a scalar tensor) -> (data, noise), as far as they can be told apart; a network
that learned how much noise a step back needs tells a share as well, see `learned_logvar`."""


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

    def times(self, steps: int) -> Tensor:
        """Times at which a sampler stops that takes so many steps, from 1 to 0: ``[steps + 1]``."""
        return torch.linspace(1, 0, steps + 1)

    def posterior(self, now: Tensor, then: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The Gaussian q(x_then | x_now, data), for then < now (2107.00630, appendix A.4).

        Returns:
            (a, b, variance); its mean is ``a * x_now + b * data``.
        """
        ratio, noise = self.alpha(now) / self.alpha(then), self.sigma(now).square()
        fresh = noise - (ratio * self.sigma(then)).square()
        kept = self.sigma(then).square() / noise  # share of the noise that stays
        return ratio * kept, self.alpha(then) * fresh / noise, fresh * kept


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


class Steps(Schedule):
    """A schedule of whole steps, each of which replaces a share of the variance by fresh noise.

    Time k / steps stands behind step k; other times are rounded to the nearest step. Computed in float64. Factors of
    single times (0 axes) are float64 on the CPU, which go with tensors of any kind; others are as the times are.

    Args:
        replaced: Share of the variance that every step replaces (DDPM's betas), float64 ``[steps]``.
    """

    def __init__(self, replaced: Tensor):
        kept = torch.cat([torch.ones_like(replaced[:1]), (1 - replaced).cumprod(0)])
        self.steps, self._alpha, self._sigma = len(replaced), kept.sqrt(), (1 - kept).sqrt()

    def number(self, t: Tensor) -> Tensor:
        """Step of a time, int64."""
        return (t * self.steps).round().long()

    def alpha(self, t: Tensor) -> Tensor:
        return self._at(self._alpha, t)

    def sigma(self, t: Tensor) -> Tensor:
        return self._at(self._sigma, t)

    def _at(self, table: Tensor, t: Tensor) -> Tensor:
        return table.to(t.device)[self.number(t)].to(t.dtype) if t.ndim else table[self.number(t).cpu()]

    def times(self, steps: int) -> Tensor:
        """The step before which a sampler stops is rounded down, as in most published code.

        Raises:
            ConfigError: more steps than there are.
        """
        if not 1 <= steps <= self.steps:
            raise ConfigError(f"a diffusion of {self.steps} steps is sampled in 1 to {self.steps} steps, got {steps}")
        return (torch.linspace(-1, self.steps - 1, steps + 1).int().flip(0) + 1) / self.steps


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ConfigError(f"a diffusion needs at least 1 step, got {steps}")


class CosineSteps(Steps):
    """The cosine schedule of improved DDPM: in each step at most 0.999 of the variance is replaced.

    Args:
        steps: From data to noise.
        offset: Keeps the first steps from being too small.
    Example:
        >>> schedule = CosineSteps(20)
        >>> schedule.number(torch.tensor([0.0, 0.5, 1.0])).tolist(), round(schedule.sigma(torch.tensor(0.05)).item(), 4)
        ([0, 10, 20], 0.0894)
    """

    def __init__(self, steps: int, offset: float = 0.008):
        _check_steps(steps)
        progress = torch.arange(steps + 1, dtype=torch.float64, device="cpu") / steps
        wanted = torch.cos((progress + offset) / (1 + offset) * math.pi / 2).square()  # variance of the data
        super().__init__((1 - wanted[1:] / wanted[:-1]).clamp(0, 0.999))


class LinearSteps(Steps):
    """DDPM's: what a step replaces grows linearly from 1e-4 to 0.02 in 1000 steps.

    With other numbers of steps all shares are scaled by 1000 / steps, so that as little of the data is left at the
    end; below 20 steps the last shares would pass 1 and are 0.999.

    Args:
        steps: From data to noise.
        low, high: The first and the last share, of 1000 steps.
    Example:
        >>> round(LinearSteps(1000).alpha(torch.tensor(1.0)).item() ** 2, 8)  # what is left of the data's variance
        4.036e-05
    """

    def __init__(self, steps: int, low: float = 1e-4, high: float = 0.02):
        _check_steps(steps)
        scale = 1000 / steps
        shares = torch.linspace(scale * low, scale * high, steps, dtype=torch.float64, device="cpu")
        super().__init__(shares.clamp(max=0.999))


STEP_SCHEDULES: dict[str, type[Steps]] = {"cosine": CosineSteps, "linear": LinearSteps}


def learned_logvar(schedule: Schedule, now: Tensor, then: Tensor, share: Tensor) -> Tensor:
    """Log-variance of a step back from ``now`` to ``then`` that a network chose between its two bounds.

    The bounds are the variances of that step if the data were pure noise (all that was replaced), and if they were
    known (`Schedule.posterior`); a share in [0, 1] goes from the second to the first, in logarithms. A share outside
    goes beyond. The last step's second bound is 0, and that of the step before stands in.

    Source: improved DDPM (arXiv:2102.09672), equation 15.
    """
    ratio = schedule.alpha(now) / schedule.alpha(then)
    most = 1 - ratio.square()
    least = most * schedule.sigma(then).square() / schedule.sigma(now).square()
    if isinstance(schedule, Steps):
        second = torch.tensor(2 / schedule.steps, dtype=then.dtype)
        first = torch.tensor(1 / schedule.steps, dtype=then.dtype)
        stand_in = schedule.posterior(second, first)[2] if schedule.steps > 1 else most.new_tensor(1e-20)
        least = torch.where(then > 0, least, stand_in.to(least))
    least = least.clamp(min=1e-20)
    return share * most.log() + (1 - share) * least.log()


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
        for now, then in pairwise(self.schedule.times(steps)):  # scalars stay on the CPU: they fit every device
            data, fresh, *share = denoiser(x, now)
            x = self.step(x, data, fresh, now, then, sampler, *share)
        return x

    @abstractmethod
    def step(self, x: Tensor, data: Tensor, noise: Tensor, now: Tensor, then: Tensor, sampler: Sampler,
             share: Tensor | None = None) -> Tensor:
        """Values at the earlier time ``then`` from those at ``now``; ``share``: see `Denoiser`."""


class DDIM(DiffusionSampler):
    """Deterministic: mix the same data and noise in the proportion of the earlier time (DDIM with eta = 0)."""

    def step(self, x: Tensor, data: Tensor, noise: Tensor, now: Tensor, then: Tensor, sampler: Sampler,
             share: Tensor | None = None) -> Tensor:
        return self.schedule.mix(data, noise, then)


class DDPM(DiffusionSampler):
    """Ancestral: draw from q(x_then | x_now, data), which holds for every schedule."""

    def step(self, x: Tensor, data: Tensor, noise: Tensor, now: Tensor, then: Tensor, sampler: Sampler,
             share: Tensor | None = None) -> Tensor:
        if then == 0:
            return data
        of_noisy, of_data, variance = self.schedule.posterior(now, then)
        mean = of_noisy * x + of_data * data
        logvar = variance.log() if share is None else learned_logvar(self.schedule, now, then, share)
        return sampler.normal("diffusion.step", mean, logvar.to(mean).expand(mean.shape))


class Euler(DiffusionSampler):
    """Euler's method for dx/dt = noise - data, the paths of flow matching."""

    def step(self, x: Tensor, data: Tensor, noise: Tensor, now: Tensor, then: Tensor, sampler: Sampler,
             share: Tensor | None = None) -> Tensor:
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
