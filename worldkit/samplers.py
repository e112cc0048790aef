"""Where randomness comes from: `Sampler`, one that every clip of a batch has for itself, and one that gives means."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

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

    def on(self, device: torch.device | str) -> Sampler:
        """This one, or, where its generator draws on another device, one that draws there, seeded by it."""
        device = torch.device(device)
        if type(self) is not Sampler or self.generator is None or self.generator.device.type == device.type:
            return self
        seed = torch.randint(2**62, (), generator=self.generator, device=self.generator.device)
        return Sampler(deterministic=self.deterministic, generator=torch.Generator(device).manual_seed(int(seed)))

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
        if self.deterministic or self.replays_gumbel:
            return (logits + self.gumbel(name, logits)).argmax(-1)
        return pick(probabilities(logits), self.uniform(name, logits[..., 0]))

    def shared(self, name: str, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape of ``like`` that belong to no clip, but to the whole batch.

        Any first axis will do; every process of a training draws the same. Deterministic: always the same ones.
        """
        if self.deterministic:
            return _seeded_normal(0, like)
        return self.normal(name, torch.zeros_like(like), torch.zeros_like(like))

    @property
    def replays_gumbel(self) -> bool:
        """Whether a subclass has Gumbel noise of its own, which classes are then drawn by."""
        return type(self).gumbel is not Sampler.gumbel

    def _draw(self, kind: Callable[..., Tensor], like: Tensor) -> Tensor:
        return kind(like.shape, generator=self.generator, device=like.device, dtype=like.dtype)

    def _dirichlet(self, concentration: Tensor) -> Tensor:
        return _DirichletSample.apply(concentration, self.generator)


def probabilities(logits: Tensor) -> Tensor:
    """``softmax(logits)`` over the last axis, for what needs no gradient.

    On a CPU PyTorch's own takes over three times as long as its parts below 8 classes, where it does not vectorise, and
    half as long from there on.
    """
    if logits.shape[-1] >= 8 or logits.device.type != "cpu":
        return logits.softmax(-1)
    shares = (logits - logits.amax(-1, keepdim=True)).exp_()
    return shares.div_(shares.sum(-1, keepdim=True))


def pick(weights: Tensor, uniform: Tensor) -> Tensor:
    """Class by the inverse of its distribution function: ``[..., classes]``, not negative -> ``[...]``, int64.

    One random number a choice, where Gumbel noise takes one a class, and a tenth of its time on a CPU.

    Args:
        weights: Probabilities, up to a factor.
        uniform: In [0, 1), ``[...]``.
    Example:
        >>> pick(torch.tensor([1.0, 0.0, 3.0]), torch.tensor([0.1]).squeeze()), pick(torch.ones(4), torch.tensor(0.99))
        (tensor(0), tensor(3))
    """
    total = weights.cumsum(-1)
    found = torch.searchsorted(total, uniform[..., None] * total[..., -1:], right=True)
    return found[..., 0].clamp_(max=weights.shape[-1] - 1)


def _gumbel(shape: torch.Size, **options: Any) -> Tensor:
    # a sixth of exponential_()'s time on a CPU; uniform numbers are never 1, and 0 gives -inf, which is never chosen
    return torch.rand(shape, **options).log_().neg_().log_().neg_()


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
        self.step = f"{seed}:{step}"
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

    def shared(self, name: str, like: Tensor) -> Tensor:
        digest = hashlib.sha256(f"{self.step}:{name}".encode()).digest()
        return _seeded_normal(int.from_bytes(digest[:7], "big"), like)

    def _dirichlet(self, concentration: Tensor) -> Tensor:
        return self._per_clip(concentration, _DirichletSample.apply)


def _seeded_normal(seed: int, like: Tensor) -> Tensor:
    generator = torch.Generator(like.device).manual_seed(seed)
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


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
