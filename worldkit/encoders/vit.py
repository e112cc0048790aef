"""A vision transformer of one's own: patches of a frame attend to one another and become one vector, for an RSSM.

Pictures are taken as -0.5 .. 0.5. Patches of all views of a time step go into one sequence; what the last layer says of
them is averaged. Trained from scratch with everything else; for frozen ones see `worldkit.encoders.pretrained`.

Source: ViT (arXiv:2010.11929), without class token and dropout; blocks are `worldkit.nn.attention.Block`.
"""

from __future__ import annotations

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from ..batch import check_shape
from ..config import ComponentConfig, ObsSpec
from ..distributions import Sampler
from ..errors import ConfigError
from ..nn.attention import Block, RMSNorm
from .base import Encoder, Encoding
from .conv import embedding, embedding_spec


class ViTEncoderConfig(ComponentConfig):
    """Options of the transformer over patches.

    Attributes:
        patch_size: Side of a patch, pixels; divides height and width.
        dim: Width of tokens, and of the vector.
        num_layers: Blocks.
        num_heads: Heads of their attention.
    """

    name: str = "vit"
    patch_size: int = Field(default=8, gt=0)
    dim: int = Field(default=128, gt=0)
    num_layers: int = Field(default=2, gt=0)
    num_heads: int = Field(default=4, gt=0)


class ViTEncoder(Encoder):
    """Video -> one token per frame, with a field "embedding" (a point).

    Raises:
        ConfigError: the patches do not divide the picture, or the heads the width, or there is no picture.
    Example:
        >>> encoder = ViTEncoder(ViTEncoderConfig(dim=16), obs=ObsSpec(height=32, width=24))
        >>> encoder(torch.rand(2, 5, 3, 32, 24), sampler=Sampler()).latent
        Latent(state.embedding[2, 5, 1, 16])
    """

    Config = ViTEncoderConfig
    default_decoder = "conv"

    def __init__(self, config: ViTEncoderConfig, *, obs: ObsSpec):
        super().__init__(config, obs=obs)
        if not obs.height:
            raise ConfigError("encoder 'vit' reads pictures, but these observations have none (obs.height is 0): use "
                              "encoder=mlp, which reads vectors")
        side, dim = config.patch_size, config.dim
        if obs.height % side or obs.width % side:
            fits = [p for p in range(2, min(obs.height, obs.width) + 1) if not obs.height % p and not obs.width % p]
            raise ConfigError(
                f"an image of {obs.height} x {obs.width} does not divide into patches of encoder.patch_size {side}; "
                f"patch sizes that do: {', '.join(map(str, fits)) or 'none but 1'}"
            )
        if dim % config.num_heads:
            raise ConfigError(f"encoder.dim {dim} does not divide into encoder.num_heads {config.num_heads}")
        count = obs.views * (obs.height // side) * (obs.width // side)
        self.spec = embedding_spec(dim)
        self.tokens = nn.Linear(obs.channels * side**2, dim)
        self.places = nn.Parameter(0.02 * torch.randn(count, dim))
        self.blocks = nn.Sequential(*(Block(dim, config.num_heads) for _ in range(config.num_layers)))
        self.norm = RMSNorm(dim)

    def forward(self, video: Tensor, *, sampler: Sampler) -> Encoding:
        obs, side = self.obs, self.config.patch_size
        if obs.views == 1:
            check_shape(video, "b t c h w", name="video", c=obs.channels, h=obs.height, w=obs.width)
            video = video[:, None]
        else:
            check_shape(video, "b v t c h w", name="video", v=obs.views, c=obs.channels, h=obs.height, w=obs.width)
        patches = rearrange(video - 0.5, "b v t c (h y) (w x) -> (b t) (v h w) (c y x)", y=side, x=side)
        tokens = self.norm(self.blocks(self.tokens(patches) + self.places))
        return embedding(self.spec, tokens.mean(1).unflatten(0, (video.shape[0], video.shape[2])))
