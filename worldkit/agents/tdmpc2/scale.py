"""The size of values, so that a policy's gradient does not depend on the size of rewards."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningScale(nn.Module):
    """A running mean of the distance between the 5th and the 95th percentile; at least 1.

    Example:
        >>> scale = RunningScale(share=0.5)
        >>> scale.update(torch.arange(101.0))
        >>> scale.value
        tensor(45.5000)
    """

    value: Tensor

    def __init__(self, share: float = 0.01):
        super().__init__()
        self.share = share
        self.register_buffer("value", torch.ones(()))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take values of any shape into account."""
        low, high = torch.quantile(x.detach().flatten(), x.new_tensor([0.05, 0.95]))
        self.value.lerp_((high - low).clamp(min=1).to(self.value.dtype), self.share)

    def forward(self, x: Tensor) -> Tensor:
        return x / self.value
