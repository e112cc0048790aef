"""What an object makes of the others, of its surroundings, and of what it remembers.

The interaction is dense: every pair of objects goes through two MLPs. Their first layers are linear in what the one and
the other object bring, so they are computed per OBJECT and added per pair: same numbers, a fraction of the work.

Source: G-SWM (arXiv:2006.02940) section 3.2; github.com/zhixuan-lin/G-SWM @ 1423553, written from its description.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor, nn

from .boxes import look
from .config import MotionConfig, PerceptionConfig
from .networks import PictureEncoder, celu_mlp
from .objects import CENTRE


class Interaction(nn.Module):
    """Objects with their states ``[B, N, Z + S]`` -> what each makes of itself and of the others, ``[B, N, D]``.

    An object sees another's centre relative to its own. Others count by a softmax over all (itself included), times
    their presence, itself then left out, and what remains adds up to 1.
    """

    def __init__(self, config: MotionConfig, *, inputs: int):
        super().__init__()
        layers = config.interaction_layers
        self.alone = celu_mlp(inputs, *layers, config.interaction_dim)
        self.pairs = celu_mlp(2 * inputs, *layers, config.interaction_dim)
        self.weights = celu_mlp(2 * inputs, *layers, 1)

    def forward(self, objects: Tensor) -> Tensor:
        centre, others = objects[..., CENTRE], objects.clone()
        others[..., CENTRE] = -centre
        related, score = (self._of_pairs(net, objects, centre, others) for net in (self.pairs, self.weights))
        weights = score.squeeze(-1).softmax(-1) * objects[:, None, :, 0]
        itself = torch.eye(objects.shape[1], dtype=torch.bool, device=objects.device)
        weights = weights.masked_fill(itself, 0.0)
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-4)
        return self.alone(objects) + torch.einsum("bij,bijd->bid", weights, related)

    @staticmethod
    def _of_pairs(net: nn.Sequential, objects: Tensor, centre: Tensor, others: Tensor) -> Tensor:
        """``net`` of every pair, ``[B, N, N, D]``."""
        first, width = net[0], objects.shape[-1]
        weight = first.weight
        own = F.linear(objects, weight[:, :width], first.bias)
        own = own + F.linear(centre, weight[:, width + CENTRE.start : width + CENTRE.stop])
        return net[1:](own[:, :, None] + F.linear(others, weight[:, width:])[:, None])


class Memory(nn.Module):
    """The LSTM of an object, one of two (what inference and what prediction go by), and its state when it is new."""

    def __init__(self, config: MotionConfig, *, inputs: int):
        super().__init__()
        self.interaction = Interaction(config, inputs=inputs + config.state_dim)
        self.project = nn.Linear(inputs + config.interaction_dim + config.environment_dim, config.input_dim)
        self.cell = nn.LSTMCell(config.input_dim, config.state_dim)
        self.initial_h, self.initial_c = (nn.Parameter(torch.randn(config.state_dim)) for _ in range(2))

    def fresh(self, batch: int, count: int) -> Tensor:
        """State of new objects, ``[B, N, 2 S]``."""
        return torch.cat([self.initial_h, self.initial_c]).expand(batch, count, -1)

    def forward(self, z: Tensor, state: Tensor, environment: Tensor) -> Tensor:
        """State after objects ``z`` ``[B, N, Z]``; ``state`` ``[B, N, 2 S]`` is the one before."""
        batch, (output, cell) = z.shape[0], state.chunk(2, -1)
        met = self.interaction(torch.cat([z, output], -1))
        inputs = self.project(torch.cat([z, met, environment], -1))
        output, cell = self.cell(inputs.flatten(0, 1), (output.flatten(0, 1), cell.flatten(0, 1)))
        return torch.cat([output, cell], -1).unflatten(0, (batch, -1))


class Environment(nn.Module):
    """Background ``[B, C, S, S]`` (None: black) and boxes ``[B, N, 4]`` -> what objects see of it, ``[B, N, D]``.

    Upstream runs the encoder of a black background too, so that the answer is a learned constant; here it is computed
    once, not for every object. ``environment="none"`` has no parameters and gives zeros.
    """

    def __init__(self, config: MotionConfig, seen: PerceptionConfig, *, channels: int, side: int):
        super().__init__()
        self.config, self.size, self.shape = config, seen.glimpse_size, (channels, side, side)
        self.net = None
        if config.environment != "none":
            looked_at = seen.glimpse_size if config.environment == "attention" else side
            self.net = PictureEncoder(channels, side=looked_at, channels=seen.glimpse_channels,
                                      outputs=config.environment_dim)
            self.shape = (channels, looked_at, looked_at)

    def forward(self, background: Tensor | None, box: Tensor) -> Tensor:
        (batch, count), dim = box.shape[:2], self.config.environment_dim
        if self.net is None:
            return box.new_zeros(batch, count, dim)
        if background is None:
            return self.net(box.new_zeros(1, *self.shape)).expand(batch, count, dim)
        if self.config.environment == "whole":
            return repeat(self.net(background), "b d -> b n d", n=count)
        wider = torch.cat([box[..., :2] + self.config.environment_margin, box[..., 2:]], -1)
        return self.net(look(background, wider, self.size).flatten(0, 1)).unflatten(0, (batch, count))
