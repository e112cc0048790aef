"""Mosaic: a frame as coarse colour tiles, one token per patch, through a single linear layer each way.

A patch is averaged to ``cells x cells`` colours before the encoder sees it, so whatever is smaller than a cell is gone:
a floor that richer encoders should beat. Encoder and decoder live in one file because they agree on the cells.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field as Option
from torch import Tensor, nn

from worldkit import ConfigError, Latent, register_decoder, register_encoder
from worldkit.config import ComponentConfig, ObsSpec
from worldkit.decoders import Decoded, Decoder
from worldkit.distributions import Normal, Sampler
from worldkit.encoders import Encoder, Encoding
from worldkit.latents import Field, LatentDist, LatentSpec, TokenGroup


class MosaicConfig(ComponentConfig):
    """Options of both sides of the mosaic.

    Attributes:
        patch_size: Side of a patch in pixels; one token per patch.
        cells: Side of a patch in cells; a cell is one average colour.
    """

    name: str = "mosaic"
    patch_size: int = Option(default=8, gt=0)
    cells: int = Option(default=4, gt=0)

    def grid(self, obs: ObsSpec) -> tuple[int, int]:
        """Patches in (height, width).

        Raises:
            ConfigError: if patches do not fill the image, or cells a patch.
        """
        if obs.height % self.patch_size or obs.width % self.patch_size:
            raise ConfigError(f"patch_size {self.patch_size} must divide the image, {obs.height} x {obs.width} pixels")
        if self.patch_size % self.cells:
            raise ConfigError(f"cells {self.cells} must divide patch_size {self.patch_size}")
        return obs.height // self.patch_size, obs.width // self.patch_size


class MosaicEncoderConfig(MosaicConfig):
    """Options of the encoder.

    Attributes:
        feature_dim: Numbers per token.
    """

    feature_dim: int = Option(default=16, gt=0)


@register_encoder("mosaic")
class MosaicEncoder(Encoder):
    """Average colours -> a Gaussian per patch."""

    Config = MosaicEncoderConfig
    default_decoder = "mosaic"

    def __init__(self, config: MosaicEncoderConfig, *, obs: ObsSpec):
        super().__init__(config, obs=obs)
        height, width = config.grid(obs)
        group = TokenGroup("patches", obs.views * height * width, (Field("features", config.feature_dim, Normal()),))
        self.spec = LatentSpec((group,), grid=(height, width), views=obs.views, kind="patches")
        self.project = nn.Linear(obs.channels * config.cells**2, 2 * config.feature_dim)

    def forward(self, video: Tensor, *, sampler: Sampler) -> Encoding:
        cells = self.config.cells
        colours = F.avg_pool2d(self.fold_frames(video), self.config.patch_size // cells)
        patches = rearrange(colours, "f c (h y) (w x) -> f (h w) (c y x)", y=cells, x=cells)
        params = rearrange(self.project(patches), "(b v t) n d -> b t (v n) d", b=len(video), v=self.obs.views)
        posterior = LatentDist(self.spec, {("patches", "features"): params})
        return Encoding(posterior, posterior.sample(sampler))

    def static_prior(self, encoding: Encoding) -> LatentDist:
        return self._standard_normal(*encoding.posterior.shape)

    def first_frame_prior(self, batch_size: int) -> LatentDist:
        return self._standard_normal(batch_size, 1)

    def _standard_normal(self, batch: int, time: int) -> LatentDist:
        group = self.spec.groups[0]
        zeros = torch.zeros(batch, time, group.size, 2 * group.fields[0].dim, device=self.project.weight.device)
        return LatentDist(self.spec, {("patches", "features"): zeros})


@register_decoder("mosaic")
class MosaicDecoder(Decoder):
    """Patch features -> colours of the cells, enlarged to the image."""

    Config = MosaicConfig
    kinds = frozenset({"patches"})

    def __init__(self, config: MosaicConfig, *, spec: LatentSpec, obs: ObsSpec):
        super().__init__(config, spec=spec, obs=obs)
        if config.grid(obs) != spec.grid:
            raise ConfigError(f"decoder patches form a grid of {config.grid(obs)}, but the latent has {spec.grid}: "
                              "give encoder and decoder the same patch_size")
        self.project = nn.Linear(spec.groups[0].fields[0].dim, obs.channels * config.cells**2)

    def forward(self, z: Latent, *, masks: bool = False) -> Decoded:
        (height, width), cells, views = self.spec.grid, self.config.cells, self.obs.views
        colours = rearrange(
            self.project(z.values["patches", "features"]), "b t (v h w) (c y x) -> (b v t) c (h y) (w x)",
            v=views, h=height, w=width, y=cells, x=cells,
        )
        frames = F.interpolate(colours, (self.obs.height, self.obs.width), mode="bilinear", align_corners=False)
        video = rearrange(frames, "(b v t) c h w -> b v t c h w", b=z.shape[0], v=views)
        return Decoded(video if views > 1 else video[:, 0])
