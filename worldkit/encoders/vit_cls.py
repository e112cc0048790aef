"""LeWM's encoder: a vision transformer whose class token, projected, is the one vector of a frame.

The vector passes through a projector with a batch norm over all frames of all clips (running statistics outside of
training), so in training a frame's latent depends on the other clips of its batch; LeWM's regulariser counts on it.

Source: LeWM (arXiv:2603.19312); galilai-group/stable-worldmodel @ addbab4, written from its description.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from ..config import ComponentConfig, ObsSpec
from ..distributions import Sampler
from ..errors import ConfigError
from ..nn.prenorm import Projector
from ..nn.vit import ViTBlock
from .base import Encoder, Encoding
from .conv import embedding, embedding_spec

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of colours."""


class ViTCLSConfig(ComponentConfig):
    """Options of the transformer with a class token.

    Attributes:
        patch_size: Side of a patch, pixels; divides height and width.
        dim: Width of tokens, and of the latent.
        num_layers: Blocks.
        num_heads: Heads of their attention.
        hidden: Width of their MLPs; None: four times ``dim``.
        norm_eps: Of their norms.
        projector: Width of the projector's hidden layer; None: no projector.
        projector_norm: ``"batch"`` (LeWM) or ``"layer"``.
        mean, std: Of colours in [0, 1]: one number, or one a channel; default: ImageNet's.
    """

    name: str = "vit-cls"
    patch_size: int = Field(default=14, gt=0)
    dim: int = Field(default=192, gt=0)
    num_layers: int = Field(default=12, gt=0)
    num_heads: int = Field(default=3, gt=0)
    hidden: int | None = Field(default=None, gt=0)
    norm_eps: float = Field(default=1e-12, gt=0)
    projector: int | None = Field(default=2048, gt=0)
    projector_norm: Literal["batch", "layer"] = "batch"
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]


class ClassViT(nn.Module):
    """Pictures ``[M, C, h, w]``, normalised -> tokens ``[M, 1 + N, D]``, the class token first.

    For pictures of another size the learned positions are stretched (bicubic).
    """

    def __init__(self, config: ViTCLSConfig, *, channels: int, grid: tuple[int, int]):
        super().__init__()
        dim, self.grid = config.dim, grid
        self.patches = nn.Conv2d(channels, dim, config.patch_size, stride=config.patch_size)
        self.cls = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, dim), std=0.02))
        self.places = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1 + grid[0] * grid[1], dim), std=0.02))
        self.blocks = nn.ModuleList(
            ViTBlock(dim, config.num_heads, hidden=config.hidden or 4 * dim, eps=config.norm_eps)
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(dim, config.norm_eps)
        for part in self.modules():
            if isinstance(part, (nn.Linear, nn.Conv2d)):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)

    def forward(self, pictures: Tensor) -> Tensor:
        maps = self.patches(pictures)
        x = torch.cat([self.cls.expand(maps.shape[0], -1, -1), rearrange(maps, "m d h w -> m (h w) d")], 1)
        x = x + self._places(tuple(maps.shape[2:]))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def _places(self, grid: tuple[int, int]) -> Tensor:
        if grid == self.grid:
            return self.places
        table = rearrange(self.places[:, 1:], "m (h w) d -> m d h w", h=self.grid[0])
        table = F.interpolate(table, grid, mode="bicubic", align_corners=False)
        return torch.cat([self.places[:, :1], rearrange(table, "m d h w -> m (h w) d")], 1)


class ViTCLS(Encoder):
    """Video -> one token per frame, with a field "embedding" (a point).

    Raises:
        ConfigError: the patches do not divide the picture, or the heads the width.
    Example:
        >>> config = ViTCLSConfig(patch_size=8, dim=16, num_layers=1, num_heads=2, projector=32)
        >>> ViTCLS(config, obs=ObsSpec(height=32, width=24))(torch.rand(2, 5, 3, 32, 24), sampler=Sampler()).latent
        Latent(state.embedding[2, 5, 1, 16])
    """

    Config = ViTCLSConfig
    default_decoder = "conv"

    def __init__(self, config: ViTCLSConfig, *, obs: ObsSpec):
        super().__init__(config, obs=obs)
        grid = check_patches(config, obs)
        if obs.views > 1:
            raise ConfigError(f"encoder 'vit-cls' sees one view, and these observations have {obs.views} (obs.views); "
                              "encoder 'vit' or 'jepa-vit' takes several")
        self.spec = embedding_spec(config.dim)
        self.net = ClassViT(config, channels=obs.channels, grid=grid)
        self.projector = None if config.projector is None else Projector(
            config.dim, config.projector, config.dim, norm=config.projector_norm)
        self.register_buffer("mean", color(config.mean, obs), persistent=False)
        self.register_buffer("std", color(config.std, obs), persistent=False)

    def forward(self, video: Tensor, *, sampler: Sampler) -> Encoding:
        frames = (self.fold_frames(video) - self.mean) / self.std
        found = self.net(frames)[:, 0]
        found = found.unflatten(0, (video.shape[0], video.shape[-4]))
        return embedding(self.spec, found if self.projector is None else self.projector(found))


def color(values: tuple[float, ...], obs: ObsSpec) -> Tensor:
    """One number per channel, ``[C, 1, 1]``.

    Raises:
        ConfigError: there are more or fewer.
    """
    if len(values) not in (1, obs.channels):
        if values in IMAGENET:  # of three colours; of others their average
            return torch.full((1, 1, 1), sum(values) / 3)
        raise ConfigError(f"encoder.mean and encoder.std are 1 number, or {obs.channels} of obs.channels; got {values}")
    return torch.tensor(values)[:, None, None]


def check_patches(config: ComponentConfig, obs: ObsSpec) -> tuple[int, int]:
    """Rows and columns of patches of a picture.

    Args:
        config: With ``patch_size``, ``dim``, ``num_heads``.
        obs: The picture.
    Raises:
        ConfigError: there is no picture, or it does not divide into patches, or the heads do not divide the width.
    """
    side, dim, heads = config.patch_size, config.dim, config.num_heads
    if not obs.height:
        raise ConfigError(f"encoder '{config.name}' reads pictures, but these observations have none (obs.height is "
                          "0): use encoder=mlp, which reads vectors")
    if obs.height % side or obs.width % side:
        fits = [p for p in range(2, min(obs.height, obs.width) + 1) if not obs.height % p and not obs.width % p]
        near = [max(1, round(x / side)) * side for x in (obs.height, obs.width)]
        raise ConfigError(
            f"an image of {obs.height} x {obs.width} does not divide into patches of encoder.patch_size {side}; "
            f"patch sizes that do: {', '.join(map(str, fits)) or 'none but 1'}; or see it at {near[0]} x {near[1]}: "
            f"-o obs.height={near[0]} -o obs.width={near[1]}"
        )
    if dim % heads:
        raise ConfigError(f"encoder.dim {dim} does not divide into encoder.num_heads {heads}")
    return obs.height // side, obs.width // side
