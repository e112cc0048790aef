"""Genie's video tokenizer: patches through a spatio-temporal transformer, every token to the nearest of learned codes.

Causal in time: the codes of a frame know the frames before it, up to ``window`` of them with itself, and so need not
say again what these have said. Beyond the window every frame is read in the window that ends with it. Sides that are no
multiple of a patch are filled up with zeros at the bottom and on the right (the paper's 90 x 160 need that; it does not
say how).

Source: Genie (arXiv:2402.15391), section 2.1.2 and tables 5, 7, 8. Left open there and chosen here: unit codes,
restarts of idle codes from vectors of the batch, a commitment of 0.25.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..batch import check_shape
from ..config import ComponentConfig, ObsSpec
from ..distributions import Categorical, Delta, Sampler
from ..errors import ConfigError
from ..latents import Field as LatentField
from ..latents import Latent, LatentDist, LatentSpec, TokenGroup
from ..nn.patches import patch_grid, to_patches
from ..nn.quantize import Center, UnitQuantizerConfig, VectorQuantizer, perplexity
from ..nn.space_time import SpaceTimeTransformer
from .base import Encoder, Encoding


class SpaceTimeVQConfig(ComponentConfig):
    """Options of the spatio-temporal tokenizer.

    Attributes:
        patch_size: Side of a patch, pixels.
        dim, num_layers, num_heads, dropout: The transformer; a layer is a block of attention in space, attention in
            time and a feed-forward.
        head_dim: Width of a head; None: ``dim / num_heads``.
        window: Frames that a frame's codes depend on at most, itself included.
        quantizer: The codes.
        center: ``"batch"``: vectors are made 0 on average and 1 wide before they are compared with codes, see
            `worldkit.nn.quantize.Center`. ``"none"``: the paper.
    """

    name: str = "space-time-vq"
    patch_size: int = Field(default=4, gt=0)
    dim: int = Field(default=512, gt=0)
    num_layers: int = Field(default=8, gt=0)
    num_heads: int = Field(default=8, gt=0)
    head_dim: int | None = Field(default=None, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    window: int = Field(default=16, gt=0)
    quantizer: UnitQuantizerConfig = UnitQuantizerConfig()
    center: Literal["none", "batch"] = "none"


class SpaceTimeVQ(Encoder):
    """Video -> codes on a grid, one field "code" of whole numbers. ``Encoding.aux`` is what the quantiser found.

    Example:
        >>> from worldkit.config import ObsSpec
        >>> sizes = {"dim": 16, "num_layers": 1, "num_heads": 2}
        >>> config = SpaceTimeVQConfig(patch_size=8, quantizer={"codes": 5, "dim": 4}, **sizes)
        >>> encoder = SpaceTimeVQ(config, obs=ObsSpec(height=20, width=32))
        >>> encoder(torch.rand(2, 3, 3, 20, 32), sampler=Sampler()).latent.features.shape, encoder.spec.grid
        (torch.Size([2, 3, 12, 1]), (3, 4))
    """

    Config = SpaceTimeVQConfig
    default_decoder = "space-time"
    borders = False

    def __init__(self, config: SpaceTimeVQConfig, *, obs: ObsSpec):
        super().__init__(config, obs=obs)
        if obs.views > 1:
            raise ConfigError(f"encoder 'space-time-vq' sees one camera, and obs.views is {obs.views}: take encoder "
                              "'patch', or one view")
        grid = patch_grid(obs.height, obs.width, config.patch_size)
        code = LatentField("code", 1, Categorical(config.quantizer.codes, index=True), "number of a code")
        group = TokenGroup("patches", grid[0] * grid[1], (code,))
        self.spec = LatentSpec((group,), grid=grid, kind="patches")
        vector = LatentField("features", config.quantizer.dim, Delta(), "vector of a code")
        self._drawn = replace(self.spec, groups=(replace(group, fields=(vector,)),))
        self.embed_patches = nn.Linear(obs.channels * config.patch_size**2, config.dim)
        self.transformer = SpaceTimeTransformer(
            dim=config.dim, num_layers=config.num_layers, num_heads=config.num_heads, head_dim=config.head_dim,
            dropout=config.dropout, num_tokens=self.spec.num_tokens, max_frames=config.window,
        )
        self.to_code = nn.Linear(config.dim, config.quantizer.dim)
        self.center = Center(config.quantizer.dim) if config.center == "batch" else nn.Identity()
        self.quantizer = VectorQuantizer(config.quantizer)

    @property
    def drawn_spec(self) -> LatentSpec:
        return self._drawn

    def forward(self, video: Tensor, *, sampler: Sampler) -> Encoding:
        obs = self.obs
        check_shape(video, "b t c h w", name="video", c=obs.channels, h=obs.height, w=obs.width)
        tokens = self.transformer.slide(self.embed_patches(to_patches(video, self.config.patch_size)))
        vectors = self.center(self.to_code(tokens))
        found = self.quantizer(vectors, sampler)
        latent = Latent.build(self.spec, {("patches", "code"): found.codes[..., None]})
        posterior = LatentDist(self.spec, {("patches", "code"): -self.quantizer.distances(vectors)})
        drawn = Latent.build(self._drawn, {("patches", "features"): found.vectors})
        return Encoding(posterior, latent, found, drawn=drawn)

    def look_up(self, z: Latent) -> Latent:
        vectors = self.quantizer.look_up(z.values["patches", "code"][..., 0])
        return Latent.build(self._drawn, {("patches", "features"): vectors})

    def regularizers(self, encoding: Encoding) -> dict[str, Tensor]:
        """What draws codes and vectors to one another, means over tokens; the commitment is weighted."""
        found = encoding.aux
        return {"codebook": found.codebook.mean(2), "commitment": found.beta * found.commitment.mean(2)}

    @torch.no_grad()
    def summary(self, encoding: Encoding) -> dict[str, Tensor]:
        """Perplexity of the codes of a batch: how many are in use."""
        return {"perplexity": perplexity(encoding.aux.codes, self.config.quantizer.codes)}
