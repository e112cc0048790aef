"""What a causal transformer keeps of the frames it has seen, so that one more frame costs one frame."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Remember = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Keys and values of new frames -> of all frames."""


@dataclass
class Memory:
    """Keys and values of the frames seen so far, per layer.

    Without a graph they lie in tensors with room for frames to come, which are written behind the earlier ones: no
    frame copies its past. With a graph every frame makes new tensors, since autograd still needs the old ones.

    Attributes:
        keys, values: Per layer ``[..., R, d]`` with at least as many rows R as have been seen.
        rows: Rows of keys per frame.
        length: Frames seen.
        bias: What the layers add to attention, where it is the same for every frame; filled by the transformer.

    Example:
        >>> memory, k = Memory(), torch.rand(2, 3, 4, 8)
        >>> for frame in range(2):
        ...     keys, values = memory.extend(0, k, k, frames=1, limit=6)
        ...     memory.length += 1
        >>> keys.shape
        torch.Size([2, 3, 8, 8])
    """

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    rows: int = 0
    length: int = 0
    bias: list[Tensor] = field(default_factory=list)

    def extend(self, layer: int, keys: Tensor, values: Tensor, *, frames: int, limit: int) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, those of new frames added; `length` is the caller's to set, after all layers.

        Args:
            layer: Its number; layers come in order.
            keys, values: Of the new frames, ``[..., rows, d]``.
            frames: New frames.
            limit: Most frames there will ever be.
        """
        self.rows = keys.shape[-2] // frames
        seen, total = self.length * self.rows, (self.length + frames) * self.rows
        room = limit * self.rows
        found = []
        for kept, new in ((self.keys, keys), (self.values, values)):
            past = kept[layer] if self.length else None
            if torch.is_grad_enabled() and (new.requires_grad or past is not None and past.requires_grad):
                whole = new if past is None else torch.cat([past[..., :seen, :], new], -2)
            elif past is not None and past.shape[-2] >= total and _writable(past):
                whole = past
                whole[..., seen:total, :] = new
            else:
                whole = _empty(new, room, frame_by_frame=self.rows == 1)
                if past is not None:
                    whole[..., :seen, :] = past[..., :seen, :]
                whole[..., seen:total, :] = new
            kept[layer : layer + 1] = [whole]
            found.append(whole[..., :total, :])
        return found[0], found[1]

    def __deepcopy__(self, memo: dict[int, Any]) -> Memory:
        """A copy that is as large as what has been seen."""
        seen = self.length * self.rows
        keys, values = ([copy.deepcopy(x[..., :seen, :], memo) for x in kept] for kept in (self.keys, self.values))
        return Memory(keys, values, self.rows, self.length, self.bias)


def _empty(like: Tensor, room: int, *, frame_by_frame: bool) -> Tensor:
    """``[..., room, d]``; ``frame_by_frame``: what belongs to one row lies together, as it is written and read."""
    *lead, _, width = like.shape
    if frame_by_frame:
        return like.new_empty((room, *lead, width)).movedim(0, -2)
    return like.new_empty((*lead, room, width))


def _writable(x: Tensor) -> bool:
    """Tensors made in inference mode cannot be written to outside of it."""
    return not x.requires_grad and (torch.is_inference_mode_enabled() or not x.is_inference())
