"""IMPALA's residual network, as PLDM reads small pictures with it: a frame to one vector.

A stack is a convolution, the maximum of 3 x 3 pixels with a stride of 2, and residual blocks. The vector ends with a
layer norm. Views of one time step are put side by side as channels.

Source: IMPALA (arXiv:1802.01561), with the sizes of PLDM's Wall (vladisai/PLDM @ cbaf674, a description of the facts):
stacks of 16, 32 and 32 channels, two blocks each, 2592 numbers of 65 x 65 pixels to 512, then the norm. That there is
no activation between the last layer and the norm is ours.
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from ..batch import check_shape
from ..config import ComponentConfig, ObsSpec
from ..distributions import Sampler
from ..errors import ConfigError
from .base import Encoder, Encoding
from .conv import embedding, embedding_spec


class ImpalaConfig(ComponentConfig):
    """Options of the encoder; defaults are those of PLDM's Wall.

    Attributes:
        channels: Of every stack; each halves the side.
        num_blocks: Residual blocks of a stack.
        dim: Width of the vector.
        norm: It ends with a layer norm.
    """

    name: str = "impala"
    channels: tuple[PositiveInt, ...] = Field(default=(16, 32, 32), min_length=1)
    num_blocks: int = Field(default=2, ge=0)
    dim: int = Field(default=512, gt=0)
    norm: bool = True


class _Block(nn.Module):
    """ReLU and convolution, twice; added to the input."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Impala(Encoder):
    """Video -> one token per frame, with a field "embedding" (a point).

    Raises:
        ConfigError: there is no picture.
    Example:
        >>> import torch
        >>> encoder = Impala(ImpalaConfig(channels=(4, 8), dim=16), obs=ObsSpec(height=65, width=65, channels=2))
        >>> encoder(torch.rand(2, 5, 2, 65, 65), sampler=Sampler()).latent
        Latent(state.embedding[2, 5, 1, 16])
    """

    Config = ImpalaConfig
    default_decoder = "conv"

    def __init__(self, config: ImpalaConfig, *, obs: ObsSpec):
        super().__init__(config, obs=obs)
        if not obs.height:
            raise ConfigError("encoder 'impala' reads pictures, but these observations have none (obs.height is 0): "
                              "use encoder=mlp, which reads vectors")
        widths, (rows, columns) = (obs.views * obs.channels, *config.channels), (obs.height, obs.width)
        self.stacks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.MaxPool2d(3, 2, padding=1),
                          *(_Block(after) for _ in range(config.num_blocks)))
            for before, after in zip(widths, config.channels, strict=False))
        for _ in config.channels:
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
        self.last = nn.Linear(config.channels[-1] * rows * columns, config.dim)
        self.norm = nn.LayerNorm(config.dim) if config.norm else nn.Identity()
        self.spec = embedding_spec(config.dim)

    def forward(self, video: Tensor, *, sampler: Sampler) -> Encoding:
        obs = self.obs
        if obs.views > 1:
            check_shape(video, "b v t c h w", name="video", v=obs.views, c=obs.channels, h=obs.height, w=obs.width)
            x = rearrange(video, "b v t c h w -> (b t) (v c) h w")
        else:
            check_shape(video, "b t c h w", name="video", c=obs.channels, h=obs.height, w=obs.width)
            x = video.flatten(0, 1)
        for stack in self.stacks:
            x = stack(x)
        found = self.norm(self.last(F.relu(x).flatten(1)))
        return embedding(self.spec, found.unflatten(0, (video.shape[0], video.shape[-4])))
