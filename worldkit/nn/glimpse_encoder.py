"""Networks of DLPv2 / DDLP that look at glimpses: of each by itself, and of many to choose among.

Source: DDLP, upstream modules/modules.py @ 5686275, written from its description.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from ..distributions import full_precision
from .conv_relu import DownStack, mlp_relu

MAP_CHANNELS = 32


class GlimpseEncoder(nn.Module):
    """Glimpses ``[M, N, C, P, P]`` -> ``[M, N, outputs]`` in full precision.

    Args:
        inputs: Channels of a glimpse.
        side: Its side P in pixels.
        channels: Widths of the convolution stack's levels.
        hidden: Width of the layers behind it.
        outputs: Numbers that come out.
        lost_layers: See `worldkit.nn.conv_relu`.
    """

    def __init__(self, *, inputs: int, side: int, channels: Sequence[int], hidden: int, outputs: int,
                 lost_layers: bool):
        super().__init__()
        self.cnn = DownStack(inputs, channels, MAP_CHANNELS, lost_layers=lost_layers)
        self.project = nn.Linear(MAP_CHANNELS * DownStack.side(side, len(channels)) ** 2, hidden)
        self.read = mlp_relu(hidden, hidden, hidden, outputs)

    def forward(self, glimpses: Tensor) -> Tensor:
        maps = self.cnn(rearrange(glimpses, "m n c h w -> (m n) c h w"))
        flat = rearrange(maps, "(m n) c h w -> m n (c h w)", n=glimpses.shape[1])
        return full_precision(self.read(self.project(flat)))


class ProposalMixer(nn.Module):
    """Mixes all proposals of an image into fewer: an MLP-mixer over glimpses and places gives weights.

    Args:
        inputs, side, channels, lost_layers: As in `GlimpseEncoder`.
        proposals: How many there are.
        particles: How many come out.
        width: Of the tokens that are mixed.
    """

    def __init__(self, *, inputs: int, side: int, channels: Sequence[int], lost_layers: bool, proposals: int,
                 particles: int, width: int):
        super().__init__()
        self.cnn = DownStack(inputs, channels, MAP_CHANNELS, lost_layers=lost_layers)
        self.look = nn.Linear(MAP_CHANNELS * DownStack.side(side, len(channels)) ** 2, width // 2)
        self.place = nn.Linear(2, width - width // 2)
        self.norm_among, self.among = nn.LayerNorm(width), mlp_relu(proposals, width, proposals)
        self.norm_within, self.within = nn.LayerNorm(width), mlp_relu(width, width, width)
        self.norm_out, self.weigh = nn.LayerNorm(width), nn.Linear(width, particles)

    def forward(self, glimpses: Tensor, proposals: Tensor) -> Tensor:
        """Anchors ``[M, particles, 2]``, each an average of proposals ``[M, L, 2]`` with ``glimpses`` around them."""
        maps = self.cnn(rearrange(glimpses, "m n c h w -> (m n) c h w"))
        flat = rearrange(maps, "(m n) c h w -> m n (c h w)", n=glimpses.shape[1])
        tokens = torch.cat([self.look(flat), self.place(proposals.detach())], -1)
        tokens = tokens + self.among(self.norm_among(tokens).transpose(1, 2)).transpose(1, 2)
        tokens = tokens + self.within(self.norm_within(tokens))
        weights = full_precision(self.weigh(self.norm_out(tokens))).softmax(1)  # [M, L, particles]
        return weights.transpose(1, 2) @ proposals
