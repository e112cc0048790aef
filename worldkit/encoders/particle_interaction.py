"""Second half of the particle encoder: particles of one frame look at each other, at the background and at the image.

Gives every particle its depth and corrects its features; per frame, never across time.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from ..config import ObsSpec
from ..distributions import Normal, full_precision
from ..latents import Key, Latent, LatentSpec
from ..nn.attention import Block, RMSNorm
from ..nn.conv import ConvConfig, ConvEncoder, MapToLatent, Padding, mlp
from ..nn.products import Linear
from ..nn.spec import LatentEmbed

_FIELDS = ("position", "scale", "features", "transparency", "score", "origin")


class InteractionEncoder(nn.Module):
    """Transformer over [particles, background, image token] of one frame; heads for depth, features, background."""

    def __init__(self, spec: LatentSpec, *, obs: ObsSpec, dim: int, num_layers: int, num_heads: int, cnn: ConvConfig,
                 padding: Padding, anchors: dict[str, Tensor]):
        super().__init__()
        self.spec, self.views = spec, spec.views
        self.image_cnn = ConvEncoder(cnn, inputs=obs.channels, padding=padding)
        size = (obs.height // cnn.downsampling, obs.width // cnn.downsampling)
        self.to_token = MapToLatent(cnn.latent_channels, size, dim, dim)
        fields = [f for f in _FIELDS if f != "origin" or anchors]
        self.embed = LatentEmbed(
            spec, dim, fields={"particles": fields}, anchors=anchors, token_embedding=bool(anchors)
        )
        self.image_embedding = nn.Parameter(0.02 * torch.randn(dim))
        self.position_embedding = nn.Parameter(0.02 * torch.randn(dim))
        self.blocks = nn.Sequential(*(Block(dim, num_heads) for _ in range(num_layers)))
        self.norm_out, self.head = RMSNorm(dim), Linear(dim, dim, bias=False)
        self.depth_head = mlp(dim, dim, 2)
        self.features_head = mlp(dim, dim, 2 * spec.field(("particles", "features")).dim)
        self.background_head = mlp(dim, dim, 2 * spec.field(("background", "features")).dim)

    def reset(self) -> None:
        """Corrections start at zero with log-variance log(1e-6)."""
        for head in (self.features_head[-1], self.background_head[-1]):
            nn.init.zeros_(head.weight)
            half = head.bias.shape[0] // 2
            head.bias.data = torch.cat([torch.zeros(half), torch.full((half,), math.log(1e-6))])

    def forward(self, frames: Tensor, known: dict[str, Tensor], appearance: Tensor, background: Tensor, score: Tensor
                ) -> dict[Key, Tensor]:
        """Parameters of depth, features and background.

        Args:
            frames: ``[(B V T), C, H, W]``.
            known: Sampled position, scale and transparency, ``[B, T, (V N), .]``.
            appearance: ``[B, T, (V N), feature_dim]``.
            background: ``[B, T, V, background_dim]``.
            score: ``[B, T, (V N), 1]``.
        """
        values = {("particles", name): value for name, value in known.items()}
        values |= {("particles", "features"): appearance, ("background", "features"): background}
        values["particles", "depth"] = torch.zeros_like(score)  # not known yet and not embedded
        batch, time = appearance.shape[:2]
        tokens = self.embed(Latent(self.spec, values), score=score)
        image = self.to_token(self.image_cnn(frames)) + self.image_embedding
        image = rearrange(image, "(b v t) d -> b t v d", v=self.views, t=time)
        if self.embed.view_embedding is not None:
            image = image + self.embed.view_embedding
        tokens = rearrange(torch.cat([tokens, image], 2), "b t n d -> (b t) n d")
        tokens = self.head(self.norm_out(self.blocks(tokens + self.position_embedding)))
        tokens = rearrange(tokens, "(b t) n d -> b t n d", b=batch)
        particles, rest, _ = tokens.split([appearance.shape[2], self.views, self.views], 2)
        feature_delta, feature_logvar = full_precision(self.features_head(particles)).chunk(2, -1)
        background_delta, background_logvar = full_precision(self.background_head(rest)).chunk(2, -1)
        return {
            ("particles", "depth"): full_precision(self.depth_head(particles)),
            ("particles", "features"): Normal.pack(appearance + feature_delta, feature_logvar),
            ("background", "features"): Normal.pack(background + background_delta, background_logvar),
        }
