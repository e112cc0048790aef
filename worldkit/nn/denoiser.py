"""DIAMOND's network: a U-Net over the frames so far and a noisy one, told the noise level and the last actions.

``told = MLP(fourier(noise level) + actions side by side [+ fourier(noise level of the frames)])``, once per block by
`worldkit.nn.unet`. All of it depends on nothing that a sampler changes, so `told` is asked for all its levels at once.

Source: DIAMOND (arXiv:2405.12399), eloialonso/diamond @ 5bcd159 and 851cefb (csgo), written from their description.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..distributions import Sampler, full_precision
from ..errors import ConfigError
from .edm import Levels, NoiseConfig, Preconditioning, SamplingConfig, sample, to_levels
from .unet import BlocksConfig, UNet

PastNoise = Literal["none", "told", "learnt"]


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
    """A network F, and what it is for: pictures are learnt by `learn` and drawn by `draw`, see `worldkit.nn.edm`.

    Args:
        config: Levels of the U-Net.
        channels: Of a picture.
        given: Channels of what is given beside the noisy picture.
        dim: Width of the condition.
        past: Actions that it is told, which share ``dim``; 0: none.
        action_dim: Numbers of an action.
        noise: Of training.
        past_noise: Of the given frames: ``"none"``, it knows nothing of any; ``"told"``, it is told how much, and there
            is none in training; ``"learnt"``, frames get noise in training, too.
        levels: How pictures are cut to 256 levels.
    Example:
        >>> levels = BlocksConfig(channels=(8, 16), depths=(1, 1), attention=(False, False))
        >>> net = Denoiser(levels, channels=3, given=12, dim=16, past=4, action_dim=5)
        >>> given, picture, actions = torch.zeros(2, 12, 6, 8), torch.zeros(2, 3, 6, 8), torch.zeros(2, 4, 5)
        >>> loss, seen = net.learn(given, picture, actions, Sampler(), "x")
        >>> loss.shape, seen.shape
        (torch.Size([2]), torch.Size([2, 3, 6, 8]))
        >>> len(list(net.draw(given, picture, actions, SamplingConfig(steps=3), Sampler(), "x")))
        4
    """

    def __init__(self, config: BlocksConfig, *, channels: int, given: int, dim: int, past: int = 0, action_dim: int = 0,
                 noise: NoiseConfig | None = None, past_noise: PastNoise = "none", levels: Levels = "down"):
        super().__init__()
        if dim % 2 or (past and dim % past):
            raise ConfigError(f"the condition's width (dim) is shared out among {past} actions and among cosines and "
                              f"sines, which {dim} does not allow; take a multiple of {math.lcm(2, max(past, 1))}")
        self.noise, self.levels, self.past_noise = noise or NoiseConfig(), levels, past_noise
        self.level = Fourier(dim)
        self.past_level = None if past_noise == "none" else Fourier(dim)
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
        return full_precision(self.net(torch.cat([given, noisy], 1), told))

    def learn(
        self, given: Tensor, target: Tensor, actions: Tensor | None, sampler: Sampler, name: str
    ) -> tuple[Tensor, Tensor]:
        """Losses ``[B]``, means over a picture, and the picture as the network sees it, without gradient.

        Args:
            given: What it is predicted from, ``[B, given, H, W]``.
            target: The picture, ``[B, C, H, W]``.
            actions: ``[B, past, action_dim]``.
            sampler: Source of noise.
            name: Of the draws.
        """
        noise, past_noise = self.noise, None
        if self.past_noise == "learnt":
            sigma = noise.draw(given, sampler, f"{name}.past")
            given, past_noise = noise.add(given, sigma, sampler, f"{name}.past"), sigma.log() / 4
        sigma = noise.draw(target, sampler, name)
        noisy = noise.add(target, sigma, sampler, name)
        at = Preconditioning.at(sigma, noise)
        into, skip, out = (x[:, None, None, None] for x in (at.into, at.skip, at.out))
        answer = self(given / noise.data, into * noisy, self.told(at.noise, actions, past_noise))
        loss = (answer - (target - skip * noisy) / out).square().mean((1, 2, 3))
        return loss, to_levels(skip * noisy + out * answer, self.levels)

    def draw(
        self, given: Tensor, like: Tensor, actions: Tensor | None, choice: SamplingConfig, sampler: Sampler, name: str
    ) -> Iterator[Tensor]:
        """Pictures of the shape of ``like`` after every step of a sampler, from noise to the one that is predicted.

        Args:
            given, actions, name: As of `learn`.
            like: ``[B, C, H, W]``.
            choice: The sampler.
            sampler: Source of noise.
        """
        levels = torch.tensor(choice.told(), dtype=like.dtype, device=like.device)
        at = Preconditioning.at(levels, self.noise)
        past = levels.new_tensor(choice.past_noise).log() / 4 if choice.past_noise else None
        told = self.told(at.noise[:, None].expand(-1, like.shape[0]), actions, past)  # of all calls at once

        def denoise(x: Tensor, call: int, given: Tensor) -> Tensor:
            answer = self(given / self.noise.data, at.into[call] * x, told[call])
            return to_levels(at.skip[call] * x + at.out[call] * answer, self.levels)

        return sample(denoise, torch.zeros_like(like), given, choice, sampler, name)


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Pictures ``[B, C, h, w]`` in another size, bicubic; smaller ones without aliases, as torchvision has it."""
    smaller = size[0] < x.shape[-2]
    return F.interpolate(x, tuple(size), mode="bicubic", align_corners=False, antialias=smaller)
