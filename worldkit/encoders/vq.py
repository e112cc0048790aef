"""The VQ encoder: a frame as a grid of codes, each the number of one of a few hundred learned vectors.

A convolution stack makes a map, whose every place is replaced by the nearest vector of a codebook. No gradient passes
the choice of a code; what training draws is `Encoding.drawn`, through which it goes straight to the map.

Source: IRIS (arXiv:2209.00588), whose tokenizer the defaults are, written from a description of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from einops import rearrange, reduce
from torch import Tensor, nn

from ..config import ObsSpec
from ..distributions import Categorical, Delta, Sampler, full_precision
from ..latents import Field, Latent, LatentDist, LatentSpec, TokenGroup
from ..nn.quantize import Quantized, QuantizerConfig, VectorQuantizer
from ..nn.vqgan import StackConfig, down_stack
from .base import Encoder, Encoding

CODE = ("patches", "code")
VECTOR = ("patches", "features")


class VQEncoderConfig(StackConfig):
    """Options of the VQ encoder; sizes of its stack: `worldkit.nn.vqgan.StackConfig`.

    Attributes:
        quantizer: Codes and how they learn, see `worldkit.nn.quantize.QuantizerConfig`.
    """

    name: str = "vq"
    quantizer: QuantizerConfig = QuantizerConfig()


@dataclass(frozen=True)
class VQFound:
    """By-products of the VQ encoder.

    Attributes:
        vectors: Before the choice, ``[B, T, N, D]``.
        quantized: What the quantiser made of them.
    """

    vectors: Tensor
    quantized: Quantized


class VQEncoder(Encoder):
    """Frame -> codes on a grid, row by row; views one after the other in one group.

    Example:
        >>> config = VQEncoderConfig(channels=32, multipliers=(1, 1), map_channels=8, quantizer={"codes": 9, "dim": 4})
        >>> encoder = VQEncoder(config, obs=ObsSpec(height=16, width=16))
        >>> import torch
        >>> z = encoder(torch.rand(2, 3, 3, 16, 16), sampler=Sampler()).latent
        >>> z.values["patches", "code"].shape, encoder.look_up(z).features.shape, encoder.spec.grid
        (torch.Size([2, 3, 64, 1]), torch.Size([2, 3, 64, 4]), (8, 8))
    """

    Config = VQEncoderConfig
    default_decoder = "vq"
    config: VQEncoderConfig

    def __init__(self, config: VQEncoderConfig, *, obs: ObsSpec):
        super().__init__(config, obs=obs)
        grid, codes, dim = config.grid(obs.height, obs.width), config.quantizer.codes, config.quantizer.dim

        def described(field: Field) -> LatentSpec:
            group = TokenGroup("patches", obs.views * grid[0] * grid[1], (field,))
            return LatentSpec((group,), grid=grid, views=obs.views, kind="patches")

        self.spec = described(Field("code", 1, Categorical(codes, index=True), "number of a learned vector"))
        self.drawn_as = described(Field("features", dim, Delta(), "the vector"))
        self.stack = down_stack(config, obs.channels, max(obs.height, obs.width))
        self.project = nn.Conv2d(config.map_channels, dim, 1)
        self.quantizer = VectorQuantizer(config.quantizer)

    @property
    def drawn_spec(self) -> LatentSpec:
        return self.drawn_as

    def vectors(self, video: Tensor) -> Tensor:
        """What is quantised, ``[B, T, N, D]``."""
        found = self.project(self.stack(2 * self.fold_frames(video) - 1))
        return rearrange(full_precision(found), "(b v t) d h w -> b t (v h w) d", v=self.obs.views, t=video.shape[-4])

    def forward(self, video: Tensor, *, sampler: Sampler) -> Encoding:
        found = self.vectors(video)
        quantized = self.quantizer(found, sampler)
        posterior = LatentDist(self.spec, {CODE: -self.quantizer.distances(found)})
        drawn = Latent.build(self.drawn_as, {VECTOR: quantized.vectors})
        latent = Latent.build(self.spec, {CODE: quantized.codes[..., None]})
        return Encoding(posterior, latent, VQFound(found, quantized), drawn=drawn)

    def look_up(self, z: Latent) -> Latent:
        if z.spec == self.drawn_as:
            return z
        return Latent.build(self.drawn_as, {VECTOR: self.quantizer.look_up(z.values[CODE][..., 0])})

    def regularizers(self, encoding: Encoding) -> dict[str, Tensor]:
        """What draws codes and vectors to one another: means over the places and numbers of a frame."""
        quantized = encoding.aux.quantized
        return {"codebook": reduce(quantized.codebook, "b t n -> b t", "mean"),
                "commitment": quantized.beta * reduce(quantized.commitment, "b t n -> b t", "mean")}
