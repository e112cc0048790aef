"""Random draws as inputs: `Recorded` notes what a model draws, `Replayed` gives it tensors instead.

Whoever runs an exported function then decides where randomness comes from, and the same numbers give the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ExportError
from ..samplers import Sampler

KINDS = {"normal": "standard normal numbers", "uniform": "uniform numbers in [0, 1)", "gumbel": "standard Gumbel noise"}


class Recorded(Sampler):
    """Draws as any sampler, and notes in ``drawn`` what: (kind, name, tensor)."""

    def __init__(self, generator: torch.Generator):
        super().__init__(generator=generator)
        self.drawn: list[tuple[str, str, Tensor]] = []

    def _note(self, kind: str, name: str, like: Tensor) -> Tensor:
        like = like.detach()
        make = {"normal": lambda: self._draw(torch.randn, like), "uniform": lambda: self._draw(torch.rand, like),
                "gumbel": lambda: -(-self._draw(torch.rand, like).clamp_min(1e-20).log()).clamp_min(1e-20).log()}
        self.drawn.append((kind, name, make[kind]()))
        return self.drawn[-1][2]

    def normal(self, name: str, mean: Tensor, logvar: Tensor) -> Tensor:
        return mean + self._note("normal", name, mean) * torch.exp(0.5 * logvar)

    def uniform(self, name: str, like: Tensor) -> Tensor:
        return self._note("uniform", name, like)

    def gumbel(self, name: str, like: Tensor) -> Tensor:
        return self._note("gumbel", name, like)

    def beta(self, name: str, a: Tensor, b: Tensor) -> Tensor:
        raise ExportError(f"'{name}' is drawn from a Beta distribution, whose draws are no plain function of noise: "
                          "export without noise")


class Replayed(Recorded):
    """Gives back the tensors it was made with, in their order."""

    def __init__(self, tensors: Sequence[Tensor]):
        super().__init__(torch.Generator())
        self._left = list(tensors)

    def _note(self, kind: str, name: str, like: Tensor) -> Tensor:
        if not self._left:
            raise ExportError(f"the draw '{name}' was not made when draws were noted: the model draws by what it sees")
        return self._left.pop(0)
