"""The encoder of "World Models": a frame to one Gaussian vector, by a stack of convolutions with stride 2.

Defaults are the paper's for 64 x 64 pixels: 32, 64, 128 and 256 channels, kernels of 4, 32 numbers (VizDoom: 64).
Smaller pictures take fewer ``multipliers``.

Source: Ha and Schmidhuber, "World Models" (arXiv:1803.10122; NeurIPS version 1809.01999), appendix A.1. With decoder
``conv-transposed`` it has the paper's 4,348,547 parameters (VizDoom: 4,446,915).
"""

from __future__ import annotations

import torch
from einops import rearrange
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from ..batch import check_shape
from ..config import ComponentConfig, ObsSpec
from ..distributions import Normal, Sampler, full_precision
from ..errors import ConfigError
from ..latents import Field as LatentField
from ..latents import LatentDist, LatentSpec, TokenGroup
from ..nn.conv_tower import ConvTower
from .base import Encoder, Encoding


class ConvVAEConfig(ComponentConfig):
    """Options of the encoder.

    Attributes:
        depth: Channels, times the multipliers.
        multipliers: One per convolution.
        kernel_size: Side of the kernels.
        latent_dim: Numbers of the latent.
    """

    name: str = "conv-vae"
    depth: int = Field(default=32, gt=0)
    multipliers: tuple[PositiveInt, ...] = Field(default=(1, 2, 4, 8), min_length=1)
    kernel_size: int = Field(default=4, gt=1)
    latent_dim: int = Field(default=32, gt=0)


class ConvVAE(Encoder):
    """Video -> one token per frame, with a field "features", a diagonal Gaussian; views are channels.

    Raises:
        ConfigError: there is no picture, or nothing of it is left behind the convolutions.
    Example:
        >>> encoder = ConvVAE(ConvVAEConfig(), obs=ObsSpec(height=64, width=64))
        >>> encoder(torch.rand(2, 5, 3, 64, 64), sampler=Sampler()).latent
        Latent(state.features[2, 5, 1, 32])
    """

    Config = ConvVAEConfig
    default_decoder = "conv-transposed"
    config: ConvVAEConfig

    def __init__(self, config: ConvVAEConfig, *, obs: ObsSpec):
        super().__init__(config, obs=obs)
        if not obs.height:
            raise ConfigError("encoder 'conv-vae' reads pictures, but these observations have none (obs.height is 0): "
                              "use encoder=mlp, which reads vectors")
        self.tower = ConvTower(
            obs.views * obs.channels, (obs.height, obs.width), [config.depth * m for m in config.multipliers],
            kernel_size=config.kernel_size, shrink="stride", padding="valid", norm="none", activation="relu", eps=1e-4,
            init="glorot",
        )
        if min(side for size in self.tower.sizes for side in size) < 1:
            sizes = " -> ".join(f"{h}x{w}" for h, w in self.tower.sizes if h > 0 and w > 0)
            raise ConfigError(
                f"an image of {obs.height} x {obs.width} is too small for {len(config.multipliers)} convolutions of "
                f"encoder 'conv-vae' with kernel_size {config.kernel_size} ({sizes}, then nothing is left): use a "
                f"larger image, or fewer multipliers than {list(config.multipliers)}"
            )
        self.out = nn.Linear(self.tower.width, 2 * config.latent_dim)
        features = LatentField("features", config.latent_dim, Normal(), "appearance")
        self.spec = LatentSpec((TokenGroup("state", 1, (features,)),))

    def forward(self, video: Tensor, *, sampler: Sampler) -> Encoding:
        obs = self.obs
        if obs.views == 1:
            check_shape(video, "b t c h w", name="video", c=obs.channels, h=obs.height, w=obs.width)
            frames = video.flatten(0, 1)
        else:
            check_shape(video, "b v t c h w", name="video", v=obs.views, c=obs.channels, h=obs.height, w=obs.width)
            frames = rearrange(video, "b v t c h w -> (b t) (v c) h w")
        params = full_precision(self.out(self.tower(frames)))
        params = params.unflatten(0, (video.shape[0], video.shape[-4])).unsqueeze(2)
        posterior = LatentDist(self.spec, {("state", "features"): params})
        return Encoding(posterior, posterior.sample(sampler))

    def static_prior(self, encoding: Encoding) -> LatentDist:
        """N(0, 1) for every number."""
        return encoding.posterior.map(torch.zeros_like)  # mean 0, log-variance 0

    def first_frame_prior(self, batch_size: int) -> LatentDist:
        """N(0, 1) for every number."""
        params = self.out.bias.new_zeros(batch_size, 1, 1, 2 * self.config.latent_dim)
        return LatentDist(self.spec, {("state", "features"): params})
