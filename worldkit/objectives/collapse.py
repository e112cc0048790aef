r"""What keeps embeddings from all becoming the same, and what tells that they have.

Embeddings that predict one another are perfect when they are constant. LeWM's SIGReg asks that every random projection
of a batch is standard normal; PLDM's terms (as VICReg's) ask for spread in every dimension and for dimensions that do
not follow each other. All take embeddings ``[B, T, D]`` and give a mean.

Two forms of PLDM's terms are in use: `pldm_terms`, of stable-worldmodel (over all time steps), and
`pldm_original_terms` (variance and covariance on the first frame alone, other divisors).

Source: LeWM (arXiv:2603.19312) and stable-worldmodel @ addbab4; PLDM (arXiv:2502.14819), written from their
description.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-4
"""Under the roots of variances."""


def sigreg(z: Tensor, directions: Tensor, *, knots: int = 17, end: float = 3.0) -> Tensor:
    r"""How far random projections are from a standard normal distribution: Epps and Pulley's statistic.

    .. math:: B \sum_k w_k [(\overline{\cos t_k x} - e^{-t_k^2/2})^2 + \overline{\sin t_k x}^2]

    The mean over the batch is one per time step. Its factor B is upstream's: the strength grows with the batch.

    Args:
        z: ``[B, T, D]``.
        directions: ``[D, P]``; their length does not matter.
        knots: Points in [0, ``end``] at which characteristic functions are compared.
        end: Last of them.
    Returns:
        Mean over projections and time, a scalar.
    Example:
        >>> normal, flat = torch.randn(256, 1, 4), torch.zeros(256, 1, 4)
        >>> bool(sigreg(normal, torch.randn(4, 32)) < 0.1 * sigreg(flat, torch.randn(4, 32)))
        True
    """
    t, normal, weights = knots_of(knots, end, z)
    angles = (z @ F.normalize(directions, dim=0, eps=0))[..., None] * t  # [B, T, P, knots]
    error = (angles.cos().mean(0) - normal).square() + angles.sin().mean(0).square()
    return (error @ weights).mean() * z.shape[0]


def knots_of(count: int, end: float, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Where `sigreg` compares, what a standard normal distribution has there, and what that counts, ``[count]`` each.

    Points are even in [0, ``end``], and weights :math:`w_k` those of the trapezoid rule over [-end, end] times the
    second result.

    Args:
        count: Of points.
        end: The last of them.
        like: Of its type, on its device.
    Example:
        >>> [numbers.round(decimals=2).tolist() for numbers in knots_of(3, 2.0, torch.zeros(1).double())]
        [[0.0, 1.0, 2.0], [1.0, 0.61, 0.14], [1.0, 1.21, 0.14]]
    """
    t = torch.linspace(0, end, count, dtype=like.dtype, device=like.device)
    normal = torch.exp(-t.square() / 2)
    step = end / (count - 1)
    trapezoid = torch.full_like(t, 2 * step)
    trapezoid[[0, -1]] = step
    return t, normal, trapezoid * normal


def hinge(variance: Tensor, margin: float = 1.0) -> Tensor:
    """How far standard deviations are below a margin: the mean."""
    return F.relu(margin - (variance + EPS).sqrt()).mean()


def covariance(z: Tensor, divisor: int) -> Tensor:
    """``[..., n, D]`` -> ``[..., D, D]``; the means must be 0 already."""
    return z.transpose(-1, -2) @ z / divisor


def off_diagonal(c: Tensor) -> Tensor:
    """Sum of the squares outside of the diagonal, over the last two axes."""
    return c.square().sum((-1, -2)) - c.diagonal(dim1=-2, dim2=-1).square().sum(-1)


def uneven(z: Tensor, divisor: int) -> Tensor:
    """`off_diagonal` of `covariance` of ``[..., n, D]``, without the D x D numbers where n is less than D.

    The squares of ``z' z`` and ``z z'`` have the same sum.

    Example:
        >>> z = torch.randn(3, 4, 9, dtype=torch.float64)
        >>> torch.allclose(uneven(z, 3), off_diagonal(covariance(z, 3)))
        True
    """
    if z.shape[-2] >= z.shape[-1]:
        return off_diagonal(covariance(z, divisor))
    gram = z @ z.transpose(-1, -2)
    return (gram.square().sum((-1, -2)) - z.square().sum(-2).square().sum(-1)) / divisor**2


def pldm_terms(z: Tensor) -> dict[str, Tensor]:
    """stable-worldmodel's terms of embeddings ``[B, T, D]``.

    Unusual: embeddings are centred over the batch once, for all terms; ``std_t`` is the spread over time of that, and
    ``cov_t`` is not centred again.

    Returns:
        ``std``, ``std_t``: hinges of spread over the batch, over time; ``cov``, ``cov_t``: mean square of covariances;
        ``smooth``: mean square of steps; ``straight``: minus the mean cosine of steps and those after them.
    Example:
        >>> sorted(pldm_terms(torch.randn(8, 4, 5)))
        ['cov', 'cov_t', 'smooth', 'std', 'std_t', 'straight']
    """
    batch, frames, dim = z.shape
    centred = z - z.mean(0, keepdim=True)
    pairs = dim * dim - dim
    steps = z[:, 1:] - z[:, :-1]
    terms = {
        "std": hinge(centred.var(0)),
        "cov": (off_diagonal(covariance(centred.transpose(0, 1), batch - 1)) / pairs).mean(),
        "smooth": steps.square().mean() if frames > 1 else z.new_zeros(()),
    }
    if frames > 1:
        terms["std_t"] = hinge(centred.var(1))
        terms["cov_t"] = (off_diagonal(covariance(centred, frames - 1)) / pairs).mean()
    if frames > 2:
        terms["straight"] = -F.cosine_similarity(steps[:, :-1], steps[:, 1:], dim=-1).mean()
    return terms


def pldm_original_terms(z: Tensor, predicted: Tensor | None = None, *, adjust: bool = True) -> dict[str, Tensor]:
    """PLDM's terms as its authors have them, of embeddings ``[B, T, D]``.

    Args:
        z: Of all frames.
        predicted: Of the same frames; the first one is not compared.
        adjust: ``cov`` is divided by D (D - 1); otherwise by D.
    Returns:
        ``std``, ``cov``: of the FIRST frames over the batch; ``std_t``, ``cov_t``: of later frames over time, clip by
        clip; ``smooth``: mean square of steps; ``prediction``, if there is one: mean squared error.
    """
    first, later, dim = z[:, 0], z[:, 1:], z.shape[-1]
    divisor = dim * (dim - 1) if adjust else dim

    def cov(x: Tensor) -> Tensor:
        centred = x - x.mean(-2, keepdim=True)
        return (uneven(centred, x.shape[-2] - 1) / divisor).mean()

    terms = {"std": hinge(first.var(0)), "cov": cov(first), "smooth": (z[:, 1:] - z[:, :-1]).square().mean()}
    if z.shape[1] > 2:
        terms |= {"std_t": hinge(later.var(1)), "cov_t": cov(later)}
    if predicted is not None:
        terms["prediction"] = (later - predicted[:, 1:]).square().mean()
    return terms


@torch.no_grad()
def health(z: Tensor, *, rows: int = 512) -> dict[str, Tensor]:
    """Whether embeddings ``[..., D]`` still differ, for logs: `worldkit.training.watch.Watch` looks at both.

    Args:
        z: Rows are frames (or tokens of frames).
        rows: At most so many, evenly spread, are looked at.
    Returns:
        ``embedding_std``: mean over dimensions of the standard deviation; ``embedding_rank``: in how many directions
        they spread, the exponential of the entropy of the shares of variance (1: a line; 0: they are all the same).
    Example:
        >>> health(torch.randn(1000, 1).expand(1000, 8))["embedding_rank"].round().item()
        1.0
    """
    x = z.detach().flatten(0, -2).float()
    if len(x) > rows:
        x = x[torch.linspace(0, len(x) - 1, rows, device=x.device).long()]
    x = x - x.mean(0)
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    gram = torch.nan_to_num(gram, 0.0, 0.0, 0.0)
    spread = torch.linalg.eigvalsh(gram).clamp(min=0)
    total = spread.sum()
    shares = spread / total.clamp(min=torch.finfo(spread.dtype).tiny)
    rank = torch.exp(-(shares * shares.clamp(min=1e-12).log()).sum())
    std = x.square().sum(0).div(max(1, len(x) - 1)).sqrt().mean()
    return {"embedding_std": std, "embedding_rank": torch.where(total > 0, rank, torch.zeros_like(rank))}
