"""Actor and critic on pictures: convolutions, an LSTM cell, a policy and a value.

Two stacks of convolutions: ``"pooled"`` (IRIS: convolution, pooling and THEN the ReLU, four times) and ``"residual"``
(DIAMOND: small residual blocks with pooling between them). Pictures are float in [0, 1] and scaled to [-1, 1] here.

Sources: IRIS (arXiv:2209.00588), eloialonso/iris @ 24326aa, and DIAMOND (arXiv:2405.12399), eloialonso/diamond @
5bcd159, written from their descriptions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from ...batch import check_shape
from ...config import Config
from ...errors import ConfigError

Memory = tuple[Tensor, Tensor]
"""State of the LSTM cell: hidden and cell, ``[N, D]`` each."""


class NetworkConfig(Config):
    """Options of the network.

    Attributes:
        kind: ``"pooled"`` or ``"residual"``; see the module's docstring.
        channels: Width of each convolution (pooled) or block (residual).
        down: Which of them halve the picture; None: all.
        memory: Width of the LSTM cell.
        patch: Squares of so many pixels a side are one place, their pixels its channels. 1, as upstream: every pixel
            is one.
    """

    kind: Literal["pooled", "residual"] = "pooled"
    channels: tuple[PositiveInt, ...] = Field(default=(32, 32, 64, 64), min_length=1)
    down: tuple[bool, ...] | None = None
    memory: int = Field(default=512, gt=0)
    patch: int = Field(default=1, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> NetworkConfig:
        if self.down is not None and len(self.down) != len(self.channels):
            raise ValueError(f"down says of each of the {len(self.channels)} channels whether it halves the picture, "
                             f"and has {len(self.down)} entries")
        return self

    @property
    def halves(self) -> tuple[bool, ...]:
        """Of each convolution or block whether it halves the picture."""
        return self.down if self.down is not None else (True,) * len(self.channels)


class SmallResBlock(nn.Module):
    """``skip(x) + conv(SiLU(norm(x)))``, the skip a convolution of one pixel where widths differ.

    Args:
        width_in, width: Channels before and after.
    Example:
        >>> SmallResBlock(4, 8)(torch.zeros(1, 4, 6, 6)).shape
        torch.Size([1, 8, 6, 6])
    """

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.skip = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)
        self.norm = nn.GroupNorm(max(1, width_in // 32), width_in)
        self.conv = nn.Conv2d(width_in, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.conv(F.silu(self.norm(x)))


def pooled(channels: int, config: NetworkConfig) -> nn.Sequential:
    """IRIS's convolutions.

    Args:
        channels: Of a picture.
        config: Options.
    Example:
        >>> pooled(3, NetworkConfig(channels=(4, 8)))(torch.zeros(1, 3, 8, 8)).shape
        torch.Size([1, 8, 2, 2])
    """
    layers: list[nn.Module] = []
    for width, halves in zip(config.channels, config.halves, strict=True):
        layers += [nn.Conv2d(channels, width, 3, padding=1), *([nn.MaxPool2d(2)] if halves else []), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers)


def residual(channels: int, config: NetworkConfig) -> nn.Sequential:
    """DIAMOND's blocks.

    Args:
        channels: Of a picture.
        config: Options.
    Example:
        >>> options = NetworkConfig(kind="residual", channels=(4, 8), down=(True, False))
        >>> residual(3, options)(torch.zeros(1, 3, 8, 8)).shape
        torch.Size([1, 8, 4, 4])
    """
    before = config.channels[0]
    layers: list[nn.Module] = [nn.Conv2d(channels, before, 3, padding=1)]
    for width, halves in zip(config.channels, config.halves, strict=True):
        layers += [SmallResBlock(before, width), *([nn.MaxPool2d(2)] if halves else [])]
        before = width
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Judged:
    """What the network says of a picture.

    Attributes:
        logits: Of the actions, ``[N, A]``.
        value: ``[N]``.
        memory: To go on with.
    """

    logits: Tensor
    value: Tensor
    memory: Memory


class PixelNetwork(nn.Module):
    """Pictures, one after the other -> logits of the actions, and the value.

    Args:
        config: Options.
        frame_shape: ``(C, H, W)``.
        num_actions: Choices.
    Raises:
        ConfigError: pictures that cannot be halved as often.
    Example:
        >>> net = PixelNetwork(NetworkConfig(channels=(4, 8), memory=16), frame_shape=(3, 16, 16), num_actions=5)
        >>> said = net(torch.rand(2, 3, 16, 16), net.begin(2))
        >>> said.logits.shape, said.value.shape
        (torch.Size([2, 5]), torch.Size([2]))
    """

    def __init__(self, config: NetworkConfig, *, frame_shape: tuple[int, int, int], num_actions: int):
        super().__init__()
        channels, height, width = frame_shape
        factor = config.patch * 2 ** sum(config.halves)
        if height % factor or width % factor or not height:
            cut = f"cuts pictures into squares of {config.patch} pixels and " if config.patch > 1 else ""
            raise ConfigError(f"this actor-critic {cut}halves {'them' if cut else 'pictures'} {sum(config.halves)} "
                              f"times, so their sides are multiples of {factor}, not {height} x {width}: another size, "
                              "or fewer halvings (agent.network.down)")
        self.config, self.frame_shape = config, tuple(frame_shape)
        self.encoder = (pooled if config.kind == "pooled" else residual)(channels * config.patch**2, config)
        self.lstm = nn.LSTMCell(config.channels[-1] * (height // factor) * (width // factor), config.memory)
        self.actor, self.critic = nn.Linear(config.memory, num_actions), nn.Linear(config.memory, 1)
        if config.kind == "residual":
            _as_diamond_begins(self)

    def begin(self, count: int) -> Memory:
        """The memory of those who have seen nothing yet."""
        like = self.lstm.weight_hh
        return like.new_zeros(count, self.config.memory), like.new_zeros(count, self.config.memory)

    def forward(self, frames: Tensor, memory: Memory) -> Judged:
        """One picture more.

        Args:
            frames: ``[N, C, H, W]``, float in [0, 1].
            memory: As `begin` or the last call gave it.
        """
        channels, height, width = self.frame_shape
        check_shape(frames, "n c h w", name="frames", c=channels, h=height, w=width)
        memory = self.lstm(self._looked(frames), memory)
        return Judged(self.actor(memory[0]), self.critic(memory[0])[:, 0], memory)

    def _looked(self, frames: Tensor) -> Tensor:
        """What the convolutions make of pictures ``[N, C, H, W]``, ``[N, D]``."""
        x = 2 * frames - 1
        return self.encoder(x if self.config.patch == 1 else F.pixel_unshuffle(x, self.config.patch)).flatten(1)

    def watch(self, frames: Tensor, real: Tensor | None, memory: Memory) -> Memory:
        """Pictures that are only looked at, before there is something to decide.

        Args:
            frames: ``[N, T, C, H, W]``, float in [0, 1].
            real: ``[N, T]`` bool: pictures that are none leave the memory as it is. None: all are.
            memory: Before.
        """
        if not frames.shape[1]:
            return memory
        seen = self._looked(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        for t in range(frames.shape[1]):
            after = self.lstm(seen[:, t], memory)
            if real is not None:
                after = tuple(torch.where(real[:, t, None], new, old) for new, old in zip(after, memory, strict=True))
            memory = after
        return memory


@torch.no_grad()
def _as_diamond_begins(net: PixelNetwork) -> None:
    """DIAMOND's first weights: all choices alike, all values 0, and an LSTM that forgets slowly."""
    for layer in (net.actor, net.critic):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    nn.init.xavier_uniform_(net.lstm.weight_ih)
    nn.init.orthogonal_(net.lstm.weight_hh)
    nn.init.zeros_(net.lstm.bias_hh)
    nn.init.zeros_(net.lstm.bias_ih)
    quarter = net.config.memory
    net.lstm.bias_ih[quarter : 2 * quarter] = 1  # torch's order of gates: input, forget, cell, output
