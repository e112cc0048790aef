"""What an agent has seen of every environment's running episode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class History:
    """The newest frames of ``B`` episodes, which may be of different ages.

    Attributes:
        frames: ``[B, T, C, H, W]``; of row b the last ``lengths[b]`` are of its episode.
        lengths: ``[B]``.
    Example:
        >>> seen = History.empty(2).add(torch.zeros(2, 3, 4, 4), torch.tensor([True, True]), keep=2)
        >>> seen = seen.add(torch.ones(2, 3, 4, 4), torch.tensor([False, True]), keep=2)
        >>> [(rows.tolist(), list(clip.shape)) for rows, clip in seen.groups()]
        [([1], [1, 1, 3, 4, 4]), ([0], [1, 2, 3, 4, 4])]
    """

    frames: Tensor | None
    lengths: Tensor

    @classmethod
    def empty(cls, batch_size: int) -> History:
        """Nothing seen yet."""
        return cls(None, torch.zeros(batch_size, dtype=torch.int64))

    def add(self, frame: Tensor, first: Tensor, *, keep: int, among: Tensor | None = None) -> History:
        """One more frame ``[B, C, H, W]`` each; where ``first`` it begins an episode. ``keep`` of them stay.

        ``among`` ``[B]`` bool: these rows only; the others stay as they are.
        """
        new = frame[:, None]
        lengths = torch.where(first.cpu(), torch.zeros_like(self.lengths), self.lengths) + 1
        frames = new if self.frames is None else torch.cat([self.frames, new], 1)
        if among is not None and self.frames is not None:
            lengths = torch.where(among, lengths, self.lengths)
            frames = torch.where(among[:, None, None, None, None], frames, torch.cat([new, self.frames], 1))
        lengths = lengths.clamp(max=keep)
        return History(frames[:, -int(lengths.max()):], lengths)

    def groups(self, among: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows of episodes that are as old, and their clips ``[rows, T, C, H, W]``; of those ``among`` ``[B]``."""
        for length in self.lengths.unique().tolist():
            chosen = self.lengths == length
            rows = torch.nonzero(chosen if among is None else chosen & among.cpu())[:, 0]
            if len(rows):
                yield rows, self.frames[rows, -length:]
