"""DIAMOND's network: a U-Net over the frames so far and a noisy one, told the noise level and the last actions.

``told = MLP(fourier(noise level) + actions side by side [+ fourier(noise level of the frames)])``, once per block by
`worldkit.nn.unet`. All of it depends on nothing that a sampler changes, so `told` is asked for all its levels at once.

Source: DIAMOND (arXiv:2405.12399), eloialonso/diamond @ 5bcd159 and 851cefb (csgo), written from their description.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from .unet import BlocksConfig, UNet


class Fourier(nn.Module):
    """Numbers ``[...]`` -> ``[..., dim]``: cosines, then sines, of random frequencies, which are saved."""

    frequencies: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(dim // 2))

    def forward(self, x: Tensor) -> Tensor:
        angles = 2 * math.pi * x[..., None] * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], -1)


class Denoiser(nn.Module):
    """Given frames and a noisy one -> the network's answer F, see `worldkit.nn.edm`.

    Args:
        config: Levels of the U-Net.
        channels: Of a picture.
        given: Channels of what is given beside the noisy picture.
        dim: Width of the condition.
        past: Actions that it is told, which share ``dim``; 0: none.
        action_dim: Numbers of an action.
        noisy_past: The frames that are given may carry noise, whose level is told.
    Example:
        >>> levels = BlocksConfig(channels=(8, 16), depths=(1, 1), attention=(False, False))
        >>> net = Denoiser(levels, channels=3, given=12, dim=16, past=4, action_dim=5)
        >>> told = net.told(torch.zeros(2), torch.zeros(2, 4, 5))
        >>> net(torch.zeros(2, 12, 6, 8), torch.zeros(2, 3, 6, 8), told).shape
        torch.Size([2, 3, 6, 8])
    """

    def __init__(self, config: BlocksConfig, *, channels: int, given: int, dim: int, past: int = 0, action_dim: int = 0,
                 noisy_past: bool = False):
        super().__init__()
        if dim % 2 or (past and dim % past):
            raise ConfigError(f"the condition's width (dim) is shared out among {past} actions and among cosines and "
                              f"sines, which {dim} does not allow; take a multiple of {math.lcm(2, max(past, 1))}")
        self.level = Fourier(dim)
        self.past_level = Fourier(dim) if noisy_past else None
        self.actions = nn.Linear(action_dim, dim // past, bias=False) if past and action_dim else None
        if self.actions is not None:
            nn.init.normal_(self.actions.weight)
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.net = UNet(config, inputs=given + channels, outputs=channels, dim=dim)

    def told(self, noise: Tensor, actions: Tensor | None, past_noise: Tensor | None = None) -> Tensor:
        """What the blocks are told.

        Args:
            noise: ``ln(s) / 4`` of levels, ``[...]``.
            actions: The last ones, oldest first, ``[..., past, action_dim]``.
            past_noise: ``ln(sigma) / 4`` of the noise on the given frames; None: there is none.
        """
        told = self.level(noise)
        if self.past_level is not None:
            told = told + self.past_level(torch.zeros_like(noise) if past_noise is None else past_noise)
        if self.actions is not None and actions is not None:
            told = told + self.actions(actions).flatten(-2)
        return self.net.modulate(self.mlp(told))

    def forward(self, given: Tensor, noisy: Tensor, told: Tensor) -> Tensor:
        """Given frames ``[B, given, H, W]`` and noisy ones ``[B, C, H, W]``, scaled, and `told` -> ``[B, C, H, W]``."""
        return self.net(torch.cat([given, noisy], 1), told)


def upsampled(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures ``[B, C, h, w]`` in another size, bicubic."""
    return F.interpolate(x, size, mode="bicubic", align_corners=False)
