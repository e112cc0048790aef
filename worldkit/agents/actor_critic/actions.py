"""Distributions of actions: one-hot choices, and three kinds of bounded numbers.

All describe actions ``[..., A]`` and give log-probabilities and entropies ``[...]``, summed over the numbers of an
action. Samples of numbers carry gradients to the parameters, those of choices straight through to the probabilities.

Sources: danijar/dreamer @ 56d4d44 (`TanhNormal`), dreamerv2 @ 07d906e (`TruncNormal`), dreamerv3 @ e3f0224
(`BoundedNormal`), written from their descriptions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...distributions import Categorical, Sampler

_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class ActionDistribution(ABC):
    """What an actor says of the next action."""

    @abstractmethod
    def sample(self, sampler: Sampler) -> Tensor:
        """An action ``[..., A]`` with gradients; its mode if the sampler is deterministic."""

    @abstractmethod
    def mode(self) -> Tensor:
        """The action to be scored by."""

    @abstractmethod
    def log_prob(self, action: Tensor) -> Tensor:
        """Of actions ``[..., A]``: ``[...]`` nats."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """``[...]`` nats."""


@dataclass(frozen=True)
class OneHot(ActionDistribution):
    """One of A choices.

    Attributes:
        logits: ``[..., A]``.
        unimix: Share of the uniform distribution.
    Example:
        >>> choice = OneHot(torch.tensor([0.0, 5.0, 0.0]))
        >>> choice.mode(), round(choice.entropy().item(), 3)
        (tensor([0., 1., 0.]), 0.08)
    """

    logits: Tensor
    unimix: float = 0.0

    @property
    def _kind(self) -> Categorical:
        return Categorical(self.logits.shape[-1], self.unimix)

    def sample(self, sampler: Sampler) -> Tensor:
        return self._kind.sample(self.logits, sampler, "action")

    def mode(self) -> Tensor:
        return F.one_hot(self.logits.argmax(-1), self.logits.shape[-1]).to(self.logits.dtype)

    def log_prob(self, action: Tensor) -> Tensor:
        return -self._kind.nll(self.logits, action)

    def entropy(self) -> Tensor:
        return self._kind.entropy(self.logits)


@dataclass(frozen=True)
class BoundedNormal(ActionDistribution):
    """A Normal whose mean and deviation are bounded; its samples are not, whoever takes them clips (DreamerV3).

    Attributes:
        mean, std: ``[..., A]``.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of_raw(cls, mean: Tensor, std: Tensor, *, min_std: float = 0.1, max_std: float = 1.0) -> BoundedNormal:
        """From a network's outputs.

        Example:
            >>> BoundedNormal.of_raw(torch.zeros(1), torch.zeros(1)).std
            tensor([0.8927])
        """
        return cls(mean.tanh(), (max_std - min_std) * torch.sigmoid(std + 2) + min_std)

    def sample(self, sampler: Sampler) -> Tensor:
        return self.mode() if sampler.deterministic else sampler.normal("action", self.mean, 2 * self.std.log())

    def mode(self) -> Tensor:
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        return _normal_log_prob(action, self.mean, self.std).sum(-1)

    def entropy(self) -> Tensor:
        return (self.std.log() + _HALF_LOG_TAU + 0.5).sum(-1)


@dataclass(frozen=True)
class TruncNormal(ActionDistribution):
    """A Normal cut off at -1 and 1 (DreamerV2).

    Attributes:
        mean, std: ``[..., A]``, before it is cut.
    Example:
        >>> cut = TruncNormal(torch.tensor([0.9]), torch.tensor([2.0]))
        >>> sampler = Sampler(generator=torch.Generator().manual_seed(0))
        >>> bool(cut.sample(sampler).abs() < 1), cut.mode()
        (True, tensor([0.9000]))
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of_raw(cls, mean: Tensor, std: Tensor, *, min_std: float = 0.1) -> TruncNormal:
        """From a network's outputs."""
        return cls(mean.tanh(), 2 * torch.sigmoid(std / 2) + min_std)

    @property
    def _edges(self) -> tuple[Tensor, Tensor]:
        return (-1 - self.mean) / self.std, (1 - self.mean) / self.std

    @property
    def _mass(self) -> Tensor:
        low, high = self._edges
        return torch.special.ndtr(high) - torch.special.ndtr(low)

    def sample(self, sampler: Sampler) -> Tensor:
        if sampler.deterministic:
            return self.mode()
        low, _ = self._edges
        share = torch.special.ndtr(low) + sampler.uniform("action", self.mean) * self._mass
        drawn = self.mean + self.std * torch.special.ndtri(share)
        return drawn + (drawn.detach().clamp(-1 + 1e-6, 1 - 1e-6) - drawn.detach())  # clipped, the gradient is not

    def mode(self) -> Tensor:
        return self.mean.clamp(-1, 1)

    def log_prob(self, action: Tensor) -> Tensor:
        inside = _normal_log_prob(action, self.mean, self.std) - self._mass.log()
        return inside.where(action.abs() <= 1, -torch.inf).sum(-1)

    def entropy(self) -> Tensor:
        low, high = self._edges
        edges = low * torch.exp(-0.5 * low.square()) - high * torch.exp(-0.5 * high.square())
        inside = edges / (2 * math.sqrt(2 * math.pi) * self._mass)
        return (self.std.log() + self._mass.log() + _HALF_LOG_TAU + 0.5 + inside).sum(-1)


@dataclass(frozen=True)
class TanhNormal(ActionDistribution):
    """The tanh of a Normal (DreamerV1, and an option of DreamerV2). Entropy and mode are found among samples.

    Attributes:
        mean, std: ``[..., A]``, before the tanh.
        samples: How many; they come from a generator of their own, always the same ones, so nothing else changes.
    """

    mean: Tensor
    std: Tensor
    samples: int = 100

    @classmethod
    def of_raw(cls, mean: Tensor, std: Tensor, *, init_std: float = 5.0, min_std: float = 1e-4) -> TanhNormal:
        """From a network's outputs: means within 5, deviations that begin at ``init_std``; 0: softplus as it is.

        Example:
            >>> TanhNormal.of_raw(torch.zeros(1), torch.zeros(1)).std
            tensor([5.0001])
        """
        return cls(5 * torch.tanh(mean / 5), F.softplus(std + (math.log(math.expm1(init_std)) if init_std else 0.0))
                   + min_std)

    def sample(self, sampler: Sampler) -> Tensor:
        return self.mode() if sampler.deterministic else torch.tanh(
            sampler.normal("action", self.mean, 2 * self.std.log()))

    def _drawn(self) -> tuple[Tensor, Tensor]:
        """Actions ``[samples, ..., A]`` and their log-probabilities ``[samples, ...]``."""
        generator = torch.Generator(self.mean.device).manual_seed(0)
        noise = torch.randn((self.samples, *self.mean.shape), generator=generator, device=self.mean.device,
                            dtype=self.mean.dtype)
        return self.drawn(noise)

    def drawn(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions of standard noise ``[samples, ..., A]``, and their log-probabilities ``[samples, ...]``."""
        action = torch.tanh(self.mean + self.std * noise)
        return action, self.log_prob(action)

    def mode(self) -> Tensor:
        """The likeliest of the samples. The reference takes for a whole batch those that suit its first row."""
        action, log_prob = self._drawn()
        best = log_prob.argmax(0)[None, ..., None].expand(1, *self.mean.shape)
        return action.gather(0, best)[0]

    def log_prob(self, action: Tensor) -> Tensor:
        x = atanh(action)
        return (_normal_log_prob(x, self.mean, self.std) - log_slope(x)).sum(-1)

    def entropy(self) -> Tensor:
        return -self._drawn()[1].mean(0)


def atanh(action: Tensor) -> Tensor:
    """Inverse of tanh; what is closer to -1 or 1 than float32 can tell counts as the next number inside."""
    return torch.atanh(action.clamp(-0.99999997, 0.99999997))


def log_slope(x: Tensor) -> Tensor:
    """``log d tanh(x) / dx``, without overflow."""
    return 2 * (math.log(2) - x - F.softplus(-2 * x))


def _normal_log_prob(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return -0.5 * ((x - mean) / std).square() - std.log() - _HALF_LOG_TAU
