"""An exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .processes import distribute_like, whole_tensor


class EMA:
    """Moving average of a model's trainable parameters: ``average = decay * average + (1 - decay) * weight``.

    Early on the decay is smaller, ``(1 + n) / (10 + n)`` after n updates, so that the start is soon forgotten.

    Args:
        model: The model; the average starts at its weights.
        decay: In (0, 1).
    Example::

        ema = EMA(model, 0.999)
        ema.update(model)                 # after every optimiser step
        with ema.weights_in(model):       # evaluate, save
            ...
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self.average = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's present weights into account."""
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        parameters = dict(model.named_parameters())
        torch._foreach_lerp_(list(self.average.values()), [parameters[n].detach() for n in self.average], weight)

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
