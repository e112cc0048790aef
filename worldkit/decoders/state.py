"""How decoders of whole states read a latent: flat, over all tokens, what was drawn first, then what is remembered."""

from __future__ import annotations

import torch
from torch import Tensor

from ..latents import Latent, LatentSpec

MEMORY = "deterministic"
"""Field of an RSSM's state that is computed, not drawn."""


class StateReader:
    """A latent's fields as two flat vectors per frame.

    Attributes:
        drawn: Width of all fields of all tokens but "deterministic".
        memory: Width of the fields "deterministic" of all tokens; 0 if there are none.
    Example:
        >>> from worldkit.distributions import Delta
        >>> from worldkit.latents import Field, TokenGroup
        >>> fields = (Field("deterministic", 4, Delta()), Field("stochastic", 3))
        >>> reader = StateReader(LatentSpec((TokenGroup("state", 2, fields),)))
        >>> reader.drawn, reader.memory
        (6, 8)
    """

    def __init__(self, spec: LatentSpec):
        read = [key for key in spec.keys() if not getattr(spec.field(key), "hidden", False)]
        self._memory = [key for key in read if key[1] == MEMORY]
        self._drawn = [key for key in read if key[1] != MEMORY]
        self.memory, self.drawn = (sum(spec.group(group).size * spec.field((group, name)).dim for group, name in keys)
                                   for keys in (self._memory, self._drawn))

    def __call__(self, z: Latent) -> tuple[Tensor, Tensor]:
        """``[B, T, drawn]`` and ``[B, T, memory]``."""
        drawn, memory = (torch.cat([z.values[key].flatten(2) for key in keys], -1) if keys else None
                         for keys in (self._drawn, self._memory))
        some = drawn if drawn is not None else memory
        return tuple(x if x is not None else some[..., :0] for x in (drawn, memory))  # type: ignore[index, return-value]

    def flat(self, z: Latent) -> Tensor:
        """``[B, T, drawn + memory]``."""
        return torch.cat(self(z), -1)
