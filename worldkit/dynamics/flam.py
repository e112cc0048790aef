"""FLAM's dynamics: patches are taken apart into slots, slots move by their own actions, patches follow the slots.

A factorizer makes slots of the patches seen so far; forward dynamics make of every slot, of the others as they are and
of its own action alone, the slot of the next frame; an aggregator lets every patch ask those slots how it changes. What
stands still goes through the residual, so slots need to carry what moves, and no more: they bind to what acts by
itself, not to what looks alike. Nothing reconstructs slots, and nothing holds predicted ones against seen ones.

Latent actions are about the slots (`Dynamics.factors`): ``latent_action = "factored"`` gives each slot one of its own.
In a rollout slots are made anew of the predicted patches, since predicted slots are not trained to be those of patches.

Source: FLAM (arXiv:2602.16229); no code is public. Known: the four modules and who attends to whom, K slots with
learned starts, causal attention over each slot's own past inside every iteration, the residual, the loss. Not known, so
ours: widths, heads and layers, the number of iterations, how positions enter (waves), the token that stands for no
slot, initial weights that keep the signal, that a rollout makes slots anew, that slots of clips longer than the window
are those of the window that ends with each frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from ..conditions import Condition
from ..config import ComponentConfig
from ..distributions import Delta
from ..latents import Field as LatentField
from ..latents import Latent, LatentDist, LatentSpec, TokenGroup
from ..nn.factors import Aggregator, Factorizer, ForwardFactors, Places
from ..nn.slots import keep_signal
from ..nn.spec import LatentEmbed, LatentHead
from .base import Dynamics


class FLAMConfig(ComponentConfig):
    """Options of FLAM's dynamics.

    Attributes:
        num_factors: K, the number of slots. More than there are things to move do no harm; fewer share one.
        dim: Width of slots and of everything else.
        num_iterations: Rounds of slot attention.
        num_layers: Blocks of the forward dynamics.
        aggregator_layers: Of the aggregator.
        num_heads: Of all attention but that of the slots.
        sharpness: How hard slots compete, a factor on keys. With more, slots come apart sooner, and may be stuck with
            what they have: shares that are 0 or 1 let no gradient through.
        temporal: Slots look at their own past; False: an ablation, see `worldkit.nn.factors.Factorizer`.
    """

    name: str = "flam"
    num_factors: int = Field(default=4, gt=0)
    dim: int = Field(default=128, gt=0)
    num_iterations: int = Field(default=3, gt=0)
    num_layers: int = Field(default=4, gt=0)
    aggregator_layers: int = Field(default=2, gt=0)
    num_heads: int = Field(default=4, gt=0)
    sharpness: float = Field(default=3.0, gt=0)
    temporal: bool = True


class FLAM(Dynamics):
    """See the module's docstring.

    Example:
        >>> from worldkit.testing.examples import example_latent, example_spec
        >>> config = FLAMConfig(num_factors=3, dim=8, num_layers=1, aggregator_layers=1, num_heads=2)
        >>> dynamics = FLAM(config, spec=example_spec(kind="patches"), anchors={}, window=4)
        >>> z = example_latent(dynamics.spec)
        >>> slots = dynamics.factors(z)
        >>> slots.shape, dynamics.factor_spec.num_tokens, dynamics.prior(z, Condition(), factors=slots).shape
        (torch.Size([2, 4]), 3, torch.Size([2, 4]))
    """

    Config = FLAMConfig
    factorizes = True
    requires = frozenset({"grid", "continuous"})
    takes = frozenset({"frame", "token"})

    def __init__(self, config: FLAMConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
                 memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, memory_length=memory_length)
        dim, heads = config.dim, config.num_heads
        self.cond_dim = dim
        field = LatentField("features", dim, Delta(), "what moves by itself")
        group = TokenGroup("slots", config.num_factors, (field,))
        self._slots = LatentSpec((group,), kind="slots")
        self.embed_latent = LatentEmbed(spec, dim, anchors=anchors)
        assert spec.grid is not None  # it requires one
        self.places = Places(dim, grid=spec.grid, views=spec.views)
        self.factorizer = Factorizer(dim, num_factors=config.num_factors, num_iterations=config.num_iterations,
                                     num_heads=heads, max_frames=window + 1, temporal=config.temporal,
                                     sharpness=config.sharpness)
        self.forward_factors = ForwardFactors(dim, num_layers=config.num_layers, num_heads=heads, max_frames=window)
        self.aggregator = Aggregator(dim, num_layers=config.aggregator_layers, num_heads=heads)
        keep_signal(self)
        self.head = LatentHead(spec, dim, anchors=anchors)
        self.head.start_at_rest()

    @property
    def factor_spec(self) -> LatentSpec:
        return self._slots

    def shares(self, z: Latent) -> Tensor:
        """Share of every slot in every patch, ``[B, T, K, P]``, for T <= window + 1; sums to 1 over slots."""
        return self.factorizer(self.embed_latent(z), self.places())[1]

    def factors(self, z: Latent) -> Latent:
        """Slots of any number of frames; one beyond ``window + 1`` is read in the window that ends with it."""
        patches, places, reach = self.embed_latent(z), self.places(), self.window + 1
        slots, _ = self.factorizer(patches[:, :reach], places)
        if patches.shape[1] > reach:
            later = patches.unfold(1, reach, 1)[:, 1:]  # [B, windows, P, D, reach]
            batch, count = later.shape[:2]
            windows = later.flatten(0, 1).movedim(-1, 1)
            slots = torch.cat([slots, self.factorizer(windows, places)[0][:, -1].unflatten(0, (batch, count))], 1)
        return Latent.build(self._slots, {("slots", "features"): slots})

    def newest_factors(self, carry: Any, z: Latent) -> Latent:
        return self.factors(carry.history[:, -(self.window + 1) :])[:, -1:]

    def prior(self, z: Latent, cond: Condition, *, factors: Latent | None = None) -> LatentDist:
        """See `Dynamics.prior`; ``factors``: what `factors` makes of ``z``, where it is known."""
        slots = (self.factors(z) if factors is None else factors).values["slots", "features"]
        moved = self.forward_factors(slots, cond.adaln())
        return self.head(self.aggregator(self.embed_latent(z) + self.places(), moved)).shift(z)

    def features(self, z: Latent, cond: Condition) -> Tensor:
        """As `Dynamics.features`; what slots are told is averaged."""
        told = cond.adaln()
        return super().features(z, Condition(frame=None if told is None else told.mean(2)))
