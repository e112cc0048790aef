"""An exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from .processes import distribute_like, whole_tensor


class EMA:
    """Moving average of a model's trainable parameters: ``average = decay * average + (1 - decay) * weight``.

    Early on the decay is smaller, so that the start is soon forgotten: ``(1 + n) / (10 + n)`` at the n-th call of
    `update` (``warmup="ratio"``), or ``1 - (1 + n - after) ** (-2 / 3)`` (``"power"``).

    Args:
        model: The model; the average starts at its weights.
        decay: In (0, 1).
        every: Only the first of so many calls of `update` does something.
        after: Up to this call, and once more behind it, the average is a copy of the weights.
        warmup: See above.
    Example::

        ema = EMA(model, 0.999)
        ema.update(model)                 # after every optimiser step
        with ema.weights_in(model):       # evaluate, save
            ...
    """

    def __init__(
        self, model: nn.Module, decay: float, *, every: int = 1, after: int = 0,
        warmup: Literal["ratio", "power"] = "ratio",
    ):
        self.decay, self.every, self.after, self.warmup, self.updates = decay, every, after, warmup, 0
        self.average = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's present weights into account."""
        self.updates += 1
        if (self.updates - 1) % self.every:
            return
        weight = 1 - self._decay()
        parameters = dict(model.named_parameters())
        torch._foreach_lerp_(list(self.average.values()), [parameters[n].detach() for n in self.average], weight)

    def _decay(self) -> float:
        n = self.updates
        if self.after and n - self.every <= self.after:
            return 0.0
        early = (1 + n) / (10 + n) if self.warmup == "ratio" else 1 - (1 + n - self.after) ** (-2 / 3)
        return min(self.decay, early)

    @contextmanager
    def weights_in(self, model: nn.Module) -> Iterator[None]:
        """The model with averaged weights; its own return afterwards."""
        parameters = {n: p for n, p in model.named_parameters() if n in self.average}
        own = {n: p.detach().clone() for n, p in parameters.items()}
        _copy(self.average, parameters)
        try:
            yield
        finally:
            _copy(own, parameters)

    def apply(self, model: nn.Module) -> None:
        """Give the model the averaged weights for good."""
        _copy(self.average, dict(model.named_parameters()))

    def state_dict(self) -> dict[str, object]:
        """Everything `load_state_dict` needs."""
        return {"updates": self.updates, "average": {n: whole_tensor(x).clone() for n, x in self.average.items()}}

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from `state_dict`'s answer."""
        self.updates = state["updates"]
        for name, value in state["average"].items():
            own = self.average[name]
            own.copy_(distribute_like(value, own))


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, value in source.items():
        target[name].copy_(value)
