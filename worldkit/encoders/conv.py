"""The convolutional encoder of Dreamer and PlaNet: a frame to one vector, which an RSSM filters.

Its options are Dreamer v3's; those of v1, v2 and PlaNet are ``kernel_size=4``, ``multipliers=(1, 2, 4, 8)``,
``shrink="stride"``, ``padding="valid"``, ``norm="none"``, ``activation="relu"`` (v2: ``"elu"``), ``init="glorot"``,
``depth=32`` (v2: 48).

Pictures are taken as -0.5 .. 0.5. Views of one time step are put side by side as channels: one state knows them all.

Source: danijar/dreamerv3 @ e3f0224, danijar/dreamerv2 @ 07d906e, danijar/dreamer @ 56d4d44, written from their
description.
"""

from __future__ import annotations

from einops import rearrange
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from ..batch import check_shape
from ..config import ComponentConfig, ObsSpec
from ..distributions import Delta, Sampler, full_precision
from ..errors import ConfigError
from ..latents import Field as LatentField
from ..latents import Latent, LatentDist, LatentSpec, TokenGroup
from ..nn.conv_tower import ConvTower, Padding, Shrink
from ..nn.dense import Activation, Init, Norm
from .base import Encoder, Encoding


class ConvEncoderConfig(ComponentConfig):
    """Options of the convolutional encoder.

    Attributes:
        depth: Channels, times the multipliers.
        multipliers: One per layer.
        kernel_size: Side of the kernels.
        shrink: How a layer halves the side: ``"pool"`` (convolve, then the maximum of 2 x 2) or ``"stride"``.
        keep_first: The first layer keeps the side.
        padding: ``"same"`` (zeros around) or ``"valid"`` (none).
        norm: Over the channels of every pixel.
        norm_eps: Added to what the norm divides by.
        activation: After the norm.
        init: Of the initial weights.
    """

    name: str = "conv"
    depth: int = Field(default=16, gt=0)
    multipliers: tuple[PositiveInt, ...] = Field(default=(2, 3, 4, 4), min_length=1)
    kernel_size: int = Field(default=5, gt=0)
    shrink: Shrink = "pool"
    keep_first: bool = False
    padding: Padding = "same"
    norm: Norm = "rms"
    norm_eps: float = Field(default=1e-4, gt=0)
    activation: Activation = "silu"
    init: Init = "truncated-normal"


class PictureReader(nn.Module):
    """Video -> ``[B, T, width]``: the network of this encoder, for others that read pictures as well.

    Raises:
        ConfigError: there is no picture, or its sides cannot be halved as often as the options say.
    """

    def __init__(self, config: ConvEncoderConfig, *, obs: ObsSpec, path: str = "encoder"):
        super().__init__()
        self.obs = obs
        if not obs.height:
            raise ConfigError(
                f"{path} '{config.name}' reads pictures, but these observations have none (obs.height is 0): use "
                "encoder=mlp, which reads vectors"
            )
        self.tower = ConvTower(
            obs.views * obs.channels, (obs.height, obs.width), [config.depth * m for m in config.multipliers],
            kernel_size=config.kernel_size, shrink=config.shrink, keep_first=config.keep_first, padding=config.padding,
            norm=config.norm, activation=config.activation, eps=config.norm_eps, init=config.init,
        )
        self.width = self.tower.width
        _check_sizes(config, self.tower, obs, path)

    def forward(self, video: Tensor) -> Tensor:
        obs = self.obs
        if obs.views == 1:
            check_shape(video, "b t c h w", name="video", c=obs.channels, h=obs.height, w=obs.width)
            frames = rearrange(video, "b t c h w -> (b t) c h w")
        else:
            check_shape(video, "b v t c h w", name="video", v=obs.views, c=obs.channels, h=obs.height, w=obs.width)
            frames = rearrange(video, "b v t c h w -> (b t) (v c) h w")
        return self.tower(frames - 0.5).unflatten(0, (video.shape[0], video.shape[-4]))


def _check_sizes(config: ConvEncoderConfig, tower: ConvTower, obs: ObsSpec, path: str) -> None:
    if all(side > 0 for size in tower.sizes for side in size):
        return
    layers, kept = len(config.multipliers), int(config.keep_first)
    if config.shrink == "pool" and config.padding == "same":
        step, most = 2 ** (layers - kept), 0
        while not obs.height % 2 ** (most + 1) and not obs.width % 2 ** (most + 1):
            most += 1
        near = sorted({max(step, side // step * step + up) for side in (obs.height, obs.width) for up in (0, step)})
        raise ConfigError(
            f"an image of {obs.height} x {obs.width} cannot be halved {layers - kept} times, as {path}.multipliers "
            f"{list(config.multipliers)} ask: use sides that are multiples of {step} ("
            f"{', '.join(map(str, near))}, ...), " + (
                f"at most {most + kept} multipliers, " if most + kept else "") + f"or {path}.shrink=stride"
        )
    sizes = " -> ".join(f"{h}x{w}" for h, w in tower.sizes if h > 0 and w > 0)
    raise ConfigError(
        f"an image of {obs.height} x {obs.width} is too small for {layers} layers of {path} '{config.name}' with "
        f"kernel_size {config.kernel_size} and padding '{config.padding}' ({sizes}, then nothing is left): use a "
        f"larger image, fewer multipliers than {list(config.multipliers)}, or {path}.padding=same"
    )


def embedding_spec(width: int) -> LatentSpec:
    """A latent of one token "state" with one field "embedding", a point."""
    return LatentSpec((TokenGroup("state", 1, (LatentField("embedding", width, Delta(), "what was observed"),)),))


def embedding(spec: LatentSpec, values: Tensor) -> Encoding:
    """Encoding of `embedding_spec` with these values ``[B, T, width]``."""
    params = {("state", "embedding"): full_precision(values).unsqueeze(2)}
    return Encoding(LatentDist(spec, params), Latent.build(spec, params))


class ConvEncoder(Encoder):
    """Video -> one token per frame, with a field "embedding" (a point).

    Example:
        >>> import torch
        >>> encoder = ConvEncoder(ConvEncoderConfig(depth=4), obs=ObsSpec(height=64, width=64))
        >>> encoder(torch.rand(2, 5, 3, 64, 64), sampler=Sampler()).latent
        Latent(state.embedding[2, 5, 1, 256])
    """

    Config = ConvEncoderConfig
    default_decoder = "conv"

    def __init__(self, config: ConvEncoderConfig, *, obs: ObsSpec):
        super().__init__(config, obs=obs)
        self.picture = PictureReader(config, obs=obs)
        self.spec = embedding_spec(self.picture.width)

    def forward(self, video: Tensor, *, sampler: Sampler) -> Encoding:
        return embedding(self.spec, self.picture(video))
