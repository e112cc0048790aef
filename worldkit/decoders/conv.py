"""The convolutional decoders of Dreamer and PlaNet: one state to a picture.

``conv`` is Dreamer v3's: the state becomes a small map, which is doubled and convolved until it has the picture's
size. The deterministic part of the state enters through a block-diagonal layer, each block drawing channels of its own
at every place of the map; the rest through a small network. ``conv-transposed`` is that of v1, v2 and PlaNet: one
pixel, grown by transposed convolutions.

Both read any latent: all its fields over all tokens, flat.

Source: danijar/dreamerv3 @ e3f0224, danijar/dreamerv2 @ 07d906e, danijar/dreamer @ 56d4d44, written from their
description. Difference: pictures are in [0, 1] outside (v1, v2: -0.5 .. 0.5), which changes no loss.
"""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from einops import rearrange
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from ..config import ComponentConfig, ObsSpec
from ..errors import ConfigError
from ..latents import Latent, LatentSpec
from ..nn.checkpoint import Checkpointed
from ..nn.conv_tower import Doubled, GrowingConv, MapNorm, TransposedTower
from ..nn.dense import Activation, BlockLinear, DenseLayer, Init, Norm, linear
from .base import Decoded, Decoder
from .state import StateReader


class ConvDecoderConfig(ComponentConfig):
    """Options of the decoder that doubles and convolves; defaults are Dreamer v3's.

    Attributes:
        depth: Channels, times the multipliers.
        multipliers: As the encoder's: the last one belongs to the smallest map. The side doubles as often as there are.
        kernel_size: Side of the kernels, odd.
        units: Half the width of the layer between the drawn part of the state and the map.
        blocks: Blocks of the layer that reads the deterministic part; 0: an ordinary layer.
        norm: Over the channels of every pixel.
        norm_eps: Added to what the norm divides by.
        activation: After the norms.
        init: Of the initial weights.
    """

    name: str = "conv"
    depth: int = Field(default=16, gt=0)
    multipliers: tuple[PositiveInt, ...] = Field(default=(2, 3, 4, 4), min_length=1)
    kernel_size: int = Field(default=5, gt=0)
    units: int = Field(default=256, gt=0)
    blocks: int = Field(default=8, ge=0)
    norm: Norm = "rms"
    norm_eps: float = Field(default=1e-4, gt=0)
    activation: Activation = "silu"
    init: Init = "truncated-normal"


class TransposedDecoderConfig(ComponentConfig):
    """Options of the decoder by transposed convolutions; defaults are Dreamer v1's and PlaNet's (v2: 48, elu).

    Attributes:
        depth: Channels, times the multipliers.
        multipliers: As the encoder's: the first one belongs to the largest map, the last to the second smallest.
        start: Channels of the one pixel that everything grows from, times depth.
        kernel_sizes: One more than multipliers, of the smallest map first. A side s grows to 2 (s - 1) + kernel size.
            Default: sizes as equal as can be that draw the image; (5, 5, 6, 6) for 64 pixels, as upstream.
        norm: Over the channels of every pixel.
        norm_eps: Added to what the norm divides by.
        activation: After every convolution but the last.
        init: Of the initial weights.
        output: What the last convolution gives: the picture less a half (``"linear"``), or what its ``"sigmoid"`` is.
    """

    name: str = "conv-transposed"
    depth: int = Field(default=32, gt=0)
    multipliers: tuple[PositiveInt, ...] = (1, 2, 4)
    start: int = Field(default=32, gt=0)
    kernel_sizes: tuple[PositiveInt, ...] | None = None
    norm: Norm = "none"
    norm_eps: float = Field(default=1e-3, gt=0)
    activation: Activation = "relu"
    init: Init = "glorot"
    output: Literal["linear", "sigmoid"] = "linear"

    @model_validator(mode="after")
    def _check_lengths(self) -> TransposedDecoderConfig:
        if self.kernel_sizes is not None and len(self.kernel_sizes) != len(self.multipliers) + 1:
            raise ValueError(f"kernel_sizes {list(self.kernel_sizes)} must be one more than multipliers "
                             f"{list(self.multipliers)}: the last one draws the picture")
        return self


class Painter(Checkpointed):
    """The network of decoder ``conv``: two flat parts of a state -> frames ``[M, V C, H, W]`` in [0, 1].

    Raises:
        ConfigError: the sizes do not divide.
    """

    def __init__(self, config: ConvDecoderConfig, *, drawn: int, memory: int, obs: ObsSpec, path: str = "decoder"):
        super().__init__()
        self._check(config, memory, obs, path)
        step, layers = 2 ** len(config.multipliers), len(config.multipliers)
        self.map_size = (obs.height // step, obs.width // step)
        channels = [config.depth * m for m in config.multipliers]
        self.channels, area = channels[-1], self.map_size[0] * self.map_size[1]
        options = {"norm": config.norm, "activation": config.activation, "eps": config.norm_eps, "init": config.init}
        self.blocks = config.blocks or 1
        self.remembered = self.hidden = self.drawn = None
        if memory:
            self.remembered = BlockLinear(memory, area * self.channels, self.blocks, init=config.init)
        if drawn:
            self.hidden = DenseLayer(drawn, 2 * config.units, **options)
            self.drawn = linear(2 * config.units, area * self.channels, init=config.init)
        self.after = MapNorm(self.channels, config.norm, config.activation, config.norm_eps)
        self.layers = nn.Sequential(*(
            GrowingConv(channels[i + 1], channels[i], kernel_size=config.kernel_size, **options)
            for i in reversed(range(layers - 1))
        ))
        self.out = Doubled(channels[0], obs.views * obs.channels, config.kernel_size, init=config.init)

    @staticmethod
    def _check(config: ConvDecoderConfig, memory: int, obs: ObsSpec, path: str) -> None:
        step, blocks = 2 ** len(config.multipliers), config.blocks
        _need_pictures(config, obs, path)
        if config.kernel_size % 2 == 0:
            raise ConfigError(f"{path}.kernel_size must be odd, got {config.kernel_size}")
        if obs.height % step or obs.width % step:
            near = sorted({max(step, s // step * step + up) for s in (obs.height, obs.width) for up in (0, step)})
            raise ConfigError(
                f"{path} '{config.name}' doubles a map {len(config.multipliers)} times, which does not give "
                f"{obs.height} x {obs.width} pixels: use sides that are multiples of {step} "
                f"({', '.join(map(str, near))}, ...), or other {path}.multipliers"
            )
        channels = config.depth * config.multipliers[-1]
        if memory and blocks and (memory % blocks or channels % blocks):
            raise ConfigError(
                f"{path}.blocks {blocks} must divide the width of the deterministic state, {memory}, and depth times "
                f"the last multiplier, {channels}: use another depth, or {path}.blocks=0"
            )

    def forward(self, drawn: Tensor, memory: Tensor) -> Tensor:
        height, width = self.map_size
        x = None
        if self.remembered is not None:
            x = rearrange(self.remembered(memory), "m (g h w c) -> m h w (g c)", g=self.blocks, h=height, w=width)
        if self.drawn is not None:
            more = self.drawn(self.hidden(drawn)).unflatten(-1, (height, width, -1))
            x = more if x is None else x + more
        return self.run(self._drawn, x)

    def _drawn(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.out(self.layers(self.after(x.permute(0, 3, 1, 2)))))


class ConvDecoder(Decoder):
    """State -> video, by doubling and convolving; no masks.

    Example:
        >>> from worldkit.encoders.conv import embedding_spec
        >>> spec = embedding_spec(32)
        >>> decoder = ConvDecoder(ConvDecoderConfig(depth=4), spec=spec, obs=ObsSpec(height=64, width=64))
        >>> decoder(Latent.build(spec, {("state", "embedding"): torch.randn(2, 5, 1, 32)})).video.shape
        torch.Size([2, 5, 3, 64, 64])
    """

    Config = ConvDecoderConfig

    def __init__(self, config: ConvDecoderConfig, *, spec: LatentSpec, obs: ObsSpec):
        super().__init__(config, spec=spec, obs=obs)
        self.state = StateReader(spec)
        self.painter = Painter(config, drawn=self.state.drawn, memory=self.state.memory, obs=obs)

    def forward(self, z: Latent, *, masks: bool = False) -> Decoded:
        drawn, memory = self.state(z)
        return Decoded(video=as_video(self.painter(drawn.flatten(0, 1), memory.flatten(0, 1)), self.obs, z))


class TransposedPainter(nn.Module):
    """The network of decoder ``conv-transposed``: flat state -> frames ``[M, V C, H, W]``, nominally in [0, 1].

    Raises:
        ConfigError: the kernels draw another size.
    """

    def __init__(
        self, config: TransposedDecoderConfig, *, drawn: int, memory: int, obs: ObsSpec, path: str = "decoder"
    ):
        super().__init__()
        _need_pictures(config, obs, path)
        self.output, layers = config.output, len(config.multipliers) + 1
        fitting = kernels_for(obs.height, layers) if obs.height == obs.width else None
        kernels = config.kernel_sizes or fitting or ()
        if not kernels or {obs.height, obs.width} != {TransposedTower.size(kernels)}:
            drawn_size = f" with kernel_sizes {list(kernels)}" if kernels else f" of {layers} layers"
            raise ConfigError(
                f"{path} '{config.name}'{drawn_size} cannot draw {obs.height} x {obs.width} pixels: use "
                + (f"{path}.kernel_sizes={list(fitting)}, or " if fitting else "")
                + "decoder=conv, which doubles a small map of any shape"
            )
        channels = [config.depth * m for m in reversed(config.multipliers)] + [obs.views * obs.channels]
        self.tower = TransposedTower(
            drawn + memory, config.start * config.depth, channels, kernels, norm=config.norm,
            activation=config.activation, eps=config.norm_eps, init=config.init,
        )

    def forward(self, drawn: Tensor, memory: Tensor) -> Tensor:
        made = self.tower(torch.cat([drawn, memory], -1))
        return torch.sigmoid(made) if self.output == "sigmoid" else made + 0.5


def _need_pictures(config: ComponentConfig, obs: ObsSpec, path: str) -> None:
    if not obs.height:
        raise ConfigError(f"{path} '{config.name}' draws pictures, but these observations have none (obs.height is 0): "
                          "use decoder=mlp, which predicts vectors")


def kernels_for(side: int, layers: int) -> tuple[int, ...] | None:
    """Ascending kernel sizes, as equal as can be, with which one pixel grows to this side; None if there are none.

    Example:
        >>> kernels_for(64, 4), kernels_for(32, 4), kernels_for(9, 4)
        ((5, 5, 6, 6), (3, 3, 3, 4), None)
    """
    fit = [kernels for kernels in itertools.combinations_with_replacement(range(2, 10), layers)
           if TransposedTower.size(kernels) == side]
    return min(fit, key=lambda kernels: kernels[-1] - kernels[0], default=None)


class TransposedDecoder(Decoder):
    """State -> video, by transposed convolutions; no masks.

    Example:
        >>> from worldkit.encoders.conv import embedding_spec
        >>> spec = embedding_spec(32)
        >>> decoder = TransposedDecoder(TransposedDecoderConfig(depth=2), spec=spec, obs=ObsSpec(height=64, width=64))
        >>> decoder(Latent.build(spec, {("state", "embedding"): torch.randn(2, 5, 1, 32)})).video.shape
        torch.Size([2, 5, 3, 64, 64])
    """

    Config = TransposedDecoderConfig

    def __init__(self, config: TransposedDecoderConfig, *, spec: LatentSpec, obs: ObsSpec):
        super().__init__(config, spec=spec, obs=obs)
        self.state = StateReader(spec)
        self.painter = TransposedPainter(config, drawn=self.state.drawn, memory=self.state.memory, obs=obs)

    def forward(self, z: Latent, *, masks: bool = False) -> Decoded:
        drawn, memory = self.state(z)
        return Decoded(video=as_video(self.painter(drawn.flatten(0, 1), memory.flatten(0, 1)), self.obs, z))


def as_video(frames: Tensor, obs: ObsSpec, z: Latent) -> Tensor:
    """``[(B T), V C, H, W]`` -> ``[B, T, C, H, W]``, or ``[B, V, T, C, H, W]`` of several views."""
    video = rearrange(frames, "(b t) (v c) h w -> b v t c h w", t=z.shape[1], v=obs.views)
    return video if obs.views > 1 else video[:, 0]
