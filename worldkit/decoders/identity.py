"""Pixels as latents -> pixels as a picture: from [-1, 1] to [0, 1], not clamped. The inverse of encoder `identity`."""

from __future__ import annotations

from typing import cast

from einops import rearrange

from ..config import ComponentConfig, ObsSpec
from ..errors import IncompatibleComponentsError
from ..latents import Latent, LatentSpec, Pixels
from .base import Decoded, Decoder


class IdentityDecoderConfig(ComponentConfig):
    """The identity decoder has no options."""

    name: str = "identity"


class IdentityDecoder(Decoder):
    """Pixels -> video; ``Decoded.masks`` stays None, as every pixel is its own.

    Example:
        >>> from worldkit.testing import example_latent, example_spec
        >>> spec = example_spec(kind="pixels")
        >>> decoder = IdentityDecoder(IdentityDecoderConfig(), spec=spec, obs=ObsSpec(height=8, width=8))
        >>> decoder(example_latent(spec, batch=2, time=3)).video.shape
        torch.Size([2, 3, 3, 8, 8])
    """

    Config = IdentityDecoderConfig
    kinds = frozenset({"pixels"})

    def __init__(self, config: IdentityDecoderConfig, *, spec: LatentSpec, obs: ObsSpec):
        super().__init__(config, spec=spec, obs=obs)
        if spec.find("pixels") is None:
            raise IncompatibleComponentsError(
                "decoder 'identity' draws pixels as they are, but this dynamics puts states in their place: take "
                "encoder=conv, which gives it one vector per picture, or a dynamics that predicts pixels"
            )

    def forward(self, z: Latent, *, masks: bool = False) -> Decoded:
        pixels = cast(Pixels, z)
        maps = ((pixels.maps if len(self.spec.groups) == 1 else pixels.fine) + 1) / 2
        return Decoded(video=maps[:, :, 0] if self.spec.views == 1 else rearrange(maps, "b t v c h w -> b v t c h w"))
