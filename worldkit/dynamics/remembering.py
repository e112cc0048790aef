"""Transformers whose frames see frames up to their own: a rollout keeps keys and values, and one more frame costs one.

Beyond the window it is computed anew: frames move to other places in it, whose tables and norms the kept ones do not
know. Of that, only the newest frame is followed to the end.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from ..conditions import Condition
from ..latents import Latent, LatentDist
from ..nn.memory import Memory
from .base import Carry, Dynamics, Window


class Kept(Carry):
    """``memory`` holds keys and values of all frames of the history but the newest; None: of none."""

    memory: Memory | None = None


class Remembering(Dynamics):
    """A dynamics with `prior`, `start` and `step` out of one method, `ahead`.

    Attributes:
        same_in_training: Frame by frame it computes what it computes of whole clips, also in training: no dropout, and
            no norm over the batch. Without that, nothing is kept while it trains.
    """

    same_in_training: ClassVar[bool] = True

    def ahead(self, z: Latent, cond: Condition, memory: Memory | None = None, *, last: bool = False) -> LatentDist:
        """What comes after each frame of ``z``, or after the last of them alone.

        Args:
            z: Frames, at most as many as the window has.
            cond: Of the transitions that lead on from them.
            memory: Of the frames before these; keys, values and `Memory.length` of these are added.
            last: Answer for the last frame alone, ``[B, 1]``.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what comes next: it needs a method ahead(self, "
                                  "z, cond, memory=None, *, last=False)")

    def prior(self, z: Latent, cond: Condition) -> LatentDist:
        return self.ahead(z, cond)

    def start(self, z: Latent, cond: Condition, *, window: Window = "exact") -> Any:
        carry = Kept(z, cond)
        past = z.shape[1] - 1
        if past < self.window and (self.same_in_training or not self.training):
            carry.memory = Memory()
            if past:
                self.ahead(z[:, :past], cond, carry.memory, last=True)
        return carry

    def step(self, carry: Any, cond: Condition) -> LatentDist:
        history, told = carry.seen(cond, self.window)
        kept = carry.memory
        if kept is not None and kept.length < self.window and kept.length == history.shape[1] - 1:
            return self.ahead(history[:, -1:], told.at(slice(-1, None)), kept, last=True)
        carry.memory = None
        if self.training and not self.same_in_training:
            return self.prior(history, told)[:, -1:]
        return self.ahead(history, told, last=True)

    def put(self, carry: Any, rows: Tensor, other: Any) -> None:
        ours, theirs = (Carry(one.history, one.cond) for one in (carry, other))
        super().put(ours, rows, theirs)
        carry.history, carry.cond, carry.memory = ours.history, ours.cond, None
