"""DiffuseDDLP's prior: the latents of the first frames are denoised together, all tokens of all frames at once.

Latents become tokens of one width (`TokenLayout`), every column of which is scaled to the training set's range
(`SetScaler`); a denoiser (`worldkit.nn.joint_denoiser`), a schedule and a sampler (`worldkit.nn.diffusion`) are
separate objects. The loss is a mean over all entries, padding included, in which the error of padding counts as zero
(as upstream: a constant factor).

The statistics of the training set are buffers. ``worldkit train`` makes one pass over all training clips before the
first step (`DiffusionPrior.measure`); in a training loop of your own without that, the batches seen so far count.

Three things upstream does, none of which the options do unless asked: frames see earlier frames only (``causal``);
dropout is active while sampling (``sampling_dropout``); and the padding columns of narrower tokens carry noise and,
while sampling, answers that nothing has trained (``noisy_padding``). The presets ``diffuse-ddlp-*`` ask for all three,
and converted checkpoints are sampled so.

Source: DDLP (arXiv:2306.05957), section on DiffuseDDLP; upstream github.com/taldatech/ddlp @ 5686275, written from its
description. The paper predicts epsilon with a squared error; the shipped configuration x0 with an absolute one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..batch import check_shape
from ..distributions import Sampler, full_precision
from ..latents import Latent, LatentSpec
from ..nn.diffusion import SAMPLERS, CosineSteps, denoise, target_value
from ..nn.joint_denoiser import JointDenoiser
from ..nn.standardize import SetScaler
from .base import Prior, PriorConfig, Sampling
from .tokens import TokenLayout


class DiffusionPriorConfig(PriorConfig):
    """Options of the diffusion prior.

    Attributes:
        frames: First frames of a video that are drawn together.
        dim: Token width; even.
        num_layers, num_heads: Of the denoiser's transformer.
        dropout: On attention weights and after every projection.
        steps: Steps from data to noise, on the cosine schedule.
        target: What the network predicts: ``"x0"`` (the data), ``"epsilon"`` (the noise), or ``"v"`` (the velocity).
        loss: ``"l1"`` or ``"l2"``.
        normalize: ``"minmax"``, to the range of the training set, or ``"standard"``, to mean 0 and deviation 1.
        clamp: While sampling, data are kept between minus this and this, in normalised units; None: they are not. Left
            out: 1 with ``"minmax"``, None with ``"standard"``.
        sampler: ``"ddpm"`` (ancestral) or ``"ddim"`` (no noise on the way).
        sampling_steps: Steps taken while sampling; None: all.
        causal: A frame sees itself and earlier ones only, as upstream.
        noisy_padding: Columns that a token does not use carry noise, too, as upstream.
        sampling_dropout: Dropout stays on while sampling, as in upstream's generation script.
    """

    name: str = "diffusion"
    frames: int = Field(default=4, gt=0)
    dim: int = Field(default=256, gt=0, multiple_of=2)
    num_layers: int = Field(default=6, gt=0)
    num_heads: int = Field(default=8, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    steps: int = Field(default=1000, gt=0)
    target: Literal["x0", "epsilon", "v"] = "x0"
    loss: Literal["l1", "l2"] = "l1"
    normalize: Literal["minmax", "standard"] = "minmax"
    clamp: float | None = Field(default=1.0, gt=0)
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    sampling_steps: int | None = Field(default=None, gt=0)
    causal: bool = False
    noisy_padding: bool = False
    sampling_dropout: bool = False

    @model_validator(mode="before")
    @classmethod
    def _no_clamp(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("normalize") == "standard" and "clamp" not in data:
            return {**data, "clamp": None}
        return data

    @model_validator(mode="after")
    def _check(self) -> DiffusionPriorConfig:
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} must be a multiple of num_heads {self.num_heads}")
        if self.sampling_steps is not None and self.sampling_steps > self.steps:
            raise ValueError(f"sampling_steps {self.sampling_steps} must not be more than steps {self.steps}")
        return self


class DiffusionPrior(Prior):
    """Denoising of the first frames.

    Attributes:
        sampling: A `worldkit.priors.base.Sampling`. Replace it to trade quality for time:
            ``model.prior.sampling = Sampling("ddim", steps=50)``.
    Example:
        >>> from worldkit.testing import example_latent, example_spec
        >>> config = DiffusionPriorConfig(frames=2, dim=8, num_heads=2, num_layers=1, steps=10)
        >>> prior = DiffusionPrior(config, spec=example_spec())
        >>> prior.loss(example_latent(example_spec(), batch=3, time=2), Sampler())["denoising"].shape
        torch.Size([3])
        >>> prior.eval().sample(3, Sampler()).position.shape
        torch.Size([3, 2, 5, 2])
    """

    Config = DiffusionPriorConfig
    requires = frozenset({"continuous"})
    config: DiffusionPriorConfig

    def __init__(self, config: DiffusionPriorConfig, *, spec: LatentSpec):
        super().__init__(config, spec=spec)
        self.layout = TokenLayout(spec)
        self.scale = SetScaler(self.layout.sizes, self.layout.fields, kind=config.normalize)
        self.network = JointDenoiser(
            width=self.layout.width, dim=config.dim, num_layers=config.num_layers, num_heads=config.num_heads,
            max_frames=config.frames, num_tokens=spec.num_tokens, dropout=config.dropout, causal=config.causal,
        )
        used = torch.cat([row.expand(n, -1) for row, n in zip(self.layout.used, self.layout.sizes, strict=True)])
        self.register_buffer("used", used, persistent=False)  # [N, width], 1 where not padding
        self.schedule = CosineSteps(config.steps)
        self.sampling = Sampling(config.sampler, config.sampling_steps or config.steps)

    def measure(self, latents: Iterable[Latent]) -> None:
        """Statistics of the training set: one pass, exact in any order; they stay as they are afterwards."""
        if self.scale.settled:
            return
        for z in latents:
            self.scale.update(self._packed(z))
        self.scale.settled.fill_(True)

    def loss(self, z: Latent, sampler: Sampler) -> dict[str, Tensor]:
        """Mean error of the network's answer over all entries of a clip, in normalised units."""
        if sampler.deterministic:  # a loss needs noise: the same every time, so that losses can be compared
            sampler = Sampler(generator=torch.Generator(z.presence.device).manual_seed(0))
        packed = self._packed(z)
        if self.training:
            self.scale.update(packed)  # unless the whole training set has been measured
        data = self.scale(packed)
        number = (sampler.uniform("prior.step", data[:, 0, 0, 0]) * self.config.steps).long() + 1
        return {"denoising": self.error(data, number, self._noise(data, sampler))}

    def error(self, data: Tensor, number: Tensor, noise: Tensor) -> Tensor:
        """Mean error per clip, ``[B]``.

        Args:
            data: Normalised tokens ``[B, frames, N, width]``.
            number: Step after which they are seen, 1 to ``steps``, ``[B]``.
            noise: As ``data``.
        """
        time = (number / self.schedule.steps).to(data)[:, None, None, None]
        answer = self.answer(self.schedule.mix(data, noise, time), number)
        target = target_value(self.config.target, self.schedule, data, noise, time)
        off = (answer - target) * self.used
        return (off.abs() if self.config.loss == "l1" else off.square()).mean((1, 2, 3))

    def answer(self, noisy: Tensor, number: Tensor) -> Tensor:
        """What the network says about noisy tokens ``[B, frames, N, width]`` after step ``number`` ``[B]``."""
        said = full_precision(self.network(noisy, number - 1))  # the network counts steps from 0
        return said if self.config.noisy_padding else said * self.used

    def denoised(self, noisy: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """(data, noise) that the network finds in noisy tokens at a time, a scalar in (0, 1]; data are clamped."""
        answer = self.answer(noisy, self.schedule.number(time).to(noisy.device).expand(len(noisy)))
        data, noise = denoise(self.config.target, self.schedule, noisy, answer, time)
        if self.config.clamp is None:
            return data, noise
        data = data.clamp(-self.config.clamp, self.config.clamp)
        return data, (noisy - self.schedule.alpha(time) * data) / self.schedule.sigma(time)

    def sample(self, batch_size: int, sampler: Sampler) -> Latent:
        """First frames of videos. A deterministic sampler asks for the path that starts at zero noise and adds none."""
        like = next(self.parameters())
        noise = self._noise(like.new_zeros(batch_size, self.config.frames, *self.used.shape), sampler)
        walk = SAMPLERS[self.sampling.sampler](self.schedule)
        with self._dropping_out(sampler):
            tokens = walk.sample(self.denoised, noise, self.sampling.steps, sampler)
        return self.layout.unpack(self.scale.inverse(tokens)).bounded()

    def _packed(self, z: Latent) -> Tensor:
        z = z.detach()
        packed = full_precision(self.layout.pack(z))
        check_shape(packed, "b t n d", name="latents of first frames", t=self.config.frames, n=self.spec.num_tokens)
        return packed

    def _noise(self, like: Tensor, sampler: Sampler) -> Tensor:
        zero = torch.zeros_like(like)
        noise = sampler.normal("prior.noise", zero, zero)
        return noise if self.config.noisy_padding else noise * self.used

    @contextmanager
    def _dropping_out(self, sampler: Sampler) -> Iterator[None]:
        """Dropout on, with random numbers that follow from the sampler's, if the options say so."""
        if not self.config.sampling_dropout or sampler.deterministic:
            yield
            return
        was_training, device = self.network.training, self.used.device
        seed = int(2**40 * sampler.uniform("prior.dropout", self.used.new_zeros(1, dtype=torch.float64)).item())
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            self.network.train()
            try:
                yield
            finally:
                self.network.train(was_training)
