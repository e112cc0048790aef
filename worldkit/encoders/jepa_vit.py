"""The encoder of I-JEPA, V-JEPA and V-JEPA 2: a plain vision transformer, whose patch tokens are the latent.

As part of a world model every frame is seen by itself; a transformer of clips (``tubelet`` above 1) sees it repeated,
as V-JEPA 2-AC does, so that no token knows the future. Training by masks (objective `masked-jepa`) shows it whole
clips: `JEPAViT.tokens`.

Source: I-JEPA (arXiv:2301.08243), V-JEPA (arXiv:2404.08471), V-JEPA 2 (arXiv:2506.09985; facebookresearch/vjepa2 @
c2963a4), written from their description.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from pydantic import Field
from torch import Tensor

from ..config import ComponentConfig, ObsSpec
from ..distributions import Delta, Sampler, full_precision
from ..errors import ConfigError, ShapeError
from ..latents import Field as LatentField
from ..latents import LatentDist, LatentSpec, TokenGroup
from ..nn.vit import Activation, Positions, ViT
from .base import Encoder, Encoding
from .vit_cls import IMAGENET, check_patches, color


class JEPAViTConfig(ComponentConfig):
    """Options of the transformer; defaults are I-JEPA's ViT-B/16.

    Attributes:
        patch_size: Side of a patch, pixels; divides height and width.
        tubelet: Frames that a patch lasts: 1 for pictures, 2 in V-JEPA.
        frames: Frames of the clips that tables of positions are made for.
        dim, num_layers, num_heads: Of the blocks.
        mlp_ratio: Their MLPs are so many times as wide as ``dim`` (48 / 11 in giants).
        activation: ``"gelu"``, or ``"swiglu"`` (two thirds as wide).
        positions: ``"sincos-2d"`` (I-JEPA), ``"sincos-3d"``, ``"sincos-3d-uniform"`` (V-JEPA), ``"tiled-rotary"``
            (V-JEPA 2).
        rescaled: What deep blocks add begins smaller (V-JEPA 2).
        normalize: Bring every token of the latent to mean 0 and variance 1 over its features (V-JEPA 2-AC). Training
            by masks does not look at it.
        frozen: It came trained and stays as it is: no gradients, evaluation mode.
        mean, std: Of colours in [0, 1]: one number, or one a channel; default: ImageNet's.
    """

    name: str = "jepa-vit"
    patch_size: int = Field(default=16, gt=0)
    tubelet: int = Field(default=1, gt=0)
    frames: int = Field(default=1, gt=0)
    dim: int = Field(default=768, gt=0)
    num_layers: int = Field(default=12, gt=0)
    num_heads: int = Field(default=12, gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
    activation: Activation = "gelu"
    positions: Positions = "sincos-2d"
    rescaled: bool = False
    normalize: bool = False
    frozen: bool = False
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]


class JEPAViT(Encoder):
    """Frame -> features on a grid (points). Views are put side by side in one group, view-major.

    Raises:
        ConfigError: patches do not divide the picture, or heads the width, or tubelets the frames; or positions that
            are not for pictures (clips).
    Example:
        >>> config = JEPAViTConfig(patch_size=8, dim=16, num_layers=1, num_heads=2)
        >>> encoder = JEPAViT(config, obs=ObsSpec(height=32, width=24))
        >>> encoder(torch.rand(2, 5, 3, 32, 24), sampler=Sampler()).latent.features.shape, encoder.spec.grid
        (torch.Size([2, 5, 12, 16]), (4, 3))
    """

    Config = JEPAViTConfig
    default_decoder = "patch"
    config: JEPAViTConfig

    def __init__(self, config: JEPAViTConfig, *, obs: ObsSpec):
        super().__init__(config, obs=obs)
        rows, columns = check_patches(config, obs)
        self._check(config)
        self.grid = (max(1, config.frames // config.tubelet), rows, columns)
        self.net = ViT(
            self.grid, patch_size=config.patch_size, tubelet=config.tubelet, channels=obs.channels, dim=config.dim,
            num_layers=config.num_layers, num_heads=config.num_heads, hidden=int(config.dim * config.mlp_ratio),
            positions=config.positions, activation=config.activation, rescaled=config.rescaled,
        )
        if config.frozen:
            self.net.requires_grad_(False)
        self.register_buffer("mean", color(config.mean, obs), persistent=False)
        self.register_buffer("std", color(config.std, obs), persistent=False)
        features = LatentField("features", config.dim, Delta(), "features of a patch")
        group = TokenGroup("patches", obs.views * rows * columns, (features,))
        self.spec = LatentSpec((group,), grid=(rows, columns), views=obs.views, kind="patches")

    @staticmethod
    def _check(config: JEPAViTConfig) -> None:
        if config.frames % config.tubelet and config.frames > 1:
            whole = -(-config.frames // config.tubelet) * config.tubelet
            raise ConfigError(f"encoder.frames {config.frames} is no multiple of encoder.tubelet {config.tubelet}: "
                              f"-o encoder.frames={whole} -o objective.num_frames={whole}, or another tubelet")
        if config.positions == "sincos-2d" and config.tubelet * config.frames > 1:
            raise ConfigError("encoder.positions sincos-2d tells row and column, and clips have time, too: use "
                              "sincos-3d-uniform or tiled-rotary, or tubelet = 1 and frames = 1")
        if config.positions == "tiled-rotary" and config.dim // config.num_heads < 12:
            raise ConfigError(f"encoder.positions tiled-rotary turns pairs of three axes: heads need at least 12 "
                              f"channels, and these have {config.dim // config.num_heads}; lower encoder.num_heads")
        if config.positions.startswith("sincos") and config.dim % 4:
            raise ConfigError(f"encoder.dim {config.dim} must be a multiple of 4 for a table of sines and cosines")

    def train(self, mode: bool = True) -> JEPAViT:
        """A frozen one stays in evaluation mode."""
        return super().train(mode and not self.config.frozen)

    def tokens(self, video: Tensor, keep: Tensor | None = None) -> Tensor:
        """Clips as training by masks shows them: ``[M, T, C, H, W]`` in [0, 1] -> tokens ``[M, N, D]``, time outermost.

        Args:
            video: Whole clips; of an encoder of pictures with T = 1.
            keep: Numbers of the tokens that are seen, ``[M, K]``; None: all.
        Raises:
            ShapeError: frames that do not fill tubelets.
        """
        if video.shape[1] % self.config.tubelet or (self.config.tubelet == 1 and video.shape[1] > 1
                                                    and self.config.positions == "sincos-2d"):
            raise ShapeError(f"this encoder sees clips of a multiple of {self.config.tubelet} frames"
                             f"{' (pictures)' if self.config.tubelet == 1 else ''}, got {video.shape[1]}")
        return self.net(rearrange((video - self.mean) / self.std, "m t c h w -> m c t h w"), keep)

    def forward(self, video: Tensor, *, sampler: Sampler) -> Encoding:
        frames = self.fold_frames(video)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.frozen):
            tokens = full_precision(self.tokens(repeat(frames, "m c h w -> m t c h w", t=self.config.tubelet)))
            if self.config.normalize:
                tokens = F.layer_norm(tokens, tokens.shape[-1:])
        tokens = rearrange(tokens, "(b v t) n d -> b t (v n) d", v=self.obs.views, t=video.shape[-4])
        posterior = LatentDist(self.spec, {("patches", "features"): tokens})
        return Encoding(posterior, posterior.sample(sampler))
