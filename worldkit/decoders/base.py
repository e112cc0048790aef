"""The decoder contract: latent -> video."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..component import Component
from ..config import ComponentConfig, ObsSpec
from ..errors import ShapeError
from ..latents import Latent, LatentSpec
from ..nn.two_hot import symlog


@dataclass(frozen=True)
class Decoded:
    """What a decoder drew. With several views every tensor has a view axis after the batch axis.

    Attributes:
        video: ``[B, T, C, H, W]``, not clamped; nominally in [0, 1].
        masks: Share of every drawn token in every pixel, ``[B, T, K, 1, H, W]``, if asked for.
        foreground: What the tokens drew, ``[B, T, C, H, W]``, if the decoder separates it.
        background: The background, ``[B, T, C, H, W]``, likewise.
        background_mask: Share of the background in every pixel, ``[B, T, 1, H, W]``, likewise.
        glimpses: Every drawn token alone, ``[B, T, K, 4, P, P]`` (alpha, red, green, blue), likewise.
        tokens: Which tokens were drawn, ``[B, T, K]``; None = all in order.
        vectors: What is predicted of the vectors beside the video, by name: ``[B, T, S]`` in their own units, of
            discrete ones the probabilities of their classes.
        raw: The same before units and probabilities, for losses.
    """

    video: Tensor
    masks: Tensor | None = None
    foreground: Tensor | None = None
    background: Tensor | None = None
    background_mask: Tensor | None = None
    glimpses: Tensor | None = None
    tokens: Tensor | None = None
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    raw: Mapping[str, Tensor] = field(default_factory=dict)

    def after(self, frames: int) -> Decoded:
        """The same without the first ``frames`` frames."""
        if not frames:
            return self

        def cut(x: Tensor | None, axis: int) -> Tensor | None:
            return None if x is None else x.narrow(axis, frames, x.shape[axis] - frames)

        axes = {"video": -4, "masks": -5, "foreground": -4, "background": -4, "background_mask": -4, "glimpses": -5,
                "tokens": -2}
        told = {name: {key: cut(x, 1) for key, x in getattr(self, name).items()} for name in ("vectors", "raw")}
        return Decoded(**{name: cut(getattr(self, name), axis) for name, axis in axes.items()}, **told)


class Decoder(Component, ABC):
    """Latent -> video, and vectors beside it.

    Subclasses set ``Config``; ``kinds`` names the latents they can draw (None = any). Those that predict vectors name
    them in ``predicts``, and say with ``predicts_symlog`` whether their raw numbers are symlogs. Those that look back
    on frames before say in ``history`` on how many; `ComposedWorldModel.decode` gives them these (``before=``).
    """

    RETURNS = Decoded
    Config: ClassVar[type[ComponentConfig]]
    WORDS = {"kinds": None}
    kinds: ClassVar[frozenset[str] | None] = None
    history: int = 0
    predicts: tuple[str, ...] = ()
    predicts_symlog: bool = False
    config: ComponentConfig
    spec: LatentSpec
    obs: ObsSpec

    def __init__(self, config: ComponentConfig, *, spec: LatentSpec, obs: ObsSpec):
        super().__init__()
        self.config, self.spec, self.obs = config, spec, obs

    @abstractmethod
    def forward(self, z: Latent, *, masks: bool = False) -> Decoded:
        """Draw every frame; ``masks`` asks for per-token masks, which cost memory."""

    def vector_losses(
        self, drawn: Decoded, vectors: Mapping[str, Tensor], *, likelihood: Literal["squared", "normal"] = "squared"
    ) -> dict[str, Tensor]:
        """How wrong the predicted vectors are, by name, ``[B, T]``; empty of decoders that predict none.

        Args:
            drawn: What `forward` gave.
            vectors: What was observed, as in ``Batch.vectors``.
            likelihood: ``"squared"``: squared errors, summed over numbers (of symlogs, if these are predicted);
                ``"normal"``: the negative log-likelihood under N(., 1). Of discrete ones it is the cross-entropy.
                Values that are missing (-inf, -1) cost nothing.
        Raises:
            ShapeError: a vector that is predicted was not observed.
        """
        losses = {}
        for name, raw in drawn.raw.items():
            if name not in vectors:
                raise ShapeError(f"decoder '{self.config.name}' predicts the vector '{name}', which the batch lacks "
                                 f"(its vectors: {', '.join(sorted(vectors)) or 'none'})")
            value = vectors[name]
            if name in self.obs.discrete:
                loss = F.cross_entropy(raw.flatten(0, 1), value.flatten(), ignore_index=-1, reduction="none")
                losses[name] = loss.view(value.shape)
                continue
            missing = value == -torch.inf
            value = torch.where(missing, 0, value)
            error = (raw - (symlog(value) if self.predicts_symlog else value)).square()
            if likelihood == "normal":
                error = 0.5 * error + 0.5 * math.log(2 * math.pi)
            losses[name] = torch.where(missing, 0, error).sum(-1)
        return losses
