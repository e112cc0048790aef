"""Factored latent actions of FLAM: one Gaussian action per factor, of which no other factor's next state tells.

The action of factor i between frames t and t + 1 is read off the states of all factors up to t and off that of factor i
alone at t + 1; one network serves all factors. The prior is a standard normal, whatever was seen: there is no policy.
Factors are the tokens of the latent, slots or particles, or those that the dynamics makes of it (`flam`).

With dynamics `flam` or `factored` an action reaches its own factor alone. Other dynamics mix what tokens are told.

How wide: d numbers for all of K factors are d / K for each.

Source: FLAM (arXiv:2602.16229), section on inverse dynamics; no code is public. Known: who reads what, mean and
deviation, the prior. Not known, so ours: widths, layers, how the reached state is compared (attention of it to its
factor's past), how little noise there is at first.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..conditions import Condition
from ..errors import IncompatibleComponentsError
from ..latents import Latent, LatentSpec
from ..nn.factors import InverseFactors
from ..nn.slots import keep_signal
from ..nn.spec import LatentEmbed
from .base import ActionDist
from .standard import StandardConfig, StandardPrior, make_center, quiet_head


class FactoredLatentActionConfig(StandardConfig):
    """Options of factored latent actions.

    Attributes:
        action_dim: Width of the action of one factor.
        num_factors: The first so many tokens have actions, the others none; None: all of them.
        dim, num_layers, num_heads: The network.
    """

    name: str = "factored"
    action_dim: int = Field(default=8, gt=0)
    num_factors: int | None = Field(default=None, gt=0)
    dim: int = Field(default=128, gt=0)
    num_layers: int = Field(default=2, gt=0)
    num_heads: int = Field(default=4, gt=0)


class FactoredLatentAction(StandardPrior):
    """One action per factor; see the module's docstring.

    Raises:
        IncompatibleComponentsError: more factors are asked for than the latent has tokens.
    Example:
        >>> from worldkit.testing.examples import example_latent, example_spec
        >>> config, spec = FactoredLatentActionConfig(dim=8, num_layers=1, num_heads=2), example_spec(kind="slots")
        >>> actions = FactoredLatentAction(config, spec=spec, anchors={}, window=4, dynamics_dim=12)
        >>> posterior, prior = actions(example_latent(spec, time=5), Condition())
        >>> posterior.params.shape, prior.params.shape, posterior.kl(prior[:, :-1]).shape
        (torch.Size([2, 4, 4, 16]), torch.Size([2, 5, 4, 16]), torch.Size([2, 4, 4]))
    """

    Config = FactoredLatentActionConfig
    requires = frozenset({"continuous", "tracked"})
    takes = frozenset()
    gives = frozenset({"token"})
    config: FactoredLatentActionConfig

    def __init__(self, config: FactoredLatentActionConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor],
                 window: int, dynamics_dim: int, memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, dynamics_dim=dynamics_dim,
                         memory_length=memory_length)
        tokens = spec.num_tokens
        if config.num_factors is not None and config.num_factors > tokens:
            groups = " + ".join(f"{g.size} {g.name}" for g in spec.groups)
            raise IncompatibleComponentsError(
                f"latent_action.num_factors {config.num_factors} asks for more actions than there are factors: this "
                f"model has {tokens} ({groups}). Set latent_action.num_factors to {tokens} or less, or give the model "
                "more slots (encoder.num_slots, or dynamics.num_factors of 'flam')")
        self.cond_dim, self.factors = config.dim, config.num_factors or tokens
        self.embed_latent = LatentEmbed(spec, config.dim, anchors=anchors)
        self.inverse = InverseFactors(config.dim, num_layers=config.num_layers, num_heads=config.num_heads,
                                      max_frames=window)
        keep_signal(self)
        self.to_action = quiet_head(config.dim, config.action_dim, config.initial_std)
        self.center = make_center(config.center, self.factors * config.action_dim)
        self.to_condition = nn.Linear(config.action_dim, dynamics_dim)

    def embed(self, z: Latent) -> Tensor:
        return self.embed_latent(z, mark_views=False)

    @property
    def count(self) -> int:
        return self.factors

    def read(self, z: Latent) -> ActionDist:
        told = self.inverse(self.embed_latent(z))[:, :, : self.factors]
        return self._centered(self.to_action(told), self.center)

    def condition(self, action: Tensor) -> Condition:
        missing = self.spec.num_tokens - action.shape[2]
        return Condition(token=F.pad(self.to_condition(action), (0, 0, 0, missing)))
