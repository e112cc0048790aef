"""Distributions of latent fields: the description lives in a spec, the parameters in plain tensors.

A `Distribution` describes one field ("a Normal", "a Beta with one degree of freedom"); its parameters are ONE tensor
whose last axis holds all of them, so slicing, concatenating and moving parameters needs no knowledge of the kind.
Randomness enters only through a `Sampler`, so that one code path serves training, deterministic evaluation, seeded
generation and the replay of recorded noise in parity tests.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .errors import ShapeError


class Sampler:
    """Where every random draw of a model comes from.

    A component that draws asks the sampler it was given, never ``torch.rand``: then seeds, deterministic evaluation
    and training that does not depend on the number of processes work for it, too.

    Args:
        deterministic: Return means instead of samples (Gaussian mean, Beta mean ``a / (a + b)``, the likeliest class).
        generator: Source of randomness; the global one if absent.

    Subclass it to replay recorded noise: ``name`` says which draw is asked for
    (``"position"``, ``"scale"``, ``"transparency"``, ``"latent_action.posterior"``, ...).

    Example:
        >>> logits = torch.tensor([[0.1, 0.7, 0.2]]).log().expand(100_000, 3)
        >>> classes = Sampler(generator=torch.Generator().manual_seed(0)).categorical("kind", logits)
        >>> round((classes == 1).float().mean().item(), 2)
        0.7
        >>> Sampler(deterministic=True).categorical("kind", logits)[:2]
        tensor([1, 1])
    """

    def __init__(self, *, deterministic: bool = False, generator: torch.Generator | None = None):
        self.deterministic = deterministic
        self.generator = generator

    def normal(self, name: str, mean: Tensor, logvar: Tensor) -> Tensor:
        """Reparameterised draw ``mean + eps * exp(logvar / 2)``; any shape."""
        if self.deterministic:
            return mean
        return mean + self._draw(torch.randn, mean) * torch.exp(0.5 * logvar)

    def beta(self, name: str, a: Tensor, b: Tensor) -> Tensor:
        """Reparameterised draw from Beta(a, b); any shape."""
        if self.deterministic:
            return a / (a + b)
        return self._dirichlet(torch.stack([a, b], -1))[..., 0]

    def uniform(self, name: str, like: Tensor) -> Tensor:
        """Uniform numbers in [0, 1) of the shape of ``like``; 0.5 if deterministic."""
        return torch.full_like(like, 0.5) if self.deterministic else self._draw(torch.rand, like)

    def gumbel(self, name: str, like: Tensor) -> Tensor:
        """Standard Gumbel noise of the shape of ``like``; zeros if deterministic.

        The largest entry of ``logits + noise`` is a draw from ``softmax(logits)``; its softmax is a relaxed one.
        """
        return torch.zeros_like(like) if self.deterministic else self._draw(_gumbel, like)

    def categorical(self, name: str, logits: Tensor) -> Tensor:
        """Class drawn from ``softmax(logits)``, or the likeliest if deterministic: ``[..., classes]`` -> ``[...]``.

        Whole numbers (int64) without gradient; `Distribution.sample` of a field of classes makes of them what the
        field holds.
        """
        logits = full_precision(logits.detach())
        return (logits + self.gumbel(name, logits)).argmax(-1)

    def _draw(self, kind: Callable[..., Tensor], like: Tensor) -> Tensor:
        return kind(like.shape, generator=self.generator, device=like.device, dtype=like.dtype)

    def _dirichlet(self, concentration: Tensor) -> Tensor:
        return _DirichletSample.apply(concentration, self.generator)


def _gumbel(shape: torch.Size, **options: Any) -> Tensor:
    generator = options.pop("generator")
    return -torch.empty(shape, **options).exponential_(generator=generator).log()


class ClipSampler(Sampler):
    """Noise that every clip of a batch draws from a generator of its own, seeded by (seed, step, number of the clip).

    A training step then does not depend on how its clips are spread over processes and micro-batches. The first axis
    of everything drawn must be the batch, or start with it: ``[B, ...]`` or ``[(B T), ...]``.

    Args:
        seed: Of the run.
        step: Training step.
        clips: Numbers of the clips within the step.
        device: Where the noise is drawn.
    Example:
        >>> one = ClipSampler(0, 7, [0, 1]).normal("x", torch.zeros(2, 3), torch.zeros(2, 3))
        >>> two = ClipSampler(0, 7, [1]).normal("x", torch.zeros(1, 3), torch.zeros(1, 3))
        >>> torch.equal(one[1:], two)
        True
    """

    def __init__(self, seed: int, step: int, clips: Sequence[int], device: torch.device | str = "cpu"):
        super().__init__()
        self.generators = []
        for clip in clips:
            digest = hashlib.sha256(f"{seed}:{step}:{clip}".encode()).digest()
            self.generators.append(torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big")))

    def _per_clip(self, x: Tensor, draw: Callable[[Tensor, torch.Generator], Tensor]) -> Tensor:
        rows, rest = divmod(x.shape[0], len(self.generators))
        if rest:
            raise ShapeError(
                f"the first axis of a draw must start with the batch: {x.shape[0]} rows for "
                f"{len(self.generators)} clips"
            )
        return torch.cat([draw(part, g) for part, g in zip(x.split(rows), self.generators, strict=True)])

    def _draw(self, kind: Callable[..., Tensor], like: Tensor) -> Tensor:
        return self._per_clip(like, lambda x, g: kind(x.shape, generator=g, device=x.device, dtype=x.dtype))

    def _dirichlet(self, concentration: Tensor) -> Tensor:
        return self._per_clip(concentration, _DirichletSample.apply)


MEANS = Sampler(deterministic=True)


def full_precision(x: Tensor) -> Tensor:
    """float16 and bfloat16 (what autocast leaves behind) -> float32; others as they are.

    Parameters of distributions go through this: samples and KLs in half precision would be noise.
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class _DirichletSample(torch.autograd.Function):
    """`torch.distributions.Dirichlet.rsample` with a generator."""

    @staticmethod
    def forward(ctx, concentration: Tensor, generator: torch.Generator | None) -> Tensor:
        sample = torch._sample_dirichlet(concentration, generator=generator)
        ctx.save_for_backward(sample, concentration)
        return sample

    @staticmethod
    def backward(ctx, grad: Tensor):
        sample, concentration = ctx.saved_tensors
        total = concentration.sum(-1, keepdim=True).expand_as(concentration)
        inner = torch._dirichlet_grad(sample, concentration, total)
        return inner * (grad - (sample * grad).sum(-1, keepdim=True)), None


class Distribution(ABC):
    """Description of the distribution of one field of width ``dim``. Subclasses are frozen dataclasses.

    Everything that depends on what the parameters mean is said here; components ask, and never look at the type. What a
    plugin has to write, and what it may leave out, is in docs/distributions.md.

    Attributes:
        support: Values lie between these two numbers.
        point: A value without a spread: no density, `kl` and `nll` are half squared distances.
        properties: What a dynamics may require of all fields: ``"normal"``, parameters are ``[mean, logvar]``;
            ``"beta"``, they are ``[a, b]``.
    """

    support: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    point: ClassVar[bool] = False
    properties: ClassVar[frozenset[str]] = frozenset()

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
    """Diagonal Gaussian; parameters ``[mean, logvar]``."""

    properties = frozenset({"normal"})

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
        if anchor is None:
            return raw
        mean, logvar = self.split(raw)
        return self.pack(anchor + torch.tanh(mean), logvar)

    def raw_at(self, mean: Tensor, variance: float) -> Tensor:
        return self.pack(mean, torch.full_like(mean, math.log(variance)))

    def shift(self, params: Tensor, change: Tensor) -> Tensor:
        mean, logvar = self.split(params)
        return self.pack(mean + change, logvar)

    def sample(self, params: Tensor, sampler: Sampler, name: str) -> Tensor:
        return sampler.normal(name, *self.split(params))

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
