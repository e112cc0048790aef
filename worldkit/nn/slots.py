"""Blocks of slot models: slot attention, the transition of slots between frames, grid embeddings, chunked image work.

Source: SAVi (arXiv:2111.12594) and slot attention (arXiv:2006.15055), in the sizes and with the quirks of
github.com/Wuziyi616/SlotFormer @ 10a6d9b, written from its description.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from ..errors import ConfigError
from .checkpoint import Checkpointed
from .chunks import at_a_time, pieces

Transition = Literal["transformer-lstm", "mlp", "none"]
_EPSILON = 1e-6  # keeps the weighted mean of a slot that no pixel chose finite
_CPU_CHUNK_BYTES, _CHUNK_BYTES = 2**25 - 1, 2**30


class Chunked(Checkpointed):
    """Base of modules that work image by image, and so can bound the size of their activations.

    On a CPU no activation exceeds 32 MiB (larger temporaries are mapped, page-faulted and unmapped by every operation).
    On other devices chunks only serve long predictions: a backward pass keeps all activations anyway.
    """

    def in_chunks(self, function: Callable[[Tensor], Tensor], x: Tensor, *, numbers: int) -> Tensor:
        """``function(x)`` of images ``[M, ...]``, some at a time; ``numbers``: size of one's largest activation."""
        limit = _CPU_CHUNK_BYTES if x.device.type == "cpu" else _CHUNK_BYTES
        if x.device.type != "cpu" and torch.is_grad_enabled():
            return self.run(function, x)
        step = at_a_time(limit, numbers * x.element_size())
        parts = [self.run(function, x[piece]) for piece in pieces(x.shape[0], step)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class GridEmbedding(nn.Module):
    """Adds a linear map of (y, x, 1 - y, 1 - x), each in [0, 1], to every pixel of ``[M, C, h, w]``."""

    def __init__(self, channels: int, height: int, width: int):
        super().__init__()
        y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
        self.register_buffer("grid", torch.stack([y, x, 1 - y, 1 - x], -1), persistent=False)
        self.project = nn.Linear(4, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + rearrange(self.project(self.grid), "h w c -> c h w")


def keep_signal(module: nn.Module) -> None:
    """Initial weights that keep the size of what passes through a layer (LeCun), and biases of zero.

    These are the defaults of the original SAVi's framework. PyTorch's shrink what passes: the pictures that a new
    savi-balls-mini paints differ between images by 2e-5 to 4e-5 (deviation, three seeds), with these weights by
    4e-3 to 1e-2, and a model that starts with less paints the mean image for longer.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            inputs = layer.weight[0].numel()
            if isinstance(layer, nn.ConvTranspose2d):  # a pixel of the result meets one tap in so many
                inputs = layer.weight[:, 0].numel() / math.prod(layer.stride)
            nn.init.normal_(layer.weight, std=inputs**-0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class SlotAttention(nn.Module):
    """Slots compete for pixels: every pixel is shared out among the slots, every slot becomes what it got.

    The softmax runs over SLOTS; each slot then takes the mean of the values weighted by its shares, and a recurrent
    cell and a residual MLP (``hidden_dim`` wide) update it. Slots that start equal stay equal, and permuted starts give
    permuted slots.

    Example:
        >>> attention = SlotAttention(8, hidden_dim=16, num_iterations=2)
        >>> slots, shares = attention(torch.randn(2, 3, 8), *attention.look(torch.randn(2, 10, 8)))
        >>> slots.shape, shares.sum(1).allclose(torch.ones(2, 10))
        (torch.Size([2, 3, 8]), True)
    """

    def __init__(self, dim: int, *, hidden_dim: int, num_iterations: int):
        super().__init__()
        self.num_iterations = num_iterations
        self.norm_inputs, self.norm_slots = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_query, self.to_key, self.to_value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.cell = nn.GRUCell(dim, dim)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, dim)
        )

    def look(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of pixels ``[..., P, D]``, for any number of frames at once."""
        features = self.norm_inputs(features)
        return self.to_key(features), self.to_value(features)

    def forward(self, slots: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Refine slots.

        Args:
            slots: Where they start, ``[M, N, D]``.
            keys, values: Of the pixels, ``[M, P, D]``; see `look`.
        Returns:
            Slots ``[M, N, D]``, and each one's share of every pixel in the last iteration, ``[M, N, P]``.
        """
        for _ in range(self.num_iterations):
            slots, shares = self.round(slots, keys, values)
        return slots, shares

    def round(self, slots: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """One iteration of `forward`."""
        query = slots.shape[-1] ** -0.5 * self.to_query(self.norm_slots(slots))
        shares = (query @ keys.transpose(1, 2)).softmax(1)
        weights = shares + _EPSILON
        update = (weights / weights.sum(-1, keepdim=True)) @ values
        slots = self.cell(update.flatten(0, 1), slots.flatten(0, 1)).unflatten(0, slots.shape[:2])
        return slots + self.mlp(slots), shares


class TransformerLSTM(nn.Module):
    """Slots look at each other (pre-norm transformer), then each remembers its own past (LSTM).

    Attributes:
        state_dims: Widths of the tensors ``[B N, .]`` of its state; zeros are the state of nothing before (None).
    """

    def __init__(self, dim: int, *, num_layers: int, num_heads: int, hidden_dim: int, dropout: float):
        super().__init__()
        if dim % num_heads:
            raise ConfigError(f"encoder.slot_dim {dim} must be divisible by encoder.num_heads {num_heads}")
        self.transformer = nn.Sequential(*(
            nn.TransformerEncoderLayer(dim, num_heads, 4 * dim, dropout, batch_first=True, norm_first=True)
            for _ in range(num_layers)
        ))
        self.cell, self.project = nn.LSTMCell(dim, hidden_dim), nn.Linear(hidden_dim, dim)
        self.state_dims = (hidden_dim, hidden_dim)

    def forward(self, slots: Tensor, state: Any) -> tuple[Tensor, Any]:
        state = self.cell(self.transformer(slots).flatten(0, 1), state)
        return self.project(state[0]).unflatten(0, slots.shape[:2]), state


class ResidualMLP(nn.Module):
    """Every slot on its own, without memory. As upstream, the residual starts from the NORMALISED slot."""

    state_dims = ()

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))

    def forward(self, slots: Tensor, state: Any) -> tuple[Tensor, Any]:
        slots = self.norm(slots)
        return slots + self.mlp(slots), state


class Unchanged(nn.Module):
    """A frame starts from the slots of the one before."""

    state_dims = ()

    def forward(self, slots: Tensor, state: Any) -> tuple[Tensor, Any]:
        return slots, state


def make_transition(
    kind: Transition, dim: int, *, num_layers: int, num_heads: int, hidden_dim: int, dropout: float
) -> nn.Module:
    """Slots ``[B, N, D]`` of a frame and a state (None when a clip starts) -> start of the next frame, and state."""
    if kind == "transformer-lstm":
        return TransformerLSTM(dim, num_layers=num_layers, num_heads=num_heads, hidden_dim=hidden_dim, dropout=dropout)
    return ResidualMLP(dim) if kind == "mlp" else Unchanged()
