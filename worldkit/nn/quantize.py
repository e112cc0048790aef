"""`VectorQuantizer`: vectors to the nearest of a learned set of codes, and back (VQ-VAE, arXiv:1711.00937).

Distances are taken in the expanded form, ``|z|^2 + |e|^2 - 2 z e``, and the first of equally near codes is chosen, so
that codes of trained models come out the same. No gradient goes through the choice: the decoder's passes straight
through to the encoder, and two losses draw codes and vectors to one another.

Source: IRIS (arXiv:2209.00588), whose quantiser the defaults are, written from a description of it. Unit vectors,
moving averages and restarts are those of later work (Genie, arXiv:2402.15391).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..config import Config
from ..distributions import Sampler, full_precision
from ..errors import ShapeError

_MOST = 2**24  # distances at once


class QuantizerConfig(Config):
    """Options of a quantiser.

    Attributes:
        codes: How many.
        dim: Width of a code.
        beta: Weight of the commitment, which draws vectors to their codes (IRIS 1, VQ-VAE and Genie 0.25).
        cosine: Vectors and codes have length 1.
        codebook: ``"gradient"``: codes learn by a loss of their own; ``"ema"``: they are moving averages of the vectors
            that chose them, and no optimiser touches them.
        decay: Of the averages.
        restart_after: A code that nothing chose for so many training batches becomes a vector of the next one; 0: never
            (IRIS).
    """

    codes: int = Field(default=512, gt=1)
    dim: int = Field(default=512, gt=0)
    beta: float = Field(default=1.0, ge=0)
    cosine: bool = False
    codebook: Literal["gradient", "ema"] = "gradient"
    decay: float = Field(default=0.99, gt=0, lt=1)
    restart_after: int = Field(default=0, ge=0)


class UnitQuantizerConfig(QuantizerConfig):
    """Options of a quantiser of unit vectors that lets no code rest: what Genie's tokenizer and latent actions use."""

    codes: int = Field(default=1024, gt=1)
    dim: int = Field(default=32, gt=0)
    beta: float = Field(default=0.25, ge=0)
    cosine: bool = True
    restart_after: int = Field(default=50, ge=0)


@dataclass(frozen=True)
class Quantized:
    """What a quantiser made of vectors ``[..., D]``.

    Attributes:
        codes: int64 ``[...]``.
        vectors: Of the codes, ``[..., D]``; the gradient goes straight through to what was quantised.
        codebook: How far codes are from what chose them, ``[...]``, mean over D; its gradient reaches the codes alone.
            0 of moving averages.
        commitment: The same numbers; their gradient reaches what was quantised alone. Not yet weighted.
        beta: Weight of the commitment.
    """

    codes: Tensor
    vectors: Tensor
    codebook: Tensor
    commitment: Tensor
    beta: float

    @property
    def loss(self) -> Tensor:
        """Both losses, weighted, ``[...]``."""
        return self.codebook + self.beta * self.commitment


class VectorQuantizer(nn.Module):
    """Vectors ``[..., D]`` -> codes ``[...]`` (`forward`), and codes -> vectors (`look_up`).

    Attributes:
        codebook: ``[codes, D]``.
        restarted: Which codes the last training batch restarted, bool ``[codes]``: an optimiser's averages of these
            rows tell of other codes (`clear_moments`).
    Example:
        >>> quantizer = VectorQuantizer(QuantizerConfig(codes=8, dim=3))
        >>> found = quantizer(torch.randn(2, 5, 3))
        >>> found.codes.shape, torch.allclose(found.vectors, quantizer.look_up(found.codes), atol=1e-6)
        (torch.Size([2, 5]), True)
    """

    codebook: Tensor
    idle: Tensor

    def __init__(self, config: QuantizerConfig):
        super().__init__()
        self.config = config
        if config.cosine:
            start = F.normalize(torch.randn(config.codes, config.dim), dim=-1)
        else:
            start = torch.empty(config.codes, config.dim).uniform_(-1 / config.codes, 1 / config.codes)
        if config.codebook == "ema":
            self.register_buffer("codebook", start)
            self.register_buffer("counts", torch.ones(config.codes))
            self.register_buffer("sums", start.clone())
        else:
            self.codebook = nn.Parameter(start)
        if config.restart_after:
            self.register_buffer("idle", torch.zeros(config.codes, dtype=torch.long))
        self.restarted = torch.zeros(config.codes, dtype=torch.bool)

    @property
    def unit(self) -> Tensor:
        """The codes as they are compared, ``[codes, D]``."""
        return F.normalize(self.codebook, dim=-1) if self.config.cosine else self.codebook

    def distances(self, z: Tensor) -> Tensor:
        """Squared distances of vectors ``[..., D]`` to all codes, ``[..., codes]``; without a graph."""
        with torch.no_grad():
            z, codes = self._compared(z), full_precision(self.unit)
            return z.square().sum(-1, keepdim=True) + codes.square().sum(-1) - 2 * (z @ codes.T)

    def nearest(self, z: Tensor) -> Tensor:
        """Number of the nearest code, of equally near ones the first: ``[..., D]`` -> int64 ``[...]``."""
        parts = z.detach().reshape(-1, z.shape[-1]).split(max(1, _MOST // self.config.codes))
        return torch.cat([self.distances(part).argmin(-1) for part in parts]).view(z.shape[:-1])

    def look_up(self, codes: Tensor) -> Tensor:
        """Vectors of codes, int64 ``[...]`` -> ``[..., D]``.

        Raises:
            ShapeError: a code that there is not, or none at all.
        """
        if codes.is_floating_point() or codes.dtype == torch.bool:
            raise ShapeError(f"codes are whole numbers (int64), got {codes.dtype}; encode(video) gives them")
        if type(codes) is Tensor and codes.device.type == "cpu" and codes.numel() and not torch.compiler.is_compiling():
            low, high = codes.aminmax()
            if low < 0 or high >= self.config.codes:
                raise ShapeError(f"codes must be numbers from 0 to {self.config.codes - 1} (there are "
                                 f"{self.config.codes}), got {int(low)} to {int(high)}")
        return F.embedding(codes, self.unit)

    def forward(self, z: Tensor, sampler: Sampler = Sampler()) -> Quantized:
        """Codes of vectors, and what trains both.

        Args:
            z: ``[..., D]``; the first axis is the batch, or starts with it.
            sampler: Source of randomness, of restarts in training.
        """
        z = self._compared(z)
        if self.training and self.config.restart_after:
            self._restart(z, sampler)
        codes = self.nearest(z)
        if self.training:
            self._note(z, codes)
        found = F.embedding(codes, self.unit)
        chosen = found.detach()
        commitment = (z - chosen).square().mean(-1)
        codebook = torch.zeros_like(commitment) if self.config.codebook == "ema" else (
            (z.detach() - found).square().mean(-1))
        return Quantized(codes, z + (chosen - z).detach(), codebook, commitment, self.config.beta)

    def _compared(self, z: Tensor) -> Tensor:
        z = full_precision(z)
        return F.normalize(z, dim=-1) if self.config.cosine else z

    @torch.no_grad()
    def _note(self, z: Tensor, codes: Tensor) -> None:
        """What a training batch says about codes: moving averages, and which were chosen."""
        if self.config.codebook != "ema" and not self.config.restart_after:
            return
        rows, codes = z.detach().reshape(-1, z.shape[-1]), codes.reshape(-1)
        counts = torch.bincount(codes, minlength=self.config.codes).to(rows.dtype)
        sums = torch.zeros_like(self.codebook, dtype=rows.dtype).index_add_(0, codes, rows)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)
            torch.distributed.all_reduce(sums)
        if self.config.restart_after:
            self.idle.add_(1).masked_fill_(counts > 0, 0)
        if self.config.codebook == "ema":
            self.counts.lerp_(counts, 1 - self.config.decay)
            self.sums.lerp_(sums, 1 - self.config.decay)
            total = self.counts.sum()
            smoothed = (self.counts + 1e-5) / (total + 1e-5 * self.config.codes) * total
            self.codebook.copy_(self.sums / smoothed[:, None])

    @torch.no_grad()
    def _restart(self, z: Tensor, sampler: Sampler) -> None:
        """Codes that rested too long become vectors of this batch, each another one as far as there are as many."""
        tired = self.idle >= self.config.restart_after
        self.restarted = torch.zeros_like(tired)
        if not tired.any():
            return
        chance = sampler.uniform("quantize.restart", z.detach()[..., 0]).reshape(-1)
        rows = z.detach().reshape(-1, z.shape[-1])
        which = tired.nonzero()[:, 0]
        order = chance.argsort(descending=True)[torch.arange(len(which), device=rows.device) % len(rows)]
        taken = rows[order].to(self.codebook.dtype)
        if torch.distributed.is_available() and torch.distributed.is_initialized():  # the same codes in all processes
            torch.distributed.broadcast(taken, 0)
        self.codebook[which] = taken
        if self.config.codebook == "ema":
            self.counts[which], self.sums[which] = 1.0, taken
        self.idle[which] = 0
        self.restarted[which] = True


class Center(nn.Module):
    """Vectors ``[B, ..., D]``, 0 on average and 1 wide: by the batch in training, by averages of batches afterwards.

    A direction that all vectors share, as a bias gives them, would leave unit vectors hardly any room to differ, and
    one code would do for all of them. Source: Łańcucki et al. (arXiv:2005.08520).

    Args:
        dim: D.
        times: With it vectors are ``[B, T, D]`` with T up to this, and every time has averages of its own: then nothing
            can be told by what merely says which time it is. (More than that share the last ones.)
        decay: Of the averages.
    """

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, dim: int, times: int = 0, decay: float = 0.9):
        super().__init__()
        self.decay, self.times = decay, times
        shape = (times, dim) if times else (dim,)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.ones(shape))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        z = full_precision(z)
        mean, variance = self.mean, self.variance
        if self.times:
            at = torch.arange(z.shape[1], device=z.device).clamp(max=self.times - 1)
            mean, variance = mean[at], variance[at]
        if self.training:
            axes = (0,) if self.times else tuple(range(z.ndim - 1))
            mean, variance = z.mean(axes), z.var(axes, correction=0)
            with torch.no_grad():
                self.batches += 1
                share = (1 / self.batches).clamp(min=1 - self.decay)  # of the first batches a plain mean
                known = slice(0, z.shape[1]) if self.times else slice(None)
                self.mean[known] = self.mean[known].lerp(mean.detach()[: self.times or None], share)
                self.variance[known] = self.variance[known].lerp(variance.detach()[: self.times or None], share)
        return (z - mean) * torch.rsqrt(variance + 1e-5)


def clear_moments(optimizer: torch.optim.Optimizer, quantizer: VectorQuantizer) -> None:
    """Forget an optimiser's averages of the codes that were just restarted."""
    for value in optimizer.state.get(quantizer.codebook, {}).values():
        if torch.is_tensor(value) and value.shape == quantizer.codebook.shape:
            value[quantizer.restarted.to(value.device)] = 0


def forget_restarted(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Let an optimiser forget, before every step, its averages of codes that were just restarted (`clear_moments`)."""
    found = [m for m in model.modules() if isinstance(m, VectorQuantizer) and m.config.restart_after
             and m.config.codebook == "gradient"]

    def forget(*_: object) -> None:
        for quantizer in found:
            clear_moments(optimizer, quantizer)

    if found:
        optimizer.register_step_pre_hook(forget)


def perplexity(codes: Tensor, num_codes: int) -> Tensor:
    """How many codes are in use, as the exponential of the entropy of their shares: 1 to ``num_codes``.

    Example:
        >>> perplexity(torch.tensor([0, 0, 3, 3]), 8)
        tensor(2.)
    """
    shares = torch.bincount(codes.reshape(-1), minlength=num_codes).float()
    shares = shares / shares.sum().clamp(min=1)
    return torch.exp(-torch.xlogy(shares, shares).sum())
