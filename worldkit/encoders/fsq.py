"""The FSQ encoder: a frame as a grid of short vectors whose numbers lie on a few levels each; no codebook.

As encoder `vq`, with another quantiser: a convolution stack makes a map, every number of which is bounded and rounded
(`worldkit.nn.fsq`). Latents are those vectors themselves, numbers that a dynamics may predict and subtract (FLAM), or
the numbers of the codes they stand for, for a dynamics of codes. Predicted vectors fall between the levels: what is
drawn of them is `look_up`, the nearest levels.

Source: FSQ (arXiv:2309.15505); FLAM's tokenizer (arXiv:2602.16229), of which neither levels nor sizes are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from einops import rearrange
from pydantic import Field as Option
from torch import Tensor, nn

from ..config import ObsSpec
from ..distributions import Categorical, Delta, Sampler, full_precision
from ..latents import Field, Latent, LatentDist, LatentSpec, TokenGroup
from ..nn.conv import mlp
from ..nn.fsq import FiniteScalarQuantizer
from ..nn.patches import patch_grid, to_patches
from ..nn.vqgan import DownStack, StackConfig
from .base import Encoder, Encoding

_DRAWN = ("patches", "levels")


class FSQEncoderConfig(StackConfig):
    """Options of the FSQ encoder; sizes of its stack: `worldkit.nn.vqgan.StackConfig`.

    Attributes:
        levels: How many levels every number of a vector has; their product is the number of codes.
        patch_size: Side of patches that are looked at each by itself, pixels, by an MLP as wide as ``map_channels``:
            what happens in a patch then changes no other patch's vector. None: the convolution stack, whose patches
            have seen their surroundings.
        gives: ``"vectors"``, numbers in [-1, 1] on their levels, or ``"codes"``.
    """

    name: str = "fsq"
    levels: tuple[int, ...] = Option(default=(8, 5, 5, 5), min_length=1)
    patch_size: int | None = Option(default=None, gt=0)
    gives: Literal["vectors", "codes"] = "vectors"


@dataclass(frozen=True)
class FSQFound:
    """By-products of the FSQ encoder. ``vectors``: before they are bounded and rounded, ``[B, T, N, D]``."""

    vectors: Tensor


class FSQEncoder(Encoder):
    """Frame -> vectors on levels, or codes, on a grid, row by row; views one after the other in one group.

    Example:
        >>> import torch
        >>> config = FSQEncoderConfig(channels=32, multipliers=(1, 1), map_channels=8, levels=(5, 4, 3))
        >>> encoder = FSQEncoder(config, obs=ObsSpec(height=16, width=16))
        >>> z = encoder(torch.rand(2, 3, 3, 16, 16), sampler=Sampler()).latent
        >>> z.features.shape, torch.equal(encoder.look_up(z).flat("patches"), z.features), encoder.quantizer.num_codes
        (torch.Size([2, 3, 64, 3]), True, 60)
    """

    Config = FSQEncoderConfig
    default_decoder = "vq"
    config: FSQEncoderConfig

    def __init__(self, config: FSQEncoderConfig, *, obs: ObsSpec):
        super().__init__(config, obs=obs)
        dim, side = len(config.levels), config.patch_size
        grid = patch_grid(obs.height, obs.width, side) if side else config.grid(obs.height, obs.width)
        self.quantizer = FiniteScalarQuantizer(config.levels)

        def described(field: Field) -> LatentSpec:
            group = TokenGroup("patches", obs.views * grid[0] * grid[1], (field,))
            return LatentSpec((group,), grid=grid, views=obs.views, kind="patches")

        if config.gives == "codes":
            code = Categorical(self.quantizer.num_codes, index=True)
            self.spec = described(Field("code", 1, code, "number of a combination of levels"))
        else:
            self.spec = described(Field("features", dim, Delta(), "in [-1, 1], on levels where it was seen"))
        self.drawn_as = described(Field("levels", dim, Delta(), "in [-1, 1], on levels"))
        if side:
            self.stack: nn.Module = nn.Sequential(
                mlp(obs.channels * side**2, config.map_channels, config.map_channels), nn.GELU())
            self.project: nn.Module = nn.Linear(config.map_channels, dim)
        else:
            self.stack = DownStack(config, obs.channels, max(obs.height, obs.width))
            self.project = nn.Conv2d(config.map_channels, dim, 1)

    @property
    def drawn_spec(self) -> LatentSpec:
        return self.drawn_as

    def forward(self, video: Tensor, *, sampler: Sampler) -> Encoding:
        frames, sizes = 2 * self.fold_frames(video) - 1, {"v": self.obs.views, "t": video.shape[-4]}
        if self.config.patch_size:
            found = self.project(self.stack(to_patches(frames[None], self.config.patch_size))[0])
            vectors = rearrange(full_precision(found), "(b v t) n d -> b t (v n) d", **sizes)
        else:
            found = self.project(self.stack(frames))
            vectors = rearrange(full_precision(found), "(b v t) d h w -> b t (v h w) d", **sizes)
        values = self.quantizer(vectors)
        drawn = Latent.build(self.drawn_as, {_DRAWN: values})
        (key,) = self.spec.keys()
        if self.config.gives == "vectors":
            posterior, latent = LatentDist(self.spec, {key: values}), Latent.build(self.spec, {key: values})
        else:
            posterior = LatentDist(self.spec, {key: -self.quantizer.distances(vectors)})
            latent = Latent.build(self.spec, {key: self.quantizer.codes(values.detach())[..., None]})
        return Encoding(posterior, latent, FSQFound(vectors), drawn=drawn)

    def settle(self, z: Latent) -> Latent:
        """Predicted vectors on their nearest levels: else errors add up from frame to frame. Gradients pass."""
        if z.spec != self.spec or self.config.gives == "codes":
            return z
        return z.map(lambda x: x + (self.quantizer.nearest(x) - x).detach())

    def look_up(self, z: Latent) -> Latent:
        if z.spec == self.drawn_as:
            return z
        (value,) = z.values.values()
        codes = self.config.gives == "codes"
        levels = self.quantizer.look_up(value[..., 0]) if codes else self.quantizer.nearest(value)
        return Latent.build(self.drawn_as, {_DRAWN: levels})
