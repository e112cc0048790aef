"""Factored dynamics: every token of the next frame from all tokens now, and from what was done to it alone.

States interact, actions do not: a token looks at the other tokens as they are, never at what they are told. So an
action of one thing changes another only through what it did to its own thing, a frame later. For slots and particles
(`flam` makes factors of its own out of patches).

What all tokens are told (actions of the data) reaches all of them.

Source: FLAM's forward dynamics (arXiv:2602.16229), over any tracked tokens; see `worldkit.nn.factors` for what is known
of it. That tokens predict how they change is ours.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor

from ..conditions import Condition
from ..config import ComponentConfig
from ..latents import Latent, LatentDist, LatentSpec
from ..nn.factors import ForwardFactors
from ..nn.spec import LatentEmbed, LatentHead
from .base import Dynamics


class FactoredConfig(ComponentConfig):
    """Options of factored dynamics.

    Attributes:
        dim, num_layers, num_heads: The blocks, each of attention to the frame's states, to the token's own past, and a
            feed-forward.
        predict_changes: Unbounded fields are predicted as changes of what they are now.
    """

    name: str = "factored"
    dim: int = Field(default=128, gt=0)
    num_layers: int = Field(default=4, gt=0)
    num_heads: int = Field(default=4, gt=0)
    predict_changes: bool = True


class Factored(Dynamics):
    """See the module's docstring.

    Example:
        >>> import torch
        >>> from worldkit.testing.examples import example_latent, example_spec
        >>> spec = example_spec(kind="slots")
        >>> dynamics = Factored(FactoredConfig(dim=8, num_layers=1, num_heads=2), spec=spec, anchors={}, window=4)
        >>> dynamics.prior(example_latent(spec), Condition(token=torch.zeros(2, 4, 4, 8))).shape
        torch.Size([2, 4])
    """

    Config = FactoredConfig
    requires = frozenset({"tracked", "continuous"})
    takes = frozenset({"frame", "token"})

    def __init__(self, config: FactoredConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
                 memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, memory_length=memory_length)
        self.cond_dim, self.predict_changes = config.dim, config.predict_changes
        self.embed_latent = LatentEmbed(spec, config.dim, anchors=anchors)
        self.forward_factors = ForwardFactors(config.dim, num_layers=config.num_layers, num_heads=config.num_heads,
                                              max_frames=window)
        self.head = LatentHead(spec, config.dim, anchors=anchors)
        if config.predict_changes:
            self.head.start_at_rest()

    def embed(self, z: Latent) -> Tensor:
        return self.embed_latent(z, mark_views=False)

    def prior(self, z: Latent, cond: Condition) -> LatentDist:
        predicted = self.head(self.forward_factors(self.embed_latent(z), cond.adaln()))
        return predicted.shift(z) if self.predict_changes else predicted
