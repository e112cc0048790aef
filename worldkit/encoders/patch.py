"""The patch encoder: a frame as a grid of Gaussian patch latents, trained end to end.

With it, LPWM's dynamics and latent actions become the DVAE baseline of the LPWM paper: the same network over patches in
place of particles. One convolution stack sees the whole frame, so that a token knows its surroundings; every cell of
its map becomes the mean and log-variance of one token.

Left out, because a patch has no such thing: positions, scales, transparency, and the choice of tokens to look at.

Source: LPWM (arXiv:2603.04553), which describes the baseline in words only; the convolution stack is the one of LPWM's
background, the rest is ours.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from ..config import ComponentConfig, ObsSpec
from ..distributions import Normal, Sampler, full_precision
from ..errors import ConfigError
from ..latents import Field as LatentField
from ..latents import LatentDist, LatentSpec, TokenGroup
from ..nn.conv import ConvConfig, ConvEncoder, Padding
from .base import Encoder, Encoding


class PatchEncoderConfig(ComponentConfig):
    """Options of the patch encoder.

    Attributes:
        patch_size: Side of a patch, pixels; divides height and width.
        feature_dim: Width of a token.
        hidden_dim: Width of the layer between map and token.
        cnn: Convolution stack over the frame; it halves the side at most down to one cell per patch.
        padding: Padding of the stack.
    """

    name: str = "patch"
    patch_size: int = Field(default=16, gt=0)
    feature_dim: int = Field(default=10, gt=0)
    hidden_dim: int = Field(default=256, gt=0)
    cnn: ConvConfig = ConvConfig(channel_multipliers=(1, 1, 1, 2, 4))
    padding: Padding = "zeros"


class PatchEncoder(Encoder):
    """Frame -> tokens on a grid, each a diagonal Gaussian. Views are put side by side in one group, view-major.

    Example:
        >>> from worldkit.config import ObsSpec
        >>> config = PatchEncoderConfig(patch_size=8, feature_dim=5, cnn={"channel_multipliers": [1, 2]})
        >>> encoder = PatchEncoder(config, obs=ObsSpec(height=32, width=24))
        >>> encoder(torch.rand(2, 6, 3, 32, 24), sampler=Sampler()).latent.features.shape, encoder.spec.grid
        (torch.Size([2, 6, 12, 5]), (4, 3))
    """

    Config = PatchEncoderConfig
    default_decoder = "patch"

    def __init__(self, config: PatchEncoderConfig, *, obs: ObsSpec):
        super().__init__(config, obs=obs)
        self._check_sizes(config, obs)
        patch, cnn = config.patch_size, config.cnn
        grid = (obs.height // patch, obs.width // patch)
        features = LatentField("features", config.feature_dim, Normal(), "appearance")
        group = TokenGroup("patches", obs.views * grid[0] * grid[1], (features,))
        self.spec = LatentSpec((group,), grid=grid, views=obs.views, kind="patches")
        self.cnn = ConvEncoder(cnn, inputs=obs.channels, padding=config.padding)
        cells = patch // cnn.downsampling  # a patch is cells x cells places of the map
        self.head = nn.Sequential(
            nn.Conv2d(cnn.latent_channels, config.hidden_dim, cells, stride=cells), nn.GELU(),
            nn.Conv2d(config.hidden_dim, 2 * config.feature_dim, 1),
        )
        # Little noise at first (deviation 0.01, a quarter of the means'): with more the decoder ignores the latent.
        nn.init.constant_(self.head[-1].bias[config.feature_dim :], math.log(1e-4))

    @staticmethod
    def _check_sizes(config: PatchEncoderConfig, obs: ObsSpec) -> None:
        patch, cnn = config.patch_size, config.cnn
        if obs.height % patch or obs.width % patch:
            divisors = [p for p in range(2, min(obs.height, obs.width) + 1) if not obs.height % p and not obs.width % p]
            raise ConfigError(
                f"an image of {obs.height} x {obs.width} does not divide into patches of encoder.patch_size {patch}; "
                f"patch sizes that do: {', '.join(map(str, divisors)) or 'none but 1'}"
            )
        if patch % cnn.downsampling:
            raise ConfigError(
                f"encoder.cnn halves its input {len(cnn.channel_multipliers) - 1} times, which patches of {patch} "
                f"pixels do not allow; use fewer channel_multipliers than {list(cnn.channel_multipliers)}"
            )

    def forward(self, video: Tensor, *, sampler: Sampler) -> Encoding:
        params = full_precision(self.head(self.cnn(self.fold_frames(video))))
        params = rearrange(params, "(b v t) d h w -> b t (v h w) d", v=self.obs.views, t=video.shape[-4])
        posterior = LatentDist(self.spec, {("patches", "features"): params})
        return Encoding(posterior, posterior.sample(sampler))

    def static_prior(self, encoding: Encoding) -> LatentDist:
        """N(0, 1) for every token."""
        return encoding.posterior.map(torch.zeros_like)  # mean 0, log-variance 0

    def first_frame_prior(self, batch_size: int) -> LatentDist:
        """N(0, 1) for every token."""
        like = self.head[-1].bias
        params = like.new_zeros(batch_size, 1, self.spec.num_tokens, 2 * self.config.feature_dim)
        return LatentDist(self.spec, {("patches", "features"): params})
