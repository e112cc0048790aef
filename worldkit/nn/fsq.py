"""`FiniteScalarQuantizer`: every number of a vector to one of a few levels; the products of levels are the codes.

There is no codebook to learn, and so none that could rest: a bounded number is rounded, and the gradient goes straight
through. Values are scaled to [-1, 1].

Source: FSQ (arXiv:2309.15505), section 3.1 and its appendix, written from the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..distributions import full_precision
from ..errors import ConfigError, ShapeError

_EDGE = 1e-3  # what tanh reaches lies this much inside of half a level beyond the outermost


class FiniteScalarQuantizer(nn.Module):
    """Vectors ``[..., D]``, D as many as there are ``levels`` -> the same, every number on one of its levels.

    Attributes:
        levels: Per number, at least 2; an odd count has a level at 0.
        num_codes: Their product.
    Raises:
        ConfigError: no levels, or fewer than two of a number.
    Example:
        >>> quantizer = FiniteScalarQuantizer([3, 4])
        >>> values = quantizer(torch.tensor([[0.1, -9.0], [5.0, 0.9]]))
        >>> values.tolist(), quantizer.codes(values).tolist(), quantizer.num_codes
        ([[0.0, -1.0], [1.0, 0.5]], [4, 11], 12)
        >>> torch.equal(quantizer.look_up(quantizer.codes(values)), values)
        True
    """

    def __init__(self, levels: Sequence[int]):
        super().__init__()
        if not levels or min(levels) < 2:
            raise ConfigError(f"levels must be whole numbers of at least 2, one per number of a vector, got "
                              f"{list(levels)}: write levels = [8, 5, 5]")
        self.levels, self.num_codes = tuple(levels), math.prod(levels)
        counts = torch.tensor(self.levels, dtype=torch.float)
        half = torch.div(counts, 2, rounding_mode="floor")
        reach, offset = (counts - 1) * (1 + _EDGE) / 2, (counts % 2 == 0) / 2
        self.register_buffer("middle", half, persistent=False)
        self.register_buffer("reach", reach, persistent=False)
        self.register_buffer("offset", offset, persistent=False)
        self.register_buffer("shift", torch.atanh(offset / reach), persistent=False)
        places = [math.prod(self.levels[i + 1 :]) for i in range(len(self.levels))]
        self.register_buffer("places", torch.tensor(places), persistent=False)

    def bounded(self, z: Tensor) -> Tensor:
        """What is rounded: numbers ``[..., D]`` within half a level of the outermost levels, in units of levels."""
        return torch.tanh(full_precision(z) + self.shift) * self.reach - self.offset

    def forward(self, z: Tensor) -> Tensor:
        """Levels of any vectors, scaled to [-1, 1]; their gradient is that of `bounded`."""
        bounded = self.bounded(z)
        return (bounded + (bounded.round() - bounded).detach()) / self.middle

    def nearest(self, values: Tensor) -> Tensor:
        """The levels nearest to values that are scaled already, as predictions are, ``[..., D]``."""
        return (self._steps(values) - self.middle) / self.middle

    def _steps(self, values: Tensor) -> Tensor:
        """Numbers of levels, 0 .. levels - 1, as floats."""
        steps = (values * self.middle).round() + self.middle
        return torch.minimum(steps.clamp(min=0), steps.new_tensor(self.levels) - 1)

    def codes(self, values: Tensor) -> Tensor:
        """Numbers of codes, int64 ``[...]``, of values on levels."""
        return (self._steps(values).long() * self.places).sum(-1)

    def look_up(self, codes: Tensor) -> Tensor:
        """Values ``[..., D]`` of codes, int64 ``[...]``.

        Raises:
            ShapeError: they are no whole numbers, or there is no such code.
        """
        if codes.is_floating_point() or codes.dtype == torch.bool:
            raise ShapeError(f"codes are whole numbers (int64), got {codes.dtype}; encode(video) gives them")
        if type(codes) is Tensor and codes.device.type == "cpu" and codes.numel() and not torch.compiler.is_compiling():
            low, high = codes.aminmax()
            if low < 0 or high >= self.num_codes:
                raise ShapeError(f"codes must be numbers from 0 to {self.num_codes - 1} (there are {self.num_codes}), "
                                 f"got {int(low)} to {int(high)}")
        steps = torch.div(codes[..., None], self.places, rounding_mode="floor") % self.places.new_tensor(self.levels)
        return (steps - self.middle) / self.middle

    def distances(self, z: Tensor) -> Tensor:
        """Squared distances of any vectors to all codes in units of levels, ``[..., codes]``; without a graph."""
        with torch.no_grad():
            bounded, total = self.bounded(z), None
            for number, count in enumerate(self.levels):
                grid = torch.arange(count, device=z.device) - self.middle[number]
                apart = (bounded[..., number, None] - grid).square()
                total = apart if total is None else (total[..., None] + apart[..., None, :]).flatten(-2)
            assert total is not None
            return total
