r"""The prior of image DiT: the map that a picture became is denoised by a transformer over its patches.

It draws any latent on a grid: of an autoencoder (encoder ``patch``, or ``pretrained``, as in the paper), or the pixels
themselves (encoder ``identity``). All fields of a place, all views and all frames drawn together are its channels.

The network predicts the noise, and, with ``learn_variance``, how much noise a step back needs. The loss is then the
hybrid one of improved DDPM: the squared error of the noise, which alone teaches the noise, and a thousandth of the
variational bound, which alone teaches the variance,

.. math:: \|\epsilon - \hat\epsilon\|^2 + \lambda K \, L_k, \qquad \lambda = 0.001,

with :math:`L_k` the divergence of one of K steps, in bits per number.

Classes, where a data set has them, are told to `DiTPrior.loss` and `DiTPrior.sample`; a share of them is hidden while
the network learns, so that it can be asked to follow a class more than it would (classifier-free guidance).

Source: DiT (arXiv:2212.09748), written from the paper; DDPM (2006.11239), improved DDPM (2102.09672), classifier-free
guidance (2207.12598). Difference: guidance concerns all channels (the official code's default guides the first three).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor

from ..batch import check_shape
from ..distributions import Sampler, full_precision
from ..errors import ConfigError, IncompatibleComponentsError
from ..latents import Latent, LatentSpec
from ..nn.diffusion import SAMPLERS, STEP_SCHEDULES, denoise, learned_logvar, target_value
from ..nn.image_dit import ImageDiT
from ..nn.standardize import SetScaler
from .base import Prior, PriorConfig, Sampling
from .tokens import TokenLayout


class DiTPriorConfig(PriorConfig):
    """Options of the image DiT; the defaults are those of DiT-S/2.

    Attributes:
        patch_size: Side of a token, in places of the latent's grid.
        dim: Token width; a multiple of 4.
        num_layers, num_heads: Of the transformer.
        num_classes: Classes that the data tell; 0: none.
        label_dropout: Share of the labels that is hidden in training; 0: guidance cannot be asked for.
        steps: Steps from data to noise.
        schedule: ``"linear"`` (DDPM, DiT) or ``"cosine"`` (improved DDPM).
        target: What the network predicts: ``"epsilon"`` (the noise), ``"x0"``, or ``"v"``.
        learn_variance: The network also says how much noise a step back needs.
        bound_weight: Of the variational bound, which teaches that.
        normalize: Bring the latent to mean 0 and deviation 1, or to -1 .. 1, over the training set; ``"none"``: it is
            so already, as pixels are.
        clamp: While sampling, data are kept between minus this and this, in normalised units; None: they are not.
        sampler: ``"ddpm"`` (ancestral) or ``"ddim"`` (no noise on the way).
        sampling_steps: Steps taken while sampling; None: all.
    """

    name: str = "dit"
    patch_size: int = Field(default=2, gt=0)
    dim: int = Field(default=384, gt=0, multiple_of=4)
    num_layers: int = Field(default=12, gt=0)
    num_heads: int = Field(default=6, gt=0)
    num_classes: int = Field(default=0, ge=0)
    label_dropout: float = Field(default=0.1, ge=0, lt=1)
    steps: int = Field(default=1000, gt=0)
    schedule: Literal["linear", "cosine"] = "linear"
    target: Literal["epsilon", "x0", "v"] = "epsilon"
    learn_variance: bool = True
    bound_weight: float = Field(default=1e-3, ge=0)
    normalize: Literal["none", "standard", "minmax"] = "standard"
    clamp: float | None = Field(default=None, gt=0)
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    sampling_steps: int | None = Field(default=250, gt=0)

    @model_validator(mode="after")
    def _check(self) -> DiTPriorConfig:
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} must be a multiple of num_heads {self.num_heads}")
        if self.sampling_steps is not None and self.sampling_steps > self.steps:
            raise ValueError(f"sampling_steps {self.sampling_steps} must not be more than steps {self.steps}")
        return self


@dataclass(frozen=True)
class Guided(Sampling):
    """How pictures are drawn.

    Attributes:
        guidance: How far to go from "any class" to the class that is asked for; 1: as the network says.
    """

    guidance: float = 1.0


class DiTPrior(Prior):
    """Denoising of maps; see the module's docstring.

    Attributes:
        sampling: A `Guided`; replace it to trade quality for time, as of prior ``diffusion``.
    Example:
        >>> from worldkit.testing import example_latent, example_spec
        >>> spec = example_spec(kind="patches")
        >>> prior = DiTPrior(DiTPriorConfig(dim=8, num_heads=2, num_layers=1, steps=10, sampling_steps=3), spec=spec)
        >>> {name: x.shape for name, x in prior.loss(example_latent(spec, batch=3, time=1), Sampler()).items()}
        {'noise': torch.Size([3]), 'bound': torch.Size([3])}
        >>> prior.eval().sample(3, Sampler()).features.shape
        torch.Size([3, 1, 16, 3])
    """

    Config = DiTPriorConfig
    config: DiTPriorConfig
    requires = frozenset({"grid", "continuous"})

    def __init__(self, config: DiTPriorConfig, *, spec: LatentSpec):
        super().__init__(config, spec=spec)
        self.grid = _grid(config, spec)
        self.layout = TokenLayout(spec)
        self.channels = config.frames * spec.views * self.layout.width
        self.scale = None
        if config.normalize != "none":
            self.scale = SetScaler(self.layout.sizes, self.layout.fields, kind=config.normalize)
        self.network = ImageDiT(
            *self.grid, channels=self.channels, outputs=(1 + config.learn_variance) * self.channels,
            patch_size=config.patch_size, dim=config.dim, num_layers=config.num_layers, num_heads=config.num_heads,
            num_classes=config.num_classes, null_class=config.label_dropout > 0,
        )
        self.schedule = STEP_SCHEDULES[config.schedule](config.steps)
        self.sampling = Guided(config.sampler, config.sampling_steps or config.steps)

    # -- between latents and maps

    def maps(self, z: Latent) -> Tensor:
        """Latents ``[B, frames]`` -> maps ``[B, C, H, W]``, as they are."""
        packed = full_precision(self.layout.pack(z.detach()))
        check_shape(packed, "b t n d", name="latents of first frames", t=self.config.frames, n=self.spec.num_tokens)
        return self._maps(packed if self.scale is None else self.scale(packed))

    def _maps(self, packed: Tensor) -> Tensor:
        return rearrange(packed, "b t (v h w) d -> b (t v d) h w", h=self.grid[0], w=self.grid[1])

    def latent(self, maps: Tensor) -> Latent:
        """Inverse of `maps`."""
        packed = rearrange(maps, "b (t v d) h w -> b t (v h w) d", t=self.config.frames, v=self.spec.views)
        return self.layout.unpack(packed if self.scale is None else self.scale.inverse(packed)).bounded()

    def measure(self, latents: Iterable[Latent]) -> None:
        if self.scale is None or self.scale.settled:
            return
        for z in latents:
            self.scale.update(full_precision(self.layout.pack(z.detach())))
        self.scale.settled.fill_(True)

    # -- training

    def loss(self, z: Latent, sampler: Sampler, *, label: Tensor | None = None) -> dict[str, Tensor]:
        """``"noise"``, the squared error, a mean over all numbers; with ``learn_variance`` ``"bound"``, weighted.

        Args:
            z, sampler: As of `Prior.loss`.
            label: Classes, int64 ``[B]``.
        """
        if sampler.deterministic:  # a loss needs noise: the same every time, so that losses can be compared
            sampler = Sampler(generator=torch.Generator(z.presence.device).manual_seed(0))
        if self.training and self.scale is not None:
            self.scale.update(full_precision(self.layout.pack(z.detach())))  # unless the whole set has been measured
        data = self.maps(z)
        number = (sampler.uniform("prior.step", data[:, 0, 0, 0]) * self.config.steps).long() + 1
        zero = torch.zeros_like(data)
        noise = sampler.normal("prior.noise", zero, zero)
        if label is not None and self.training and self.config.label_dropout:
            hidden = sampler.uniform("prior.label", data[:, 0, 0, 0]) < self.config.label_dropout
            label = label.masked_fill(hidden, self.config.num_classes)
        return self.error(data, number, noise, label)

    def error(self, data: Tensor, number: Tensor, noise: Tensor, label: Tensor | None = None) -> dict[str, Tensor]:
        """The terms of `loss`, per picture ``[B]``.

        Args:
            data: Normalised maps ``[B, C, H, W]``.
            number: Step after which they are seen, 1 to ``steps``, ``[B]``.
            noise: As ``data``.
            label: Classes, ``[B]``.
        """
        now = (number.double() / self.schedule.steps)[:, None, None, None]
        time = now.to(data)
        noisy = self.schedule.mix(data, noise, time)
        said, share = self.answer(noisy, number, label)
        off = said - target_value(self.config.target, self.schedule, data, noise, time)
        terms = {"noise": off.square().mean((1, 2, 3))}
        if share is not None:
            found = denoise(self.config.target, self.schedule, noisy, said.detach(), time)[0]
            bound = _bound(self.schedule, data, noisy, found, share, now)
            terms["bound"] = self.config.bound_weight * self.schedule.steps * bound.mean((1, 2, 3))
        return terms

    def answer(self, noisy: Tensor, number: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """What the network says of maps after step ``number`` ``[B]``, and its share of the variance, if it has one."""
        said = full_precision(self.network(noisy, number - 1, self._known(label)))  # the network counts from 0
        if not self.config.learn_variance:
            return said, None
        said, share = said.chunk(2, 1)
        return said, (share + 1) / 2

    def _known(self, label: Tensor | None) -> Tensor | None:
        if label is not None and not self.config.num_classes:
            raise ConfigError("this prior knows no classes: prior.num_classes=... , or leave label= out")
        if label is None and self.config.num_classes and not self.config.label_dropout:
            raise ConfigError("this prior was not trained without labels: give label=, int64 [B], or train it with "
                              "prior.label_dropout=0.1")
        return label

    # -- sampling

    def denoised(self, noisy: Tensor, time: Tensor, label: Tensor | None = None) -> tuple[Tensor, ...]:
        """(data, noise, share of the variance if there is one) at a time, a scalar in (0, 1]; data are clamped."""
        number = self.schedule.number(time).to(noisy.device).expand(len(noisy))
        said, share = self.answer(noisy, number, label)
        if label is not None and self.sampling.guidance != 1:
            said = torch.lerp(self.answer(noisy, number)[0], said, self.sampling.guidance)
        data, noise = denoise(self.config.target, self.schedule, noisy, said, time)
        if self.config.clamp is not None:
            data = data.clamp(-self.config.clamp, self.config.clamp)
            noise = (noisy - self.schedule.alpha(time) * data) / self.schedule.sigma(time)
        return (data, noise) if share is None else (data, noise, share)

    def sample(self, batch_size: int, sampler: Sampler, *, label: Tensor | None = None) -> Latent:
        """Pictures. A deterministic sampler asks for the path that starts at zero noise and adds none.

        Args:
            batch_size, sampler: As of `Prior.sample`.
            label: Classes, int64 ``[batch_size]``; None: any.
        """
        like = next(self.parameters())
        zero = like.new_zeros(batch_size, self.channels, *self.grid)
        walk = SAMPLERS[self.sampling.sampler](self.schedule)
        noise = sampler.normal("prior.noise", zero, zero)
        return self.latent(walk.sample(lambda x, t: self.denoised(x, t, label), noise, self.sampling.steps, sampler))


def _grid(config: DiTPriorConfig, spec: LatentSpec) -> tuple[int, int]:
    """Height and width of the latent's grid.

    Raises:
        IncompatibleComponentsError: something lies beside the grid, or patches do not divide it.
    """
    assert spec.grid is not None  # required
    if len(spec.groups) > 1:
        raise IncompatibleComponentsError(
            f"prior 'dit' draws tokens on a grid alone, and this latent has {', '.join(g.name for g in spec.groups)}: "
            "prior=diffusion draws them all")
    height, width = spec.grid
    if height % config.patch_size or width % config.patch_size:
        fits = [p for p in range(1, min(height, width) + 1) if not height % p and not width % p]
        raise IncompatibleComponentsError(
            f"patches of prior.patch_size {config.patch_size} do not divide a grid of {height} x {width}; patch sizes "
            f"that do: {', '.join(map(str, fits))}")
    return height, width


def _bound(schedule, data: Tensor, noisy: Tensor, found: Tensor, share: Tensor, now: Tensor) -> Tensor:
    """A step's part of the variational bound in bits, for every number; of step 1 the surprise at the data.

    Args:
        schedule: Of whole steps.
        data, noisy: The truth, and what is seen of it.
        found: The data as the network sees them, without a graph.
        share: Its share of the variance.
        now: The time, float64 ``[B, 1, 1, 1]``.
    """
    then = now - 1 / schedule.steps
    of_noisy, of_data, _ = (x.to(data) for x in schedule.posterior(now, then))
    logvar = learned_logvar(schedule, now, then, share.double()).to(data)
    true_logvar = learned_logvar(schedule, now, then, torch.zeros_like(now)).to(data)
    apart = of_data * (data - found)  # of the means
    kl = 0.5 * (logvar - true_logvar - 1 + (true_logvar - logvar).exp() + apart.square() * (-logvar).exp())
    surprise = _surprise(data, of_noisy * noisy + of_data * found, 0.5 * logvar)
    return torch.where(now * schedule.steps < 1.5, surprise, kl) / math.log(2)


def _surprise(data: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Negative log-likelihood in nats of numbers that were rounded to 256 levels between -1 and 1, of a Gaussian."""
    off, rate = data - mean, (-log_std).exp()
    above, below = (torch.special.ndtr(rate * (off + step)) for step in (1 / 255, -1 / 255))
    inside = torch.where(data < -0.999, above, torch.where(data > 0.999, 1 - below, above - below))
    return -inside.clamp(min=1e-12).log()
