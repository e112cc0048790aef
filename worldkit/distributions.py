"""Distributions of latent fields: the description lives in a spec, the parameters in plain tensors.

A `Distribution` describes one field ("a Normal", "a Beta with one degree of freedom"); its parameters are ONE tensor
whose last axis holds all of them, so slicing, concatenating and moving parameters needs no knowledge of the kind.
Randomness enters only through a `Sampler`, so that one code path serves training, deterministic evaluation, seeded
generation and the replay of recorded noise in parity tests.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .errors import ConfigError
from .samplers import MEANS, ClipSampler, Sampler, full_precision, pick, probabilities

__all__ = [
    "MEANS", "Beta", "Categorical", "ClipSampler", "Delta", "Distribution", "Mixture", "Normal", "Sampler",
    "full_precision",
]


class Distribution(ABC):
    """Description of the distribution of one field of width ``dim``. Subclasses are frozen dataclasses.

    Everything that depends on what the parameters mean is said here; components ask, and never look at the type. What a
    plugin has to write, and what it may leave out, is in docs/distributions.md.

    Attributes:
        support: Values lie between these two numbers.
        point: A value without a spread: no density, `kl` and `nll` are half squared distances.
        properties: What a dynamics may require of all fields: ``"normal"``, parameters are ``[mean, logvar]``;
            ``"beta"``, they are ``[a, b]``; ``"categorical"``, they are logits.
        codes: Values are numbers of classes (int64), which cannot be added up or averaged.
    """

    support: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    point: ClassVar[bool] = False
    properties: ClassVar[frozenset[str]] = frozenset()

    @property
    def codes(self) -> bool:
        return False

    @abstractmethod
    def param_dim(self, dim: int) -> int:
        """Width of the parameter tensor."""

    def raw_dim(self, dim: int) -> int:
        """Width of what a network must produce for `from_raw`."""
        return self.param_dim(dim)

    def from_raw(self, raw: Tensor, anchor: Tensor | None = None) -> Tensor:
        """Network output -> parameters. With an ``anchor`` the mean is ``anchor + tanh(raw mean)``."""
        if anchor is not None:
            raise TypeError(f"{type(self).__name__} fields take no anchor")
        return raw

    def raw_at(self, mean: Tensor, variance: float) -> Tensor | None:
        """Network output ``[..., raw_dim]`` that gives a mean ``[..., dim]`` and a variance, to initialise a network.

        None: leave the network as it was made.
        """
        return None

    @abstractmethod
    def sample(self, params: Tensor, sampler: Sampler, name: str) -> Tensor:
        """A value [..., dim] for parameters [..., param_dim]."""

    @abstractmethod
    def kl(self, params: Tensor, prior: Tensor) -> Tensor:
        """KL(params || prior) in nats, summed over the field: [...]."""

    @abstractmethod
    def nll(self, params: Tensor, value: Tensor) -> Tensor:
        """Negative log-likelihood in nats, summed over the field: [...]."""

    def mode(self, params: Tensor) -> Tensor:
        """The deterministic value: the mean."""
        return self.sample(params, MEANS, "")

    def shift(self, params: Tensor, change: Tensor) -> Tensor:
        """The same distribution, moved by ``change`` ``[..., dim]``. Left out for bounded values and classes.

        Raises:
            TypeError: it was left out (see `movable`).
        """
        raise TypeError(f"{type(self).__name__} fields cannot be moved: predict their values, not how they change")

    @property
    def movable(self) -> bool:
        """Whether `shift` is there: then a dynamics may predict changes."""
        return type(self).shift is not Distribution.shift

    def summary(self, params: Tensor) -> dict[str, Tensor]:
        """Scalars worth a line in the log of a training, by name."""
        return {}


@dataclass(frozen=True)
class Normal(Distribution):
    """Diagonal Gaussian; parameters ``[mean, logvar]``.

    Attributes:
        link: What makes standard deviations of a network's output: ``"exp"`` (the output is the log-variance),
            ``"softplus"`` (PlaNet, Dreamer v1), ``"sigmoid"``, that is ``2 sigmoid(x / 2)`` (Dreamer v2).
        floor: Added to the deviation, unless the link is ``"exp"``.
    Example:
        >>> Normal(link="sigmoid", floor=0.1).from_raw(torch.zeros(2))[1].exp().sqrt()
        tensor(1.1000)
    """

    properties = frozenset({"normal"})

    link: Literal["exp", "softplus", "sigmoid"] = "exp"
    floor: float = 0.0

    def param_dim(self, dim: int) -> int:
        return 2 * dim

    @staticmethod
    def pack(mean: Tensor, logvar: Tensor) -> Tensor:
        return torch.cat([mean, logvar.expand_as(mean)], -1)

    @staticmethod
    def split(params: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = params.chunk(2, -1)
        return mean, logvar

    def from_raw(self, raw: Tensor, anchor: Tensor | None = None) -> Tensor:
        if anchor is None and self.link == "exp":
            return raw
        mean, logvar = self.split(raw)
        if self.link != "exp":
            std = F.softplus(logvar) if self.link == "softplus" else 2 * torch.sigmoid(logvar / 2)
            logvar = 2 * (std + self.floor).log()
        return self.pack(mean if anchor is None else anchor + torch.tanh(mean), logvar)

    def raw_at(self, mean: Tensor, variance: float) -> Tensor:
        if self.link == "exp":
            return self.pack(mean, torch.full_like(mean, math.log(variance)))
        std = max(math.sqrt(variance) - self.floor, 1e-3)
        raw = math.log(math.expm1(std)) if self.link == "softplus" else 2 * math.log(std / (2 - min(std, 1.999)))
        return self.pack(mean, torch.full_like(mean, raw))

    def shift(self, params: Tensor, change: Tensor) -> Tensor:
        mean, logvar = self.split(params)
        return self.pack(mean + change, logvar)

    def sample(self, params: Tensor, sampler: Sampler, name: str) -> Tensor:
        return sampler.normal(name, *self.split(params))

    def noise(self, like: Tensor, sampler: Sampler, name: str) -> Tensor:
        """What is random in values of the shape of ``like``, for `draw`: for many steps at once, before parameters."""
        zeros = torch.zeros_like(like)
        return sampler.normal(name, zeros, zeros)

    def draw(self, params: Tensor, noise: Tensor) -> Tensor:
        """The value that parameters and `noise` make."""
        mean, logvar = self.split(params)
        return torch.addcmul(mean, noise, torch.exp(0.5 * logvar))

    def kl(self, params: Tensor, prior: Tensor) -> Tensor:
        r"""Closed form: :math:`-\tfrac12 \sum (1 + l_1 - l_2 - e^{l_1 - l_2} - (\mu_1 - \mu_2)^2 e^{-l_2})`."""
        mean, logvar = self.split(params)
        prior_mean, prior_logvar = self.split(prior)
        ratio = logvar - prior_logvar
        return -0.5 * (1 + ratio - ratio.exp() - (mean - prior_mean) ** 2 * torch.exp(-prior_logvar)).sum(-1)

    def nll(self, params: Tensor, value: Tensor) -> Tensor:
        mean, logvar = self.split(params)
        return 0.5 * (logvar + (value - mean) ** 2 * torch.exp(-logvar) + math.log(2 * math.pi)).sum(-1)


@dataclass(frozen=True)
class Beta(Distribution):
    """Beta on (0, 1); parameters ``[a, b]``.

    ``tied=True`` leaves one degree of freedom, as in LPWM: with ``g = sigmoid(raw)``,
    ``a = low^(1-g) high^g`` and ``b = low^g high^(1-g)``, so that ``a b = low high``.
    ``tied=False`` has two: ``softplus(raw) + low`` each, or, with ``link="exp"``, ``exp(raw)`` as in DDLP.

    Attributes:
        tied, low, high: See above.
        link: What makes positive numbers of a network's output, if there are two of them.
        floor: Samples are drawn as if ``a`` and ``b`` were at least this (parameters and KL stay as they are).

    Example:
        >>> beta = Beta(tied=False, link="exp", floor=1e-5)
        >>> beta.from_raw(torch.tensor([0.0, -20.0])).tolist()[0], beta.mode(torch.tensor([1.0, 0.0])).item() < 1
        (1.0, True)
    """

    support = (0.0, 1.0)
    properties = frozenset({"beta"})

    tied: bool = True
    low: float = 1e-4
    high: float = 100.0
    link: Literal["softplus", "exp"] = "softplus"
    floor: float = 0.0

    def param_dim(self, dim: int) -> int:
        return 2 * dim

    def raw_dim(self, dim: int) -> int:
        return dim if self.tied else 2 * dim

    @staticmethod
    def split(params: Tensor) -> tuple[Tensor, Tensor]:
        a, b = params.chunk(2, -1)
        return a, b

    def from_raw(self, raw: Tensor, anchor: Tensor | None = None) -> Tensor:
        if anchor is not None:
            raise TypeError("Beta fields take no anchor")
        if not self.tied:
            return raw.exp() if self.link == "exp" else torch.nn.functional.softplus(raw) + self.low
        gate, low, high = torch.sigmoid(raw), math.log(self.low), math.log(self.high)
        return torch.cat([torch.exp((1 - gate) * low + gate * high), torch.exp(gate * low + (1 - gate) * high)], -1)

    def sample(self, params: Tensor, sampler: Sampler, name: str) -> Tensor:
        return sampler.beta(name, *self.split(params.clamp(min=self.floor) if self.floor else params))

    def kl(self, params: Tensor, prior: Tensor) -> Tensor:
        """Closed form. As upstream, 1e-5 is added inside every lgamma and digamma argument."""
        (a, b), (c, d), eps = self.split(params), self.split(prior), 1e-5

        def log_beta(p: Tensor, q: Tensor) -> Tensor:
            return torch.lgamma(p + eps) + torch.lgamma(q + eps) - torch.lgamma(p + q + eps)

        return (
            log_beta(c, d)
            - log_beta(a, b)
            + (a - c) * torch.digamma(a + eps)
            + (b - d) * torch.digamma(b + eps)
            + (c - a + d - b) * torch.digamma(a + b + eps)
        ).sum(-1)

    def nll(self, params: Tensor, value: Tensor) -> Tensor:
        return -torch.distributions.Beta(*self.split(params)).log_prob(value.clamp(1e-5, 1 - 1e-5)).sum(-1)

    def summary(self, params: Tensor) -> dict[str, Tensor]:
        """Mean ``a`` and ``b``."""
        return {f"beta_{name}": value.mean() for name, value in zip("ab", self.split(params), strict=True)}


@dataclass(frozen=True)
class Delta(Distribution):
    """A point mass: the value itself, for deterministic latents. Its "KL" is half the squared distance."""

    point = True

    def param_dim(self, dim: int) -> int:
        return dim

    def from_raw(self, raw: Tensor, anchor: Tensor | None = None) -> Tensor:
        return raw if anchor is None else anchor + torch.tanh(raw)

    def raw_at(self, mean: Tensor, variance: float) -> Tensor:
        return mean

    def shift(self, params: Tensor, change: Tensor) -> Tensor:
        return params + change

    def sample(self, params: Tensor, sampler: Sampler, name: str) -> Tensor:
        return params

    def kl(self, params: Tensor, prior: Tensor) -> Tensor:
        return 0.5 * ((params - prior) ** 2).sum(-1)

    nll = kl


@dataclass(frozen=True)
class Categorical(Distribution):
    """Choices among classes, several of them side by side in one field; parameters are logits, as a network gives them.

    A field of width ``dim`` holds ``dim / classes`` choices as one-hot numbers, or, with ``index``, ``dim`` choices by
    their numbers (int64). One-hot samples let gradients through to the probabilities (straight-through).

    Attributes:
        classes: How many.
        unimix: Share of the uniform distribution in every probability, samples, `kl` and `nll` alike.
        index: Values are numbers of classes.
    Raises:
        ConfigError: fewer than two classes, or an ``unimix`` outside of [0, 1).
    Example:
        >>> two = Categorical(classes=3)
        >>> two.sample(torch.tensor([0.0, 9.0, 0.0, 0.0, 0.0, 9.0]), MEANS, "")
        tensor([0., 1., 0., 0., 0., 1.])
        >>> two.param_dim(6), Categorical(classes=3, index=True).param_dim(2)
        (6, 6)
    """

    properties = frozenset({"categorical"})

    classes: int
    unimix: float = 0.0
    index: bool = False

    def __post_init__(self) -> None:
        if self.classes < 2 or not 0 <= self.unimix < 1:
            raise ConfigError(
                f"a choice needs at least 2 classes and an unimix in [0, 1), got {self.classes} and {self.unimix}"
            )

    @property
    def codes(self) -> bool:
        return self.index

    @property
    def support(self) -> tuple[float, float]:  # type: ignore[override]
        return (0, self.classes - 1) if self.index else (0.0, 1.0)

    def param_dim(self, dim: int) -> int:
        if not self.index and dim % self.classes:
            raise ConfigError(f"a field of one-hot choices among {self.classes} classes cannot be {dim} wide")
        return dim * self.classes if self.index else dim

    def choices(self, x: Tensor) -> Tensor:
        """Every choice in a row of its own: ``[..., choices * classes]`` -> ``[..., choices, classes]``."""
        return x.unflatten(-1, (-1, self.classes))

    def log_probs(self, params: Tensor) -> Tensor:
        """Logarithms of the probabilities, ``[..., choices, classes]``."""
        logits = self.choices(full_precision(params))
        if not self.unimix:
            return logits.log_softmax(-1)
        return ((1 - self.unimix) * logits.softmax(-1) + self.unimix / self.classes).log()

    def sample(self, params: Tensor, sampler: Sampler, name: str) -> Tensor:
        if not self.index and type(sampler).categorical is Sampler.categorical:
            return self.draw(params, self.noise(params.detach(), sampler, name))
        chosen = sampler.categorical(name, self.log_probs(params.detach()))
        return chosen if self.index else self._one_hot(params, chosen)

    def noise(self, like: Tensor, sampler: Sampler, name: str) -> Tensor:
        """What is random in one-hot values of the shape of ``like``, for `draw`: a number a choice, ``[..., choices]``.

        Of samplers that are deterministic or replay Gumbel noise, a number a class, ``[..., choices * classes]``.
        """
        like = full_precision(like)
        if sampler.deterministic or sampler.replays_gumbel:
            return sampler.gumbel(name, like).exp_()
        return sampler.uniform(name, self.choices(like)[..., 0])

    def draw(self, params: Tensor, noise: Tensor) -> Tensor:
        """The one-hot value that parameters and `noise` make."""
        logits = self.choices(full_precision(params))
        with torch.no_grad():
            probs = probabilities(logits)
            # probabilities up to a factor, which changes nothing
            shares = probs + self.unimix / self.classes / (1 - self.unimix) if self.unimix else probs
            if noise.shape[-1] == params.shape[-1]:
                chosen = (shares * self.choices(noise)).argmax(-1)
            else:
                chosen = pick(shares, noise)
        return self._one_hot(params, chosen, probs)

    def _one_hot(self, params: Tensor, chosen: Tensor, probs: Tensor | None = None) -> Tensor:
        logits = self.choices(full_precision(params))
        if not torch.is_grad_enabled() or not logits.requires_grad:
            return _one_hot(logits, chosen).flatten(-2)
        probs = probabilities(logits.detach()) if probs is None else probs
        return _StraightThrough.apply(logits, probs, chosen, 1 - self.unimix).flatten(-2)

    def kl(self, params: Tensor, prior: Tensor) -> Tensor:
        log_p, log_q = self.log_probs(params), self.log_probs(prior)
        return (log_p.exp() * (log_p - log_q)).sum((-2, -1))

    def nll(self, params: Tensor, value: Tensor) -> Tensor:
        log_p = self.log_probs(params)
        if self.index:
            return -log_p.gather(-1, value[..., None])[..., 0].sum(-1)
        return -(log_p * self.choices(value)).sum((-2, -1))

    def entropy(self, params: Tensor) -> Tensor:
        """In nats, summed over the field: ``[...]``."""
        log_p = self.log_probs(params)
        return -(log_p.exp() * log_p).sum((-2, -1))


def _one_hot(like: Tensor, chosen: Tensor) -> Tensor:
    return torch.zeros_like(like).scatter_(-1, chosen[..., None], 1.0)


class _StraightThrough(torch.autograd.Function):
    """One-hot of ``chosen``; backward, the gradient of ``share * softmax(logits)``, whose softmax is ``probs``."""

    @staticmethod
    def forward(ctx, logits: Tensor, probs: Tensor, chosen: Tensor, share: float) -> Tensor:
        ctx.save_for_backward(probs)
        ctx.share = share
        return _one_hot(probs, chosen)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        probs, = ctx.saved_tensors
        inner = probs * grad
        return inner.addcmul_(probs, inner.sum(-1, keepdim=True), value=-1).mul_(ctx.share), None, None, None


@dataclass(frozen=True)
class Mixture(Distribution):
    r"""A mixture of Gaussians for every number of a field by itself; parameters ``[logits, means, logvars]``.

    Each of the three holds ``components`` numbers for every number of the field, one number after the other. The mode
    is the mean of the likeliest component. A `kl` has no closed form; it is an upper bound, the lesser of two for every
    number: components held against those of the same place, which is 0 for equal mixtures, and

    .. math:: -\sum_a \pi_a \log \sum_b \omega_b e^{-KL(f_a \| g_b)},

    in which every component chooses whom it is like: of use where ``params`` are one Gaussian's (`of_normal`). For one
    component each it is exact.

    Attributes:
        components: Gaussians of a mixture.
    Raises:
        ConfigError: no component.
    Source:
        MDN-RNN (Ha and Schmidhuber, arXiv:1809.01999), whose last layer this reads; Hershey and Olsen (2007,
        "Approximating the Kullback Leibler divergence between Gaussian mixture models"), section 8, for the bounds.
    Example:
        >>> mixture = Mixture(components=2)
        >>> params = mixture.pack(torch.tensor([[0.0, 3.0]]), torch.tensor([[-1.0, 5.0]]), torch.zeros(1, 2))
        >>> params.shape, mixture.mode(params)
        (torch.Size([6]), tensor([5.]))
    """

    properties = frozenset({"mixture"})

    components: int = 5

    def __post_init__(self) -> None:
        if self.components < 1:
            raise ConfigError(f"a mixture has at least 1 component, got {self.components}")

    def param_dim(self, dim: int) -> int:
        return 3 * self.components * dim

    @staticmethod
    def pack(logits: Tensor, means: Tensor, logvars: Tensor) -> Tensor:
        """``[..., dim, components]`` each -> parameters."""
        return torch.cat([x.flatten(-2) for x in (logits, means, logvars)], -1)

    def split(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, means and log-variances, ``[..., dim, components]`` each."""
        logits, means, logvars = (x.unflatten(-1, (-1, self.components)) for x in params.chunk(3, -1))
        return logits, means, logvars

    def of_normal(self, params: Tensor) -> Tensor:
        """The same distribution as a `Normal` field's parameters describe: all components are that one."""
        mean, logvar = (x[..., None].expand(*x.shape, self.components) for x in Normal.split(params))
        return self.pack(torch.zeros_like(mean), mean, logvar)

    def heated(self, params: Tensor, temperature: float) -> Tensor:
        """Less certain (above 1) or more: logits are divided by the temperature, variances multiplied."""
        logits, means, logvars = self.split(params)
        return self.pack(logits / temperature, means, logvars + math.log(temperature))

    def shift(self, params: Tensor, change: Tensor) -> Tensor:
        logits, means, logvars = self.split(params)
        return self.pack(logits, means + change[..., None], logvars)

    def sample(self, params: Tensor, sampler: Sampler, name: str) -> Tensor:
        logits, means, logvars = self.split(params)
        chosen = sampler.categorical(f"{name}.component", full_precision(logits))[..., None]
        return sampler.normal(name, *(x.gather(-1, chosen)[..., 0] for x in (means, logvars)))

    def nll(self, params: Tensor, value: Tensor) -> Tensor:
        logits, means, logvars = self.split(full_precision(params))
        fits = -0.5 * (logvars + (value[..., None] - means).square() * (-logvars).exp() + math.log(2 * math.pi))
        return -(logits.log_softmax(-1) + fits).logsumexp(-1).sum(-1)

    def kl(self, params: Tensor, prior: Tensor) -> Tensor:
        (p, mean, logvar), (q, means, logvars) = (self.split(full_precision(x)) for x in (params, prior))
        p, q = p.log_softmax(-1), q.log_softmax(-1)
        ratio = logvar[..., None] - logvars[..., None, :]
        apart = (mean[..., None] - means[..., None, :]).square() * (-logvars[..., None, :]).exp()
        divergence = -0.5 * (1 + ratio - ratio.exp() - apart)  # [..., dim, components, components of the prior]
        matched = p - q + divergence.diagonal(dim1=-2, dim2=-1)
        chosen = -(q[..., None, :] - divergence).logsumexp(-1)
        both = [(p.exp() * x).sum(-1) for x in (matched, chosen)]
        return torch.minimum(*both).sum(-1)
