"""`Condition`: what the outside says about a transition, in the three forms a token model can use."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

FORMS = ("frame", "token", "memory")
"""The forms a condition can have; the attributes of `Condition`."""


@dataclass(frozen=True)
class Condition:
    """A condition in model width ``D``.

    Attributes:
        frame: ``[B, T, D]``, one vector per transition (actions).
        token: ``[B, T, N, D]``, one vector per transition and latent token (latent actions, goal tokens).
        memory: ``[B, L, D]``, a set of tokens to attend to (language).

    `+` merges two conditions: vectors add up, memories are joined.
    """

    frame: Tensor | None = None
    token: Tensor | None = None
    memory: Tensor | None = None

    def __add__(self, other: Condition) -> Condition:
        def add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            return b if a is None else a if b is None else a + b

        memories = [m for m in (self.memory, other.memory) if m is not None]
        return Condition(
            frame=add(self.frame, other.frame),
            token=add(self.token, other.token),
            memory=torch.cat(memories, 1) if memories else None,
        )

    def at(self, time: slice) -> Condition:
        """The part of a condition that concerns some transitions; the memory stays whole."""
        return replace(
            self,
            frame=None if self.frame is None else self.frame[:, time],
            token=None if self.token is None else self.token[:, time],
        )

    def then(self, new: Condition) -> Condition:
        """The condition of these transitions followed by those of ``new``."""

        def join(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            return b if a is None else a if b is None else torch.cat([a, b], 1)

        return Condition(join(self.frame, new.frame), join(self.token, new.token), new.memory)

    def put(self, rows: Tensor, other: Condition) -> Condition:
        """The same with other clips in some rows, int64 ``[R]``."""
        return Condition(**{form: getattr(self, form).index_copy(0, rows, getattr(other, form)) for form in self.forms})

    def where(self, given: Tensor) -> Condition:
        """Zeros where ``given``, bool ``[B, T]``, is False; the memory stays as it is."""
        return replace(
            self,
            frame=None if self.frame is None else self.frame.masked_fill(~given[..., None], 0),
            token=None if self.token is None else self.token.masked_fill(~given[..., None, None], 0),
        )

    def detach(self) -> Condition:
        """The same condition without a graph."""
        return Condition(**{form: getattr(self, form).detach() for form in self.forms})

    @property
    def forms(self) -> tuple[str, ...]:
        """Which of `FORMS` it has.

        Example:
            >>> Condition(memory=torch.zeros(2, 3, 8)).forms
            ('memory',)
        """
        return tuple(form for form in FORMS if getattr(self, form) is not None)

    def only(self, forms: Collection[str]) -> Condition:
        """The same condition without its other forms."""
        return Condition(**{form: getattr(self, form) for form in self.forms if form in forms})

    @property
    def is_empty(self) -> bool:
        return self.frame is None and self.token is None and self.memory is None

    def adaln(self) -> Tensor | None:
        """Sum of the per-frame and per-token parts, ``[B, T, 1 or N, D]``, or None if there are none."""
        if self.frame is None:
            return self.token
        frame = self.frame[:, :, None]
        return frame if self.token is None else frame + self.token


EMPTY = Condition()
