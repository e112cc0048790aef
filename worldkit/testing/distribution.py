"""Checks of the distribution of a field."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..distributions import MEANS, ClipSampler, Distribution, Sampler
from .report import Reporter

_ROWS, _DRAWS = 64, 4096


def check_distribution(dist: Distribution, *, dim: int = 3, exact: bool = True) -> None:
    """Check that all that a distribution says of fields ``dim`` wide fits together.

    Shapes; draws that only the sampler decides, inside the bounds, and clip by clip; gradients; that ``kl`` is what
    ``nll`` says it is on average (so the order of parameters is the same everywhere); ``raw_at``, ``shift``, anchors.

    Args:
        dist: The description.
        dim: Width of a field.
        exact: Whether ``kl`` and ``nll`` belong together. Not if one of them avoids infinities, as ours of a tied Beta.
    Raises:
        AssertionError: naming the property, and how far off it was.
    Example:
        >>> from worldkit.distributions import Normal
        >>> check_distribution(Normal())
    """
    report = Reporter(f"distribution {dist}")
    generator = torch.Generator().manual_seed(0)
    raw, other = (0.5 * torch.randn(_ROWS, dist.raw_dim(dim), generator=generator) for _ in range(2))
    params, prior = dist.from_raw(raw), dist.from_raw(other)
    report.shape(params, (_ROWS, dist.param_dim(dim)), "from_raw()")
    report.require(hash(dist) == hash(dist) and dist == dist, "hashable", "make it a frozen dataclass")
    _check_draws(report, dist, params, dim)
    _check_divergence(report, dist, params, prior)
    if exact and not dist.point:
        _check_likelihood(report, dist, params, prior)
    if dist.movable:
        _check_shift(report, dist, params, prior, dim)
    start = dist.raw_at(torch.full((dim,), 0.3), 0.04)
    if start is not None:
        report.shape(start, (dist.raw_dim(dim),), "raw_at()")
        report.equal(dist.mode(dist.from_raw(start)), torch.full((dim,), 0.3), "raw_at() gives the mean", "the mode")


def _seeded() -> Sampler:
    return Sampler(generator=torch.Generator().manual_seed(1))


def _check_draws(report: Reporter, dist: Distribution, params: Tensor, dim: int) -> None:
    for what, value in (("sample()", dist.sample(params, _seeded(), "x")), ("mode()", dist.mode(params))):
        report.shape(value, (_ROWS, dim), what)
        low, high = dist.support
        report.require(bool((value >= low - 1e-6).all() and (value <= high + 1e-6).all()), "support",
                       f"{what} gives {value.min().item():.3g} to {value.max().item():.3g}, outside [{low}, {high}]")
    first, second = (dist.sample(params, _seeded(), "x") for _ in range(2))
    report.equal(first, second, "determinism under a generator", "the second sample", 0.0)
    report.equal(dist.sample(params, MEANS, "x"), dist.mode(params), "deterministic samplers", "the sample", 0.0)
    both = dist.sample(params, ClipSampler(0, 0, [0, 1]), "x")
    half = dist.sample(params[_ROWS // 2 :], ClipSampler(0, 0, [1]), "x")
    report.equal(half, both[_ROWS // 2 :], "draws clip by clip", "the second clip's sample, drawn alone,", 0.0)


def _check_divergence(report: Reporter, dist: Distribution, params: Tensor, prior: Tensor) -> None:
    leaf = params.clone().requires_grad_()
    kl = dist.kl(leaf, prior)
    report.shape(kl, (_ROWS,), "kl()")
    report.require(kl.min().item() >= -1e-5, "kl() is not negative", f"it is {kl.min().item():.3g}")
    report.equal(dist.kl(params, params), torch.zeros(_ROWS), "kl() of a distribution and itself", "it")
    (grad,) = torch.autograd.grad(kl.sum(), leaf)
    report.require(bool(grad.isfinite().all() and (grad != 0).any()), "gradients", "kl() gives parameters none")
    report.shape(dist.nll(params, dist.sample(params, _seeded(), "x")), (_ROWS,), "nll()")


def _check_likelihood(report: Reporter, dist: Distribution, params: Tensor, prior: Tensor) -> None:
    wide = params[:, None].expand(-1, _DRAWS, -1)
    draws, kl = dist.sample(wide, _seeded(), "x"), dist.kl(params, prior)
    gain = dist.nll(prior[:, None].expand_as(wide), draws) - dist.nll(wide, draws)
    error = gain.std(1) / math.sqrt(_DRAWS)
    off = (gain.mean(1) - kl).abs() - 6 * error
    report.require(off.max().item() <= 0.02 * max(1.0, kl.max().item()), "kl() is the mean difference of nll()",
                   f"it is off by {off.max().item():.3g} nats more than chance allows")


def _check_shift(report: Reporter, dist: Distribution, params: Tensor, prior: Tensor, dim: int) -> None:
    change = torch.linspace(-1, 1, dim).expand(_ROWS, dim)
    moved = dist.shift(params, change)
    report.shape(moved, params.shape, "shift()")
    report.equal(dist.mode(moved), dist.mode(params) + change, "shift() moves", "the mode")
    alike = dist.kl(moved, dist.shift(prior, change))
    report.equal(alike, dist.kl(params, prior), "shift() only moves", "the KL of two distributions moved alike")
