"""The cross-entropy method, with white noise and with coloured noise.

CEM: Rubinstein and Kroese (2004), and as PlaNet has it (arXiv:1811.04551); iCEM: Pinneri et al. (2020,
arXiv:2008.06389), written from its description.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import ConfigError
from .base import Elites, Generator, Returns, SamplingPlanner, begin_mean, draw
from .objective import Objective

Normalize = Literal["spectrum", "sequence"]


@dataclass(frozen=True)
class Gaussian:
    """State of CEM: mean and standard deviation, ``[problems, horizon, dim]``; and elites that are kept."""

    mean: Tensor
    std: Tensor
    kept: Tensor | None = None


@dataclass(frozen=True)
class CEM(SamplingPlanner):
    """Draw from a Gaussian, move it to the best candidates, again.

    Attributes:
        std: Standard deviation of the first round, in halves of the distance between the bounds (without bounds: in
            units of the action).
    Example:
        >>> from worldkit.planning import Continuous, FunctionObjective
        >>> far = FunctionObjective(lambda a: (a - 3).square().sum((-1, -2)), 1, Continuous((-1,), (1,)))
        >>> plan = CEM().solve(far, horizon=2, generator=torch.Generator().manual_seed(0))
        >>> plan.actions.round(decimals=2).tolist(), round(plan.cost.item(), 1)  # the bound, and what it costs
        ([[[1.0], [1.0]]], 8.0)
    """

    LEAST = SamplingPlanner.LEAST | {"std": 0.0}

    std: float = 1.0

    def begin(self, objective: Objective, horizon: int, initial: Tensor | None) -> Gaussian:
        mean = begin_mean(objective.space, objective.problems, horizon, initial, objective.device)
        return Gaussian(mean, (self.std * objective.space.reach(objective.device)).expand_as(mean))

    def noise(self, shape: tuple[int, ...], generator: Generator, device: torch.device) -> Tensor:
        """Standard noise ``[problems, candidates, horizon, dim]``."""
        return draw(torch.randn, shape, generator, device)

    def propose(self, state: Gaussian, objective: Objective, generator: Generator) -> Tensor:
        problems, *rest = state.mean.shape
        noise = self.noise((problems, self.candidates, *rest), generator, state.mean.device)
        actions = noise.mul_(state.std[:, None]).add_(state.mean[:, None])
        actions[:, 0] = state.mean
        if state.kept is not None:
            actions[:, 1 : 1 + state.kept.shape[1]] = state.kept
        return objective.space.clip(actions)

    def learn(self, state: Gaussian, elites: Elites) -> Gaussian:
        return Gaussian(*moments(elites, state))

    def answer(self, state: Gaussian, objective: Objective) -> Tensor:
        return objective.space.clip(state.mean)


@dataclass(frozen=True)
class ICEM(CEM):
    """CEM whose candidates move smoothly, which remembers its elites and changes its mind gradually.

    Attributes:
        beta: Colour of the noise along the horizon: power falls as frequency to the ``-beta``; 0 is white.
        momentum: Share of the old mean and standard deviation that stays.
        normalize: ``"spectrum"``: numbers of noise have variance 1 over many candidates; ``"sequence"``: over the
            horizon of every candidate, as stable-worldmodel has it.
        keep: How many elites are candidates again in the next round.
    """

    LEAST = CEM.LEAST | {"beta": 0.0, "momentum": 0.0, "keep": 0}

    beta: float = 2.0
    momentum: float = 0.1
    keep: int = 5
    returns: Returns = "best"
    normalize: Normalize = "spectrum"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalize not in ("spectrum", "sequence"):
            raise ConfigError(f"ICEM: normalize must be 'spectrum' or 'sequence', got {self.normalize!r}")

    def white(self, shape: tuple[int, ...], generator: Generator, device: torch.device) -> Tensor:
        """White noise ``[problems, candidates, horizon, dim]``."""
        return draw(torch.randn, shape, generator, device)

    def noise(self, shape: tuple[int, ...], generator: Generator, device: torch.device) -> Tensor:
        noise = colored(self.white(shape, generator, device), self.beta)
        if self.normalize == "sequence" and noise.shape[2] > 1:
            noise = noise / noise.std(2, keepdim=True).clamp(min=1e-8)
        return noise

    def learn(self, state: Gaussian, elites: Elites) -> Gaussian:
        (mean, std), stay = moments(elites, state), self.momentum
        kept = torch.where(elites.usable[:, : self.keep, None, None], elites.actions[:, : self.keep], mean[:, None])
        return Gaussian(stay * state.mean + (1 - stay) * mean, stay * state.std + (1 - stay) * std, kept)


@dataclass(frozen=True)
class PlaNetCEM(CEM):
    """CEM as PlaNet has it: the mean is no candidate, and deviations are those of the elites alone (not a sample's).

    Source: google-research/planet @ c04226b, written from its description.
    """

    candidates: int = 1000
    iterations: int = 10
    elites: int = 100

    def propose(self, state: Gaussian, objective: Objective, generator: Generator) -> Tensor:
        problems, *rest = state.mean.shape
        noise = self.noise((problems, self.candidates, *rest), generator, state.mean.device)
        return objective.space.clip(noise.mul_(state.std[:, None]).add_(state.mean[:, None]))

    def learn(self, state: Gaussian, elites: Elites) -> Gaussian:
        mean, std = moments(elites, state)
        count = elites.usable.sum(1)[:, None, None].clamp(min=2).to(std)
        return Gaussian(mean, (std.square() * (count - 1) / count + 1e-6).sqrt())


@dataclass(frozen=True)
class PredictiveSampling(CEM):
    """One round around the warm start, and the best candidate of it (Howell et al., 2022, arXiv:2212.00541)."""

    iterations: int = 1
    elites: int = 2  # nothing learns from them
    returns: Returns = "best"
    std: float = 0.5


def colored(white: Tensor, beta: float) -> Tensor:
    """Noise of unit variance along the horizon, from white noise ``[problems, candidates, horizon, dim]``.

    Example:
        >>> white = torch.randn(1, 4000, 8, 1, generator=torch.Generator().manual_seed(0))
        >>> x = colored(white, 2.0)[0, :, :, 0]
        >>> bool((x.std(0) - 1).abs().max() < 0.05), bool((x[:, 1:] * x[:, :-1]).mean() > 0.5)
        (True, True)
    """
    horizon = white.shape[2]
    if horizon == 1 or beta == 0:
        return white
    frequency = torch.fft.rfftfreq(horizon, device=white.device)
    frequency[0] = frequency[1]
    scale = frequency ** (-beta / 2)
    whole = torch.fft.fftfreq(horizon, device=white.device).abs().clamp(min=1 / horizon) ** -beta
    spectrum = torch.fft.rfft(white, dim=2) * (scale / whole.mean().sqrt())[:, None]
    return torch.fft.irfft(spectrum, n=horizon, dim=2)


def moments(elites: Elites, before: Gaussian) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the usable elites, ``[problems, horizon, dim]`` each; without any, as before."""
    if elites.all_usable:
        return elites.actions.mean(1), elites.actions.std(1)
    weight = elites.usable[:, :, None, None].to(elites.actions)
    count = weight.sum(1)
    mean = (weight * elites.actions).sum(1) / count.clamp(min=1)
    square = (weight * (elites.actions - mean[:, None]).square()).sum(1)
    std = (square / (count - 1).clamp(min=1)).sqrt()
    return torch.where(count > 0, mean, before.mean), torch.where(count > 0, std, before.std)
