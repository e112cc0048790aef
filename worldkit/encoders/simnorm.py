"""TD-MPC2's encoders: vectors through small normed layers, or pictures through convolutions, to one SimNorm vector.

Of pictures, a frame is shown together with those before it (``stack``), since one alone does not tell how fast things
move; before the first frame of a clip it stands in for them. While latents are drawn rather than followed by their
means (in training), every picture is shifted by up to ``shift`` pixels, at random.

Source: TD-MPC2 (Hansen et al., 2024, arXiv:2310.16828), written from its description. Difference: there pictures are
shifted when acting, too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from ..config import ComponentConfig, ObsSpec
from ..distributions import Sampler
from ..errors import ConfigError
from ..nn.simnorm import SimNorm, normed_mlp
from .base import Encoder, Encoding
from .conv import embedding, embedding_spec
from .mlp import join_vectors

_LAYERS = ((7, 2), (5, 2), (3, 2), (3, 1))
"""Side of the kernel and stride of every convolution."""


class SimNormConfig(ComponentConfig):
    """Options of the simnorm encoder.

    Attributes:
        latent_dim: Numbers of the latent.
        simnorm: Numbers in a group of the SimNorm; divides ``latent_dim``.
        hidden: Widths of the layers between.
    """

    name: str = "simnorm"
    latent_dim: int = Field(default=512, gt=0)
    simnorm: int = Field(default=8, gt=0)
    hidden: tuple[PositiveInt, ...] = (256,)


class SimNormConvConfig(ComponentConfig):
    """Options of the simnorm-conv encoder.

    Attributes:
        latent_dim: Numbers of the latent: as many as the convolutions leave, 512 of 64 x 64 pixels and 32 channels.
        simnorm: Numbers in a group of the SimNorm; divides ``latent_dim``.
        channels: Channels of the convolutions.
        shift: Most pixels that pictures are shifted by in training.
        stack: How many frames it sees at once.
    """

    name: str = "simnorm-conv"
    latent_dim: int = Field(default=512, gt=0)
    simnorm: int = Field(default=8, gt=0)
    channels: int = Field(default=32, gt=0)
    shift: int = Field(default=3, ge=0)
    stack: int = Field(default=3, gt=0)


def _last(config: SimNormConfig | SimNormConvConfig) -> SimNorm:
    if config.latent_dim % config.simnorm:
        raise ConfigError(f"encoder.latent_dim {config.latent_dim} does not divide into groups of encoder.simnorm "
                          f"{config.simnorm}")
    return SimNorm(config.simnorm)


class SimNormEncoder(Encoder):
    """Vectors -> one token "state" with one field "embedding", a point.

    Example:
        >>> encoder = SimNormEncoder(SimNormConfig(latent_dim=64), obs=ObsSpec(vectors={"position": 3}))
        >>> z = encoder(torch.zeros(2, 5, 3, 0, 0), sampler=Sampler(), vectors={"position": torch.ones(2, 5, 3)}).latent
        >>> z, z.get("embedding").sum(-1)[0, 0].round().tolist()
        (Latent(state.embedding[2, 5, 1, 64]), [8.0])
    """

    Config = SimNormConfig
    default_decoder = "mlp"
    config: SimNormConfig
    reads_vectors = True

    def __init__(self, config: SimNormConfig, *, obs: ObsSpec):
        super().__init__(config, obs=obs)
        if not obs.widths:
            raise ConfigError("encoder 'simnorm' reads vectors, but these observations name none: obs.vectors.NAME="
                              "WIDTH; or encoder=simnorm-conv, which reads pictures")
        self.net = normed_mlp(sum(obs.widths.values()), config.hidden, config.latent_dim, last=_last(config))
        self.spec = embedding_spec(config.latent_dim)

    def forward(self, video: Tensor, *, sampler: Sampler, vectors: Mapping[str, Tensor] | None = None) -> Encoding:
        return embedding(self.spec, self.net(join_vectors(vectors, self.obs, self.net[0].weight.dtype)))


class SimNormConv(Encoder):
    """Pictures -> one token "state" with one field "embedding", a point.

    Example:
        >>> config = SimNormConvConfig(latent_dim=64, channels=4)
        >>> encoder = SimNormConv(config, obs=ObsSpec(height=64, width=64))
        >>> z = encoder(torch.rand(2, 5, 3, 64, 64), sampler=Sampler()).latent
        >>> z, z.get("embedding").sum(-1)[0, 0].round().tolist()
        (Latent(state.embedding[2, 5, 1, 64]), [8.0])
    """

    Config = SimNormConvConfig
    default_decoder = "conv"
    config: SimNormConvConfig

    def __init__(self, config: SimNormConvConfig, *, obs: ObsSpec):
        super().__init__(config, obs=obs)
        if not obs.height:
            raise ConfigError("encoder 'simnorm-conv' reads pictures, but these observations have none (obs.height is "
                              "0): use encoder=simnorm, which reads vectors")
        self.net = nn.Sequential(*self._convolutions(), _last(config))
        self.stack = config.stack
        self.borders = self.stack == 1
        self.spec = embedding_spec(config.latent_dim)

    def _convolutions(self) -> list[nn.Module]:
        config, obs = self.config, self.obs
        layers: list[nn.Module] = []
        sides, inputs = [obs.height, obs.width], obs.views * obs.channels * config.stack
        for number, (kernel, stride) in enumerate(_LAYERS):
            sides = [(side - kernel) // stride + 1 for side in sides]
            layers += [nn.Conv2d(inputs, config.channels, kernel, stride)]
            layers += [nn.ReLU()] if number < len(_LAYERS) - 1 else [nn.Flatten()]
            inputs = config.channels
        if min(sides) < 1:
            raise ConfigError(f"encoder 'simnorm-conv' needs pictures of at least 37 x 37 pixels, got {obs.height} x "
                              f"{obs.width}")
        left = config.channels * sides[0] * sides[1]
        if left != config.latent_dim:
            raise ConfigError(f"of pictures of {obs.height} x {obs.width} the convolutions leave {left} numbers, which "
                              f"are the latent: set encoder.latent_dim={left}")
        return layers

    def forward(self, video: Tensor, *, sampler: Sampler) -> Encoding:
        """As every encoder's; of the frames that are seen at once, the oldest one's channels come first."""
        clips, frames = video.shape[0], video.shape[-4]
        views = self.fold_frames(video).unflatten(0, (clips, self.obs.views, frames)).transpose(1, 2).flatten(2, 3)
        padded = torch.cat([views[:, :1]] * (self.stack - 1) + [views], 1)
        seen = torch.cat([padded[:, i : i + frames] for i in range(self.stack)], 2).flatten(0, 1)
        if self.config.shift and not sampler.deterministic:
            seen = _shift(seen, self.config.shift, sampler)
        return embedding(self.spec, self.net(seen - 0.5).unflatten(0, (clips, frames)))


def _shift(x: Tensor, most: int, sampler: Sampler) -> Tensor:
    """Pictures ``[N, C, H, W]``, each moved by up to ``most`` whole pixels either way; edges are repeated."""
    count, _, height, width = x.shape
    drawn = sampler.uniform("shift", x.new_empty(count, 2))
    moves = (drawn * (2 * most + 1)).long().clamp(max=2 * most)
    rows = torch.arange(height, device=x.device) + moves[:, :1]
    columns = torch.arange(width, device=x.device) + moves[:, 1:]
    padded = F.pad(x, (most,) * 4, mode="replicate")
    picture = torch.arange(count, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
