"""What-if questions: pick the tokens of a thing in a latent, follow it through the frames, and change it.

`Editing` gives every `worldkit.latents.Latent` these methods (those that pick: `worldkit.picking`). An object is drawn
by many particles at once, and the ones that draw it change from frame to frame, so a visible change takes three steps::

    ball = z.follow(z.object_at((0.6, 0.0)))                  # frame -> the tokens of the thing that lies there
    moved = z.edit(ball, delta_position=(-0.4, 0.4))          # every one of them, in every frame
    answer = worldkit.what_if(model, z, moved, horizon=5)     # both futures, and where they differ

`worldkit.what_if` rolls out the edited PICTURES of particles that keep to their part of the picture, and the edited
latents of those that follow their object: the prediction would pull a particle of the first kind, moved far, back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from .errors import ShapeError, WorldkitError
from .picking import Picking, indices, numbers

_OUTSIDE = 2.0  # a position farther out is given in pixels
Picked = int | Sequence[int] | Mapping[int, Sequence[int]]
"""Tokens, in all frames alike, or frame -> tokens, as `Picking.follow` gives them."""

_Z = TypeVar("_Z", bound="Editing")


class Editing(Picking):
    """Methods of a latent with ``spec`` and ``_tensors`` (key -> ``[B, T, N, dim]``) that give an edited copy."""

    def edit(
        self: _Z,
        tokens: Picked,
        *,
        frames: int | slice | Sequence[int] | None = None,
        position: Sequence[float] | Tensor | None = None,
        delta_position: Sequence[float] | Tensor | None = None,
        scale: Sequence[float] | float | Tensor | None = None,
        transparency: float | None = None,
        features_from: int | None = None,
    ) -> _Z:
        """An edited copy, for what-if questions. Edits hold for all batch entries.

        Args:
            tokens: Indices of tokens in the group that has the edited field, one or several; or frame -> indices, as
                `follow` gives them.
            frames: Which frames: one, several or a slice; None = all.
            position: New position, (y, x) in [-1, 1] over the picture; up to 2 is outside of it.
            delta_position: Shift of the position, (y, x).
            scale: New box side over image side in (0, 1), one number or (height, width).
            transparency: New transparency in [0, 1]; 0 removes the token.
            features_from: Token whose features (look) in the same frame the edited tokens take over; of tokens without
                a field of that name (states of slots) everything.
        Raises:
            WorldkitError: if the latent has no such field, naming the fields it has.
            ShapeError: tokens, frames or values out of range.
        Example: ``model.decode(z.edit([3, 7], frames=-1, delta_position=(0.0, 0.2)))``
        """
        if position is not None and not (numbers(position, "position").abs() <= _OUTSIDE).all():
            raise ShapeError(f"position must be (y, x) in [-1, 1] over the picture, not in pixels, got {position}; "
                             "transparency=0 removes a token")
        parts = self._parts(tokens, frames)
        if scale is not None:
            scale = numbers(scale, "scale")
            if not ((scale > 0) & (scale < 1)).all():
                raise ShapeError(f"scale is box side over image side and must lie inside (0, 1), got {scale.tolist()}")
            scale = torch.logit(scale)
        if transparency is not None and not numbers(transparency, "transparency").sub(0.5).abs().max() <= 0.5:
            raise ShapeError(f"transparency must lie in [0, 1], got {transparency}")
        values = dict(self._tensors)
        for field, new in {"position": position, "scale": scale, "transparency": transparency}.items():
            if new is not None:
                self._put(values, field, parts, lambda old, _, new=new, field=field: _fit(new, old, field))
        if delta_position is not None:
            self._put(values, "position", parts, lambda old, _: old + _fit(delta_position, old, "delta_position"))
        if features_from is not None:
            (source,) = indices([features_from], "features_from")
            for field in self._look():
                self._put(values, field, parts, lambda old, look: look.expand_as(old), source=source)
        return self._like(values, self.score)  # type: ignore[attr-defined]

    def swap_look(self: _Z, one: Picked, other: Picked) -> _Z:
        """An edited copy in which two things have changed looks: features go over, places and sizes stay.

        Things are drawn by several tokens, each its own part: a token takes over the features of the one that lies at
        the same place within the other thing, or nearest to it.

        Args:
            one, other: Two things, as for `edit`; frames in which one of them is not given are left alone.
        Raises:
            ShapeError: tokens or frames out of range, or a latent of several clips.
            WorldkitError: the two share a token, or the latent has no features or no positions: who has one vector for
                place and look (slots) would change both.
        Example: ``z.swap_look(z.follow(z.object_at((0.6, 0.0))), z.follow(z.object_at((-0.5, 0.3))))``
        """
        self._one_clip("swap_look")
        key, _ = self._key("features"), self._key("position")
        sides = [{t: tokens for frames, tokens in self._parts(picked, None) for t in frames} for picked in (one, other)]
        before, after = self._tensors[key], self._tensors[key].clone()
        for t in sides[0].keys() & sides[1].keys():
            a, b = sides[0][t], sides[1][t]
            self._check_tokens([*a, *b], before.shape[2], f"group '{key[0]}'")
            if common := sorted({*a} & {*b}):
                raise WorldkitError(f"token {common[0]} belongs to both things in frame {t}: pick two that lie apart")
            after[:, t, a] = before[:, t, self._counterparts(a, b, t)]
            after[:, t, b] = before[:, t, self._counterparts(b, a, t)]
        return self._like({**self._tensors, key: after}, self.score)  # type: ignore[attr-defined]

    def _counterparts(self, own: Sequence[int], theirs: Sequence[int], frame: int) -> list[int]:
        """For each token of a thing, the one at the same place within the other thing."""
        where = self._boxes("swap_look", frame)[0]
        a, b = (where[list(tokens)] for tokens in (own, theirs))
        return [theirs[i] for i in torch.cdist(a - a.mean(0), b - b.mean(0)).argmin(-1).tolist()]

    def _parts(self, tokens: Picked, frames: Any) -> list[tuple[list[int], list[int]]]:
        """(frames, tokens) of an edit."""
        if not isinstance(tokens, Mapping):
            return [(self._frames(frames), indices(tokens))]
        if frames is not None:
            raise WorldkitError("tokens are given frame by frame already; leave frames= out, or pass some of them: "
                                "{t: tokens[t] for t in (3, 4)}")
        return [([self._frame(t)], indices(picked)) for t, picked in tokens.items()]

    def _frames(self, frames: int | slice | Iterable[int] | None) -> list[int]:
        if frames is None or isinstance(frames, slice):
            return list(range(self.shape[1]))[frames or slice(None)]
        return [self._frame(t) for t in indices(frames, "frames")]

    def _look(self) -> list[str]:
        """Fields that say what a token looks like."""
        whole = self.spec.kind == "slots" and self.spec.find("features") is None
        return [f.name for f in self.spec.groups[0].fields] if whole else ["features"]

    def _key(self, field: str) -> tuple[str, str]:
        """Where a field is, if the latent has it."""
        key = self.spec.find(field)
        if key is None:
            have = ", ".join(sorted({f for _, f in self.spec.keys()}))
            raise WorldkitError(f"this latent has no '{field}' to edit; its fields are: {have}")
        return key

    def _put(self, values: dict, field: str, parts: list, change: Any, *, source: int | None = None) -> None:
        """Replace a field at (frames, tokens) by ``change(old [B, F, n, dim], the source's [B, F, 1, dim])``."""
        key = self._key(field)
        before, after = values[key], values[key].clone()
        size = before.shape[2]
        for frames, tokens in parts:
            used = tokens if source is None else [*tokens, source]
            self._check_tokens(used, size, f"group '{key[0]}'")
            rows, columns = (torch.tensor(x, dtype=torch.long) for x in (frames, tokens))
            where = (slice(None), rows[:, None], columns[None])
            after[where] = change(before[where], None if source is None else before[:, rows, source, None])
        values[key] = after


def _fit(new: Any, old: Tensor, name: str) -> Tensor:
    """New numbers of the shape of the old ones, ``[B, F, n, dim]``."""
    new = new if isinstance(new, Tensor) else numbers(new, name)
    try:
        return new.to(old).expand_as(old)
    except RuntimeError:
        raise ShapeError(
            f"{name} must be {old.shape[-1]} number(s), or a tensor that spreads to clips, frames, tokens, numbers = "
            f"{list(old.shape)}, got shape {list(new.shape)}"
        ) from None
