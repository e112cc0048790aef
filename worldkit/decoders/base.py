"""The decoder contract: latent -> video."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..component import Component
from ..config import ComponentConfig, ObsSpec
from ..latents import Latent, LatentSpec


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
    """

    video: Tensor
    masks: Tensor | None = None
    foreground: Tensor | None = None
    background: Tensor | None = None
    background_mask: Tensor | None = None
    glimpses: Tensor | None = None
    tokens: Tensor | None = None


class Decoder(Component, ABC):
    """Latent -> video. Subclasses set ``Config``; ``kinds`` names the latents they can draw (None = any)."""

    RETURNS = Decoded
    Config: ClassVar[type[ComponentConfig]]
    WORDS = {"kinds": None}
    kinds: ClassVar[frozenset[str] | None] = None
    config: ComponentConfig
    spec: LatentSpec
    obs: ObsSpec

    def __init__(self, config: ComponentConfig, *, spec: LatentSpec, obs: ObsSpec):
        super().__init__()
        self.config, self.spec, self.obs = config, spec, obs

    @abstractmethod
    def forward(self, z: Latent, *, masks: bool = False) -> Decoded:
        """Draw every frame; ``masks`` asks for per-token masks, which cost memory."""
