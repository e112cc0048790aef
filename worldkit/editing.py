"""What-if questions: pick the tokens of a thing in a latent, follow it through the frames, and change it.

`Editing` gives every `worldkit.latents.Latent` these methods. An object is drawn by many particles at once, and the
ones that draw it change from frame to frame, so a visible change takes three steps::

    ball = z.follow(z.object_at((0.6, 0.0)))                  # frame -> the tokens of the thing that lies there
    moved = z.edit(ball, delta_position=(-0.4, 0.4))          # every one of them, in every frame
    future = model.rollout(model.decode(moved).video.clamp(0, 1), horizon=5)

The last line predicts from the edited PICTURES. Rolling out ``moved`` itself works, too, but a particle keeps to its
part of the picture, and the prediction pulls a particle that was moved far back towards it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from .errors import ShapeError, WorldkitError

PRESENT = 0.5
"""Transparency above which a token counts as visible."""
_PAINTED = 0.05  # share of a pixel below which a token did not draw it
_OUTSIDE = 2.0  # a position farther out is given in pixels

_Z = TypeVar("_Z", bound="Editing")


class Editing:
    """Methods of a latent with ``spec`` and ``_tensors`` (key -> ``[B, T, N, dim]``)."""

    spec: Any
    _tensors: dict[tuple[str, str], Tensor]
    shape: torch.Size
    score: Tensor | None

    # -- picking

    def nearest(self, position: Sequence[float], *, frame: int = -1, view: int = 0) -> int:
        """The visible token whose position is nearest; of tokens on a grid, the one that covers the position.

        One particle is seldom a whole thing: `object_at` finds all of them.

        Args:
            position: (y, x) in [-1, 1]; (-1, -1) is the top left corner.
            frame: Which frame.
            view: Which camera.
        Raises:
            ShapeError: a position or frame outside the picture, or a latent of several clips.
            WorldkitError: the latent has no positions, or nothing is visible.
        Example: ``model.decode(z.edit(z.nearest((0.0, 0.5)), transparency=0.0))``
        """
        point, frame = self._point(position), self._frame(frame)
        if self.spec.find("position") is None and self.spec.grid is not None:
            height, width = self.spec.grid
            row, column = _cell(point, height, width)
            return view * height * width + row * width + column
        where, _ = self._boxes("nearest", frame)
        visible = self._visible(frame, view)
        return int((where - point.to(where)).norm(dim=-1).masked_fill(~visible, torch.inf).argmin())

    def object_at(
        self, position: Sequence[float], *, frame: int = -1, view: int = 0, drawn: Any = None
    ) -> list[int]:
        """All tokens of the thing at a position, the one that was picked first.

        The first token is the visible one whose centre is nearest in units of its own box (with ``drawn``: the one that
        painted most of the pixel). To the same thing belongs every visible token whose centre lies inside the first
        one's box while the first one's centre lies inside its box; tokens that are not drawn at the moment are among
        them. Neighbours that merely touch stay apart. A thing much larger than its boxes, say an arm, gets the tokens
        around the position only: join several picks.

        Args:
            position: (y, x) in [-1, 1]; (-1, -1) is the top left corner.
            frame: Which frame.
            view: Which camera.
            drawn: ``model.decode(z, masks=True)``, to pick by what was painted. Slots have no positions and need it:
                a slot is a whole thing.
        Raises:
            ShapeError: a position or frame outside the picture, or a latent of several clips.
            WorldkitError: nothing is there, or the latent has neither positions nor masks.
        Example: ``z.edit(z.object_at((0.6, 0.0)), frames=-1, delta_position=(0.0, 0.3))``
        """
        point, frame = self._point(position), self._frame(frame)
        painted = None if drawn is None else self._painter(drawn, point, frame, view)
        if painted is not None and self.spec.find("position") is None:
            return [painted]
        where, size = self._boxes("object_at", frame)
        visible = self._visible(frame, view)
        point = point.to(where)
        if painted is None:
            far = ((where - point).abs() / size).amax(-1).masked_fill(~visible, torch.inf)
            painted = int(far.argmin())
            if far[painted] > 1:
                y, x = where[painted].tolist()
                raise WorldkitError(
                    f"nothing lies at {tuple(position)} in frame {frame}: the box of the nearest visible token "
                    f"({painted}, at ({y:.2f}, {x:.2f})) does not reach it"
                )
        return [painted, *(i for i in self._siblings(painted, frame, visible) if i != painted)]

    def objects(self, *, frame: int = -1, view: int = 0, presence: float = PRESENT) -> list[list[int]]:
        """Everything in a frame: lists of tokens as `object_at` gives them, what covers most of the picture first.

        Args:
            frame: Which frame.
            view: Which camera.
            presence: Transparency above which a token counts as visible.
        Raises:
            ShapeError: a frame or view that is not there, or a latent of several clips.
            WorldkitError: the latent has no positions.
        """
        frame = self._frame(frame)
        _, size = self._boxes("objects", frame)
        left = self._visible(frame, view, presence, some=False)
        found = []
        for first in size.prod(-1).argsort(descending=True, stable=True).tolist():
            if left[first]:
                others = [i for i in self._siblings(first, frame, left) if i != first]
                found.append([first, *others])
                left[found[-1]] = False
        return found

    def follow(self, tokens: int | Sequence[int], *, frame: int = -1) -> dict[int, list[int]]:
        """The same thing in every frame: frame -> its tokens, for `edit`.

        From frame to frame the thing is taken to be the visible one nearest to where it just was. Tokens without
        positions that keep their identity (slots) stay the same.

        Args:
            tokens: The thing in one frame, as `object_at` gives them.
            frame: The frame where they were picked.
        Raises:
            ShapeError: tokens or a frame that are not there, or a latent of several clips.
            WorldkitError: the latent has no positions and its tokens change places.
        """
        frame, picked, times = self._frame(frame), _indices(tokens), self.shape[1]
        if self.spec.find("position") is None:
            if self.spec.identity != "tracked":
                raise WorldkitError("these tokens have no positions and change places from frame to frame, so nothing "
                                    "can be followed; pick in every frame: object_at(..., frame=t, drawn=...)")
            return {t: list(picked) for t in range(times)}
        size = self._boxes("follow", frame)[0].shape[0]
        if not picked or any(not 0 <= token < size for token in picked):
            raise ShapeError(f"tokens {picked} are out of range: this latent has {size} with positions (0..{size - 1})")
        found = {frame: list(picked)}
        for steps in (range(frame - 1, -1, -1), range(frame + 1, times)):
            before, last = frame, list(picked)
            for t in steps:
                center = self._boxes("follow", before)[0][last].mean(0)
                where, half = self._boxes("follow", t)
                visible = self._visible(t, picked[0] // (size // self.spec.views))
                first = int(((where - center).abs() / half).amax(-1).masked_fill(~visible, torch.inf).argmin())
                found[t] = last = self._siblings(first, t, visible)
                before = t
        return dict(sorted(found.items()))

    # -- changing

    def edit(
        self: _Z,
        tokens: int | Sequence[int] | Mapping[int, Sequence[int]],
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
            features_from: Token whose features (look) in the same frame the edited tokens take over.
        Raises:
            WorldkitError: if the latent has no such field, naming the fields it has.
            ShapeError: tokens, frames or values out of range.
        Example: ``model.decode(z.edit([3, 7], frames=-1, delta_position=(0.0, 0.2)))``
        """
        if position is not None and not (_numbers(position, "position").abs() <= _OUTSIDE).all():
            raise ShapeError(f"position must be (y, x) in [-1, 1] over the picture, not in pixels, got {position}; "
                             "transparency=0 removes a token")
        if isinstance(tokens, Mapping):
            if frames is not None:
                raise WorldkitError("tokens are given frame by frame already; leave frames= out, or pass some of them: "
                                    "{t: tokens[t] for t in (3, 4)}")
            parts = [([self._frame(t)], _indices(picked)) for t, picked in tokens.items()]
        else:
            parts = [(self._frames(frames), _indices(tokens))]
        if scale is not None:
            scale = _numbers(scale, "scale")
            if not ((scale > 0) & (scale < 1)).all():
                raise ShapeError(f"scale is box side over image side and must lie inside (0, 1), got {scale.tolist()}")
            scale = torch.logit(scale)
        if transparency is not None and not _numbers(transparency, "transparency").sub(0.5).abs().max() <= 0.5:
            raise ShapeError(f"transparency must lie in [0, 1], got {transparency}")
        values = dict(self._tensors)
        for field, new in {"position": position, "scale": scale, "transparency": transparency}.items():
            if new is not None:
                self._put(values, field, parts, lambda old, _, new=new, field=field: _fit(new, old, field))
        if delta_position is not None:
            self._put(values, "position", parts, lambda old, _: old + _fit(delta_position, old, "delta_position"))
        if features_from is not None:
            (source,) = _indices([features_from], "features_from")
            self._put(values, "features", parts, lambda old, look: look.expand_as(old), source=source)
        return self._like(values, self.score)  # type: ignore[attr-defined]

    def _put(self, values: dict, field: str, parts: list, change: Any, *, source: int | None = None) -> None:
        """Replace a field at (frames, tokens) by ``change(old [B, F, n, dim], the source's [B, F, 1, dim])``."""
        key = self.spec.find(field)
        if key is None:
            have = ", ".join(sorted({f for _, f in self.spec.keys()}))
            raise WorldkitError(f"this latent has no '{field}' to edit; its fields are: {have}")
        before, after = values[key], values[key].clone()
        size = before.shape[2]
        for frames, tokens in parts:
            used = tokens if source is None else [*tokens, source]
            if any(not -size <= token < size for token in used):
                raise ShapeError(f"tokens {used} are out of range: group '{key[0]}' has {size} tokens (0..{size - 1})")
            rows, columns = (torch.tensor(x, dtype=torch.long) for x in (frames, tokens))
            where = (slice(None), rows[:, None], columns[None])
            after[where] = change(before[where], None if source is None else before[:, rows, source, None])
        values[key] = after

    # -- helpers

    def _frame(self, frame: int) -> int:
        """A frame's index from 0."""
        times = self.shape[1]
        (found,) = _indices([frame], "frame")
        if not -times <= found < times:
            raise ShapeError(f"frame {found} is out of range: this latent has {times} frames (0..{times - 1})")
        return found % times

    def _frames(self, frames: int | slice | Iterable[int] | None) -> list[int]:
        if frames is None or isinstance(frames, slice):
            return list(range(self.shape[1]))[frames or slice(None)]
        return [self._frame(t) for t in _indices(frames, "frames")]

    def _point(self, position: Sequence[float]) -> Tensor:
        """The position as a tensor ``[2]``, of the only clip."""
        if self.shape[0] != 1:
            raise ShapeError(f"picking needs one clip, this latent has {self.shape[0]}: z[i : i + 1].object_at(...)")
        point = _numbers(position, "position (y, x)")
        if point.shape != (2,) or not (point.abs() <= 1).all():
            raise ShapeError(f"position must be (y, x) in [-1, 1], got {position}")
        return point

    def _boxes(self, what: str, frame: int) -> tuple[Tensor, Tensor]:
        """Positions and half sides of boxes of one frame, ``[N, 2]`` each, (y, x) in units of positions."""
        if self.shape[0] != 1:
            raise ShapeError(f"picking needs one clip, this latent has {self.shape[0]}: z[i : i + 1].{what}(...)")
        key = self.spec.find("position")
        if key is None:
            have = ", ".join(sorted({f for _, f in self.spec.keys()}))
            way = ("Its tokens are patches of the picture: z.nearest((y, x)) gives the one there" if self.spec.grid else
                   "If the model paints masks (slots), pick by them: "
                   "z.object_at((y, x), drawn=model.decode(z, masks=True))")
            raise WorldkitError(f"{what} needs positions, and this latent has none; its fields are: {have}. {way}")
        position, scale = self._tensors[key][0, frame].detach(), self._tensors.get((key[0], "scale"))
        if scale is None:  # no boxes: half a token's share of the picture
            side = (position.shape[0] / self.spec.views) ** -0.5
            return position, torch.full_like(position, side)
        return position, torch.sigmoid(scale[0, frame].detach())

    def _visible(self, frame: int, view: int, presence: float = PRESENT, *, some: bool = True) -> Tensor:
        """Which tokens of the group with positions can be picked, ``[N]``; ``some``: there must be one."""
        key = self.spec.find("position")
        where, views = self._tensors[key][0, frame], self.spec.views
        if not 0 <= view < views:
            raise ShapeError(f"view {view} is out of range: this latent has {views} (0..{views - 1})")
        visible = torch.arange(where.shape[0], device=where.device) // (where.shape[0] // views) == view
        transparency = self._tensors.get((key[0], "transparency"))
        if transparency is not None:
            visible = visible & (transparency[0, frame, :, 0] > presence)
        if some and not visible.any():
            raise WorldkitError(f"no token is visible in frame {frame} (transparency above {presence})")
        return visible

    def _siblings(self, first: int, frame: int, visible: Tensor) -> list[int]:
        """Visible tokens that share a thing with ``first``: each one's centre lies in the other's box."""
        where, size = self._boxes("object_at", frame)
        apart = (where - where[first]).abs()
        return (visible & (apart <= size[first]).all(-1) & (apart <= size).all(-1)).nonzero()[:, 0].tolist()

    def _painter(self, drawn: Any, point: Tensor, frame: int, view: int) -> int:
        """The token that painted most of the pixel at a position."""
        masks, tokens = getattr(drawn, "masks", None), getattr(drawn, "tokens", None)
        if masks is None:
            raise WorldkitError("drawn holds no masks: pass drawn=model.decode(z, masks=True); if it has none even so, "
                                "this decoder does not tell its tokens apart")
        if self.spec.views > 1:
            masks, tokens = masks[:, view], None if tokens is None else tokens[:, view]
        if masks.shape[:2] != self.shape:
            raise ShapeError(f"drawn covers {tuple(masks.shape[:2])} clips and frames, this latent {tuple(self.shape)}")
        height, width = masks.shape[-2:]
        y, x = _cell(point, height, width)
        share = masks[0, frame, :, 0, y, x]
        if share.max() < _PAINTED:
            raise WorldkitError(f"no token painted {tuple(point.tolist())} in frame {frame}: only background is there")
        best = int(share.argmax())
        best = best if tokens is None else int(tokens[0, frame, best])
        return best + view * (self.spec.groups[0].size // self.spec.views)


def _indices(given: int | Iterable[int], name: str = "tokens") -> list[int]:
    """Indices as a list, from one number, a sequence or a tensor."""
    if isinstance(given, Tensor):
        given = given.reshape(-1).tolist()
    found = list(given) if isinstance(given, Iterable) else [given]
    try:
        if any(isinstance(i, bool) for i in found):
            raise TypeError
        return [operator.index(i) for i in found]
    except TypeError:
        hint = "; z.object_at((y, x)) finds the tokens of a thing" if name == "tokens" else ""
        raise ShapeError(f"{name} must be whole numbers, got {given!r}{hint}") from None


def _cell(point: Tensor, height: int, width: int) -> tuple[int, int]:
    """(row, column) of the cell of a grid that holds a position."""
    y, x = point.tolist()
    return min(int((y + 1) / 2 * height), height - 1), min(int((x + 1) / 2 * width), width - 1)


def _numbers(given: Any, name: str) -> Tensor:
    """Numbers as a tensor."""
    try:
        return torch.as_tensor(given, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise ShapeError(f"{name} must be numbers, got {given!r}") from None


def _fit(new: Any, old: Tensor, name: str) -> Tensor:
    """New numbers of the shape of the old ones, ``[B, F, n, dim]``."""
    new = new if isinstance(new, Tensor) else _numbers(new, name)
    try:
        return new.to(old).expand_as(old)
    except RuntimeError:
        raise ShapeError(
            f"{name} must be {old.shape[-1]} number(s), or a tensor that spreads to clips, frames, tokens, numbers = "
            f"{list(old.shape)}, got shape {list(new.shape)}"
        ) from None
