"""One Gaussian latent action per transition, AdaWorld's: read off everything in the frames up to the one reached.

The other end of `factored`: whatever changed, wherever, has to go through one vector. The prior is a standard normal. A
token more per frame looks at all tokens of its frame and at itself before; at the frame that was reached it says what
led there.

Source: AdaWorld (arXiv:2503.18938), github.com/Little-Podi/AdaWorld, from a description of it: a space-time
transformer, mean and deviation, KL to N(0, I) with weight 2e-4 beside a mean squared error. Differences: it reads
latents here, not pixels; sizes and the noise at first are options.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import repeat
from pydantic import Field
from torch import Tensor, nn

from ..conditions import Condition
from ..latents import Latent, LatentSpec
from ..nn.space_time import SpaceTimeTransformer
from ..nn.spec import LatentEmbed
from .base import ActionDist
from .standard import StandardConfig, StandardPrior, make_center, quiet_head


class SingleLatentActionConfig(StandardConfig):
    """Options of single latent actions.

    Attributes:
        action_dim: Width of the action.
        dim, num_layers, num_heads: The transformer.
    """

    name: str = "single"
    action_dim: int = Field(default=32, gt=0)
    dim: int = Field(default=128, gt=0)
    num_layers: int = Field(default=2, gt=0)
    num_heads: int = Field(default=4, gt=0)


class SingleLatentAction(StandardPrior):
    """One action for all; see the module's docstring.

    Example:
        >>> from worldkit.testing.examples import example_latent, example_spec
        >>> config, spec = SingleLatentActionConfig(dim=8, num_layers=1, num_heads=2), example_spec()
        >>> actions = SingleLatentAction(config, spec=spec, anchors={}, window=4, dynamics_dim=12)
        >>> actions(example_latent(spec, time=5), Condition())[0].params.shape
        torch.Size([2, 4, 1, 64])
    """

    Config = SingleLatentActionConfig
    requires = frozenset({"continuous"})
    takes = frozenset()
    gives = frozenset({"frame"})
    config: SingleLatentActionConfig

    def __init__(self, config: SingleLatentActionConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor],
                 window: int, dynamics_dim: int, memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, dynamics_dim=dynamics_dim,
                         memory_length=memory_length)
        self.cond_dim = config.dim
        self.embed_latent = LatentEmbed(spec, config.dim, anchors=anchors)
        self.action_token = nn.Parameter(0.02 * torch.randn(config.dim))
        self.encoder = SpaceTimeTransformer(dim=config.dim, num_layers=config.num_layers, num_heads=config.num_heads,
                                            num_tokens=spec.num_tokens + 1, max_frames=window + 1, still=False)
        self.to_action = quiet_head(config.dim, config.action_dim, config.initial_std)
        self.center = make_center(config.center, config.action_dim)
        self.to_condition = nn.Linear(config.action_dim, dynamics_dim)

    def embed(self, z: Latent) -> Tensor:
        return self.embed_latent(z, mark_views=False)

    def read(self, z: Latent) -> ActionDist:
        tokens = self.embed_latent(z)
        token = repeat(self.action_token, "d -> b t 1 d", b=tokens.shape[0], t=tokens.shape[1])
        seen = self.encoder(torch.cat([token, tokens], 2))[:, 1:, :1]
        return self._centered(self.to_action(seen), self.center)

    def condition(self, action: Tensor) -> Condition:
        return Condition(frame=self.to_condition(action[:, :, 0]))
