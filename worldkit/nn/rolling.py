"""Autoregressive use of a causal transformer over frames: append a frame, get the transformed last frame.

Inside the window an appended frame costs one frame: keys and values of the past are kept. When the sequence outgrows
the window, the oldest frame goes and every hidden state changes (time embeddings move, too). ``exact`` then recomputes
the window for every frame (what training saw), keeping what does not change: tokens, and what conditions add to the
AdaLN modulations.
``streaming`` drops the oldest half instead, recomputes once and goes on with kept keys and values: an APPROXIMATION,
every answer being the exact one for a shorter history of half a window to a whole window.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .joint_transformer import JointTransformer
from .memory import Memory
from .transformer import SpatioTemporalTransformer


class Rolling:
    """Sliding-window state.

    Args:
        transformer: Transforms tokens ``[B, T, N, D]``; a `JointTransformer` reads no conditions.
        window: Most frames seen at once; at most ``transformer.max_frames``.
        streaming: Use the approximate mode beyond the window.
    """

    def __init__(
        self, transformer: SpatioTemporalTransformer | JointTransformer, *, window: int, streaming: bool = False
    ):
        self.transformer, self.window, self.streaming = transformer, window, streaming
        self.memory: Memory | None = Memory()  # None: does not hold the past, recompute
        self._tokens: list[Tensor] = []  # joined where they are needed: inside the window never
        self._cond: list[Tensor] = []
        self.projected: list[Tensor] | None = None

    def append(self, tokens: Tensor, cond: Tensor | None = None) -> Tensor:
        """Add frames and transform them.

        Args:
            tokens: ``[B, T, N, D]``; several frames at once only while they fit the window.
            cond: ``[B, T, 1 or N, D]`` or None.
        Returns:
            ``[B, T, N, D]`` while inside the window, ``[B, 1, N, D]`` (the last frame) beyond it.
        """
        self._extend(tokens, cond)
        if self.memory is not None and self.memory.length + tokens.shape[1] <= self.window:
            return self._transform(tokens, cond=cond, memory=self.memory)
        if self.streaming:
            self._keep(max(1, self.window // 2))
            self.memory = Memory()
            return self._transform(_joined(self._tokens), cond=_joined(self._cond), memory=self.memory)[:, -1:]
        self.memory = None
        projected = self._project(tokens.shape[1])
        return self._transform(_joined(self._tokens), cond=_joined(self._cond), projected=projected, last_only=True)

    def begin(self, tokens: Tensor, cond: Tensor | None = None) -> None:
        """Add the frames before the first that is to be transformed; of the last layer only the memory is computed."""
        if tokens.shape[1] >= self.window:
            self.remember(tokens, cond)
            return
        self._extend(tokens, cond)
        self._transform(tokens, cond=cond, memory=self.memory, last_only=True)

    def _transform(self, tokens: Tensor, **options: Any) -> Tensor:
        return self.transformer(tokens, **{name: value for name, value in options.items() if value is not None})

    def remember(self, tokens: Tensor, cond: Tensor | None = None) -> None:
        """Add frames to the history without transforming them; the next `append` recomputes the window."""
        self._extend(tokens, cond)
        self.memory = None

    def _extend(self, tokens: Tensor, cond: Tensor | None) -> None:
        self._tokens.append(tokens)
        if cond is not None:
            self._cond.append(cond)
        if sum(x.shape[1] for x in self._tokens) > self.window:
            self._keep(self.window)

    def _keep(self, frames: int) -> None:
        for parts in (self._tokens, self._cond):
            if parts:
                parts[:] = [_joined(parts)[:, -frames:]]

    def _project(self, new: int) -> list[Tensor] | None:
        """Condition's share of every modulation, computed once per frame; None where there is nothing to save."""
        cond = _joined(self._cond)
        if cond is None or cond.shape[2] == 1:
            return None
        if self.projected is None:
            self.projected = self.transformer.project_condition(cond)
        else:
            fresh = self.transformer.project_condition(cond[:, -new:])
            self.projected = [
                torch.cat([old, part], 1)[:, -self.window:] for old, part in zip(self.projected, fresh, strict=True)
            ]
        return self.projected


def _joined(parts: list[Tensor]) -> Tensor | None:
    """Frames ``[B, T, ...]`` one after the other; None without any."""
    return None if not parts else parts[0] if len(parts) == 1 else torch.cat(parts, 1)
