"""The pixels themselves as a latent, for models that predict pictures and not what is in them.

A grid of height x width tokens, each a point of as many numbers as the picture has channels, in [-1, 1]. There is
nothing to learn, and nothing is copied beyond the one change of scale: the tokens are a view of the pictures.

Source: DIAMOND (arXiv:2405.12399) predicts pixels, and image diffusion models draw them.
"""

from __future__ import annotations

from einops import rearrange
from pydantic import Field
from torch import Tensor

from ..batch import check_shape
from ..config import ComponentConfig, ObsSpec
from ..distributions import Sampler
from ..errors import ConfigError
from ..latents import LatentDist, Pixels, pixel_spec
from ..nn.denoiser import resized
from .base import Encoder, Encoding


class IdentityEncoderConfig(ComponentConfig):
    """Options of the identity encoder.

    Attributes:
        factor: Beside the pixels themselves (group "fine") there are those of the picture that many times smaller
            (bicubic), for models that predict small pictures and draw them in full size afterwards. 1: none.
    """

    name: str = "identity"
    factor: int = Field(default=1, ge=1)


class IdentityEncoder(Encoder):
    """Frame -> its pixels in [-1, 1]; views side by side in one group, view-major.

    Raises:
        ConfigError: there is no picture.
    Example:
        >>> import torch
        >>> encoder = IdentityEncoder(IdentityEncoderConfig(), obs=ObsSpec(height=8, width=6))
        >>> z = encoder(torch.ones(2, 5, 3, 8, 6), sampler=Sampler()).latent
        >>> z, encoder.spec.grid, z.pixels.unique().tolist(), z.maps.shape
        (Pixels(pixels.pixels[2, 5, 48, 3]), (8, 6), [1.0], torch.Size([2, 5, 1, 3, 8, 6]))
    """

    Config = IdentityEncoderConfig
    default_decoder = "identity"
    config: IdentityEncoderConfig

    def __init__(self, config: IdentityEncoderConfig, *, obs: ObsSpec):
        super().__init__(config, obs=obs)
        if not obs.height:
            raise ConfigError("encoder 'identity' takes pictures as they are, but these observations have none "
                              "(obs.height is 0): use encoder=mlp, which reads vectors")
        if obs.height % config.factor or obs.width % config.factor:
            fits = [f for f in range(1, min(obs.height, obs.width)) if not obs.height % f and not obs.width % f]
            raise ConfigError(f"an image of {obs.height} x {obs.width} cannot be made encoder.factor {config.factor} "
                              f"times smaller; factors that fit: {', '.join(map(str, fits))}")
        self.spec = pixel_spec(height=obs.height, width=obs.width, channels=obs.channels, views=obs.views,
                               factor=config.factor)

    def forward(self, video: Tensor, *, sampler: Sampler) -> Encoding:
        obs = self.obs
        if obs.views == 1:
            check_shape(video, "b t c h w", name="video", c=obs.channels, h=obs.height, w=obs.width)
            maps = video[:, :, None]
        else:
            check_shape(video, "b v t c h w", name="video", v=obs.views, c=obs.channels, h=obs.height, w=obs.width)
            maps = rearrange(video, "b v t c h w -> b t v c h w")
        maps, factor = 2 * maps - 1, self.config.factor
        if factor == 1:
            z = Pixels.of_maps(self.spec, maps)
        else:
            small = resized(maps.flatten(0, 2), self.spec.grid)
            z = Pixels.of_maps(self.spec, small.unflatten(0, maps.shape[:3]), maps)
        return Encoding(LatentDist(self.spec, z.values), z)
