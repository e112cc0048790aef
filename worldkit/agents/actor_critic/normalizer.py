"""`Normalizer`: a running scale of returns, so that one strength of exploration suits all of them."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ...config import Config


class NormalizerConfig(Config):
    """Options of a normaliser.

    Attributes:
        kind: ``"percentile"``: offset and scale are a low percentile and its distance to a high one; ``"mean-std"``:
            mean and standard deviation; ``"magnitude"``: no offset, mean absolute value (DreamerV2's rewards);
            ``"none"``: nothing is done.
        rate: Share of the newest batch in the running statistics.
        limit: The scale is at least this.
        low, high: The percentiles.
        debias: Divide by how much has been seen, so that the first batches count fully.
    """

    kind: Literal["percentile", "mean-std", "magnitude", "none"] = "percentile"
    rate: float = Field(default=0.01, gt=0, le=1)
    limit: float = Field(default=1.0, ge=0)
    low: float = Field(default=5.0, ge=0, le=100)
    high: float = Field(default=95.0, ge=0, le=100)
    debias: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> NormalizerConfig:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        return self


class Normalizer(nn.Module):
    """Running offset and scale of numbers; its buffers are saved with the module that has it.

    Example:
        >>> norm = Normalizer(NormalizerConfig(rate=1.0))
        >>> norm.update(torch.arange(101.0))
        >>> [round(float(x), 3) for x in norm()]
        [5.0, 90.0]
    """

    lower: Tensor
    upper: Tensor
    seen: Tensor

    def __init__(self, config: NormalizerConfig):
        super().__init__()
        self.config = config
        start = 1.0 if config.kind == "magnitude" else 0.0
        self.register_buffer("lower", torch.tensor(0.0))
        self.register_buffer("upper", torch.tensor(start))
        self.register_buffer("seen", torch.tensor(0.0))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take numbers of any shape into account."""
        kind, rate = self.config.kind, self.config.rate
        if kind == "none":
            return
        x = x.detach().flatten().to(torch.promote_types(x.dtype, torch.float32))
        if kind == "percentile":
            # more than 16 million numbers are too many for torch.quantile; a regular sample says as much
            x = x[:: 1 + x.numel() // (1 << 24)]
            found = torch.quantile(x, x.new_tensor([self.config.low / 100, self.config.high / 100]))
        elif kind == "mean-std":
            found = torch.stack([x.mean(), x.square().mean()])
        else:
            found = torch.stack([x.mean(), x.abs().mean()])
        self.lower.lerp_(found[0].to(self.lower), rate)
        self.upper.lerp_(found[1].to(self.upper), rate)
        self.seen.lerp_(torch.ones_like(self.seen), rate)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Offset and scale: ``(x - offset) / scale`` is normalised."""
        kind, limit = self.config.kind, self.config.limit
        if kind == "none":
            return torch.zeros_like(self.lower), torch.ones_like(self.lower)
        share = self.seen.clamp(min=self.config.rate) if self.config.debias else torch.ones_like(self.seen)
        lower, upper = self.lower / share, self.upper / share
        if kind == "percentile":
            return lower, (upper - lower).clamp(min=limit)
        if kind == "mean-std":
            return lower, (upper - lower.square()).clamp(min=0).sqrt().clamp(min=limit)
        return torch.zeros_like(lower), (upper + 1e-8).clamp(min=limit)
