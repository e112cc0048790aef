"""DIAMOND's reward and end model without its last layer: pairs of frames, and the action between them, through a
convolutional network and an LSTM over time.

What it says of a transition are features, which heads read. Sequences begin at a state of zeros.

Source: DIAMOND (arXiv:2405.12399), eloialonso/diamond @ 5bcd159, written from its description.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from .unet import BlocksConfig, ConditionedBlocks

State = tuple[Tensor, Tensor]
"""Hidden and cell state of the LSTM, ``[1, B, width]`` each."""


class OutcomesConfig(BlocksConfig):
    """Options of the model of outcomes, beside those of its levels.

    Attributes:
        dim: Width in which an action is told to the blocks.
        width: Of the LSTM, and of the features.
    """

    channels: tuple[int, ...] = Field(default=(32, 32, 32, 32), min_length=1)
    dim: int = Field(default=128, gt=0)
    width: int = Field(default=512, gt=0)


class Outcomes(nn.Module):
    """Transitions -> features, ``[B, T, width]``.

    Args:
        config: See there.
        channels: Of a picture.
        size: Its height and width; halved without a rest at every level.
        action_dim: Numbers of an action; 0: none.
    Example:
        >>> config = OutcomesConfig(channels=(8, 16), depths=(1, 1), attention=(False, False), dim=6, width=12)
        >>> outcomes = Outcomes(config, channels=3, size=(8, 8), action_dim=4)
        >>> left, reached, action = torch.rand(2, 5, 3, 8, 8), torch.rand(2, 5, 3, 8, 8), torch.rand(2, 5, 4)
        >>> whole, _ = outcomes(left, reached, action)
        >>> part, state = outcomes(left[:, :3], reached[:, :3], action[:, :3])
        >>> rest, _ = outcomes(left[:, 3:], reached[:, 3:], action[:, 3:], state)
        >>> whole.shape, torch.allclose(whole, torch.cat([part, rest], 1), atol=1e-5)
        (torch.Size([2, 5, 12]), True)
    """

    def __init__(self, config: OutcomesConfig, *, channels: int, size: tuple[int, int], action_dim: int):
        super().__init__()
        self.config, halvings = config, len(config.channels) - 1
        area = 1
        for side in size:
            side = -(-side // config.patch)
            for _ in range(halvings):
                side = (side + 1) // 2
            area *= side
        self.blocks = ConditionedBlocks(config, inputs=2 * channels, dim=config.dim)
        self.actions = nn.Linear(action_dim, config.dim, bias=False) if action_dim else None
        if self.actions is not None:
            nn.init.normal_(self.actions.weight)
        self.lstm = nn.LSTM(config.channels[-1] * area, config.width, batch_first=True)
        self.out = nn.Sequential(nn.Linear(config.width, config.width), nn.SiLU())
        _init_lstm(self.lstm)

    def forward(
        self, left: Tensor, reached: Tensor, actions: Tensor | None, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Features ``[B, T, width]`` and the state after them.

        Args:
            left, reached: Frames that transitions lead from and to, ``[B, T, C, H, W]`` in [-1, 1].
            actions: Of the transitions, ``[B, T, action_dim]``; None where there are none.
            state: After the transitions before; None: there were none.
        """
        clips, frames = left.shape[:2]
        pairs = torch.cat([left, reached], 2).flatten(0, 1)
        if self.actions is None or actions is None:
            told = pairs.new_zeros(pairs.shape[0], self.config.dim)
        else:
            told = self.actions(actions).flatten(0, 1)
        maps = self.blocks(pairs, self.blocks.modulate(told))
        hidden, state = self.lstm(maps.flatten(1).unflatten(0, (clips, frames)), state)
        return self.out(hidden), state


def _init_lstm(lstm: nn.LSTM) -> None:
    """Xavier weights of inputs, orthogonal recurrent ones, biases 0 but one of 1 for the forget gate."""
    for name, parameter in lstm.named_parameters():
        if name.startswith("weight_ih"):
            nn.init.xavier_uniform_(parameter)
        elif name.startswith("weight_hh"):
            nn.init.orthogonal_(parameter)
        else:
            nn.init.zeros_(parameter)
            if name.startswith("bias_ih"):
                with torch.no_grad():
                    parameter[lstm.hidden_size : 2 * lstm.hidden_size] = 1
