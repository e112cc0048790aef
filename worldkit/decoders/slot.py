"""The spatial broadcast decoder: every slot paints the whole picture and says how much it wants each pixel.

A slot is tiled over a small map, told where it is by a grid embedding, and grown by transposed convolutions to a
picture and one map of logits; a softmax over slots shares out every pixel. Nothing here knows which slot it draws, so
permuted slots give the same picture.

Source: spatial broadcast decoder (arXiv:1901.07017) in the sizes of github.com/Wuziyi616/SlotFormer @ 10a6d9b, written
from its description. Pictures are in [-1, 1] inside, as upstream, and leave in [0, 1]. Difference: initial weights.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from einops import rearrange, reduce, repeat
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from ..config import ComponentConfig, ObsSpec
from ..errors import ConfigError
from ..latents import Latent, LatentSpec, Slots
from ..nn.slots import Chunked, GridEmbedding, keep_signal
from .base import Decoded, Decoder


class SlotDecoderConfig(ComponentConfig):
    """Options of the spatial broadcast decoder; defaults are SlotFormer's.

    Attributes:
        map_size: Height of the map a slot is tiled over; the image height is this times a power of two, and the width
            divides by that power.
        channels: Of the transposed convolutions; the first ones double the side until it is the image's.
        kernel_size: Of the transposed convolutions.
    """

    name: str = "slot"
    map_size: int = Field(default=8, gt=0)
    channels: tuple[PositiveInt, ...] = Field(default=(64, 64, 64, 64), min_length=1)
    kernel_size: int = Field(default=5, gt=0)


class SlotPainter(Chunked):
    """Slots ``[M, N, D]`` -> their shares of the pixels and their pictures, ``[M, N, 1 + C, H, W]``."""

    def __init__(self, config: SlotDecoderConfig, *, dim: int, num_slots: int, obs: ObsSpec):
        super().__init__()
        doublings = self._doublings(config, obs)
        self.map_size = (config.map_size, obs.width // 2**doublings)
        self.grid = GridEmbedding(dim, *self.map_size)
        widths, layers = (dim, *config.channels), []
        for index, (inputs, outputs) in enumerate(zip(widths, widths[1:])):  # noqa: B905 - one shorter on purpose
            stride = 2 if index < doublings else 1
            layers += [nn.ConvTranspose2d(inputs, outputs, config.kernel_size, stride, config.kernel_size // 2,
                                          output_padding=stride - 1), nn.ReLU()]
        self.cnn = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1 + obs.channels, 1))
        keep_signal(self)
        self.to(memory_format=torch.channels_last)
        sizes = [c * 4.0 ** min(i + 1 - doublings, 0) for i, c in enumerate(config.channels)]
        self._numbers = int(num_slots * max(*sizes, 1 + obs.channels) * obs.height * obs.width)

    @staticmethod
    def _doublings(config: SlotDecoderConfig, obs: ObsSpec) -> int:
        if config.kernel_size % 2 == 0:
            raise ConfigError(f"decoder.kernel_size must be odd, got {config.kernel_size}")
        doublings = max(0, round(math.log2(obs.height / config.map_size)))
        if config.map_size * 2**doublings != obs.height or obs.width % 2**doublings:
            halvings = (2**times for times in range(1, len(config.channels) + 1))
            fit = [obs.height // by for by in halvings if not obs.height % by and not obs.width % by]
            raise ConfigError(
                f"decoder.map_size {config.map_size} does not grow to {obs.height} x {obs.width} pixels by doubling; "
                "choose a map size that is the image height over a power of two, which must divide the width as well: "
                f"{', '.join(map(str, fit)) or 'here there is none'}"
            )
        if doublings > len(config.channels):
            raise ConfigError(
                f"growing from decoder.map_size {config.map_size} to {obs.height} pixels takes {doublings} doublings, "
                f"but decoder.channels {list(config.channels)} has {len(config.channels)} layers; add layers, or start "
                "from a larger map"
            )
        return doublings

    def forward(self, slots: Tensor) -> Tensor:
        return self.in_chunks(self._paint, slots, numbers=self._numbers)

    def mix(self, slots: Tensor) -> Tensor:
        """The pictures added up by share, ``[M, C, H, W]``, without keeping those of single slots."""
        return self.in_chunks(lambda x: mixed(self._paint(x)), slots, numbers=self._numbers)

    def _paint(self, slots: Tensor) -> Tensor:
        height, width = self.map_size
        maps = self.grid(repeat(slots, "m n d -> (m n) d h w", h=height, w=width))
        painted = self.cnn(maps.contiguous(memory_format=torch.channels_last))
        logits, pictures = rearrange(painted, "(m n) c h w -> m n c h w", n=slots.shape[1]).split(
            [1, painted.shape[1] - 1], 2)
        return torch.cat([logits.softmax(1), pictures], 2)


def mixed(painted: Tensor) -> Tensor:
    """Shares and pictures of slots ``[M, N, 1 + C, H, W]`` -> one picture ``[M, C, H, W]``."""
    return reduce(painted[:, :, :1] * painted[:, :, 1:], "m n c h w -> m c h w", "sum")


class SlotDecoder(Decoder):
    """Slots -> video; on request one mask per slot, and every slot's own picture as its glimpse (of image size)."""

    Config = SlotDecoderConfig
    kinds = frozenset({"slots"})

    def __init__(self, config: SlotDecoderConfig, *, spec: LatentSpec, obs: ObsSpec):
        super().__init__(config, spec=spec, obs=obs)
        group = spec.group("slots")
        self.painter = SlotPainter(
            config, dim=spec.flat_dim("slots"), num_slots=group.size, obs=obs
        )

    def forward(self, z: Latent, *, masks: bool = False) -> Decoded:
        slots = cast(Slots, z).features
        frames, time = rearrange(slots, "b t n d -> (b t) n d"), slots.shape[1]
        if not masks:
            video = rearrange(self.painter.mix(frames), "(b t) c h w -> b t c h w", t=time)
            return Decoded(video=_to_unit(video))
        painted = self.painter(frames)
        shares, pictures = (rearrange(x, "(b t) n c h w -> b t n c h w", t=time)
                            for x in (painted[:, :, :1], painted[:, :, 1:]))
        video = rearrange(mixed(painted), "(b t) c h w -> b t c h w", t=time)
        glimpses = torch.cat([shares, _to_unit(pictures)], 3)
        return Decoded(video=_to_unit(video), masks=shares, glimpses=glimpses)


def _to_unit(x: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1]."""
    return (x + 1) / 2
