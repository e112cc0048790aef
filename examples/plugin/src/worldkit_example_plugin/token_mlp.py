"""Token MLP: every token of the next frame from the same token of the last one, and nothing else.

No attention and no memory, so what a dynamics with either gains over this one is what they are worth. Memory tokens
(language, goals) enter as their mean.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor

from worldkit import Latent, register_dynamics
from worldkit.conditions import Condition
from worldkit.config import ComponentConfig
from worldkit.dynamics import Dynamics
from worldkit.latents import LatentDist, LatentSpec
from worldkit.nn.conv import mlp
from worldkit.nn.spec import LatentEmbed, LatentHead


class TokenMLPConfig(ComponentConfig):
    """Options of the token MLP.

    Attributes:
        dim: Token width.
    """

    name: str = "token-mlp"
    dim: int = Field(default=128, gt=0)


@register_dynamics("token-mlp")
class TokenMLP(Dynamics):
    """The next value of a token from its last one and the condition."""

    Config = TokenMLPConfig
    requires = frozenset({"tracked"})  # token n must be the same thing in both frames
    takes = frozenset({"frame", "token", "memory"})  # all that conditions can be

    def __init__(self, config: TokenMLPConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
                 memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, memory_length=memory_length)
        self.cond_dim = config.dim
        self.embed_latent = LatentEmbed(spec, config.dim, anchors=anchors)
        self.network = mlp(config.dim, 2 * config.dim, config.dim)
        self.head = LatentHead(spec, config.dim, anchors=anchors)

    def embed(self, z: Latent) -> Tensor:
        """A goal's tokens, ``[B, T, N, D]``."""
        return self.embed_latent(z, mark_views=False)

    def prior(self, z: Latent, cond: Condition) -> LatentDist:
        tokens = self.embed_latent(z)  # [B, T, N, D]
        if (vectors := cond.adaln()) is not None:
            tokens = tokens + vectors
        if cond.memory is not None:
            tokens = tokens + cond.memory.mean(1)[:, None, None]
        return self.head(tokens + self.network(tokens))
