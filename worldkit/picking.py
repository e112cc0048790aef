"""Picking the tokens of a thing in a latent, and following it through the frames; changing it: `worldkit.editing`."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import ShapeError, WorldkitError

PRESENT = 0.5
"""Transparency above which a token counts as visible."""
FAINT = 0.1
"""Transparency above which a token belongs to the thing at its place: less shows nowhere."""
_PAINTED = 0.05  # share of a pixel below which a token did not draw it
_SHARED = 0.4  # of the largest share at a place: who paints as much there, holds the thing as well (slots)
_STANDS_OUT = 1.5  # times its share elsewhere, what a thing paints where a mask is


class Picking:
    """Methods of a latent with ``spec`` and ``_tensors`` (key -> ``[B, T, N, dim]``)."""

    spec: Any
    _tensors: dict[tuple[str, str], Tensor]
    shape: torch.Size
    score: Tensor | None

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
            row, column = _cell(point.tolist(), height, width)
            return view * height * width + row * width + column
        where, _ = self._boxes("nearest", frame)
        visible = self._visible(frame, view)
        return int((where - point.to(where)).norm(dim=-1).masked_fill(~visible, torch.inf).argmin())

    def object_at(
        self, position: Sequence[float], *, frame: int = -1, view: int = 0, drawn: Any = None
    ) -> list[int]:
        """All tokens of the thing at a position, the one that was picked first.

        The first token is the visible one whose centre is nearest in units of its own box (with ``drawn``: the one that
        painted most of the pixel). To the same thing belongs every token, faint ones too, whose centre lies inside
        the first one's box while the first one's centre lies inside its box; tokens that are not drawn at the moment
        are among them. Neighbours that merely touch stay apart. A thing much larger than its boxes, say an arm, gets
        the tokens around the position only: join several picks.

        Args:
            position: (y, x) in [-1, 1]; (-1, -1) is the top left corner.
            frame: Which frame.
            view: Which camera.
            drawn: ``model.decode(z, masks=True)``, to pick by what was painted. Slots have no positions and need it:
                a slot is a whole thing, or two that paint it alike are.
        Raises:
            ShapeError: a position or frame outside the picture, or a latent of several clips.
            WorldkitError: nothing is there, or the latent has neither positions nor masks.
        Example: ``z.edit(z.object_at((0.6, 0.0)), frames=-1, delta_position=(0.0, 0.3))``
        """
        point, frame = self._point(position), self._frame(frame)
        if drawn is not None and self.spec.find("position") is None:
            return self._owners_at(drawn, point, frame, view)
        painted = None if drawn is None else self._painter(drawn, point, frame, view)
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
        faint = self._visible(frame, view, FAINT)
        return [painted, *(i for i in self._siblings(painted, frame, faint) if i != painted)]

    def object_in(self, mask: Any, *, frame: int = -1, view: int = 0, drawn: Any = None) -> list[int]:
        """All tokens of the thing that a mask covers, the one nearest to the mask's middle first.

        Every visible token whose centre lies in the mask; of tokens without positions (slots), those that painted most
        of it.

        Args:
            mask: True (or not 0) where the thing is, ``[H, W]`` over the whole picture, of any resolution.
            frame: Which frame.
            view: Which camera.
            drawn: ``model.decode(z, masks=True)``; slots need it.
        Raises:
            ShapeError: the mask is no ``[H, W]``, or covers nothing or all; a latent of several clips.
            WorldkitError: no token is there, or the latent has neither positions nor masks.
        Example: ``z.edit(z.follow(z.object_in(mask)), transparency=0.0)``
        """
        mask, frame = _mask(mask), self._frame(frame)
        if self.spec.find("position") is None and drawn is not None:
            return self._owners_in(drawn, mask, frame, view)
        where, _ = self._boxes("object_in", frame)
        visible = self._visible(frame, view, FAINT)
        height, width = mask.shape
        inside = torch.tensor([visible[i] and max(map(abs, p)) <= 1 and bool(mask[_cell(p, height, width)])
                               for i, p in enumerate(where.tolist())])
        rows, columns = mask.nonzero().unbind(-1)
        middle = torch.stack([(rows + 0.5).mean() * 2 / height - 1, (columns + 0.5).mean() * 2 / width - 1]).to(where)
        far = (where - middle).norm(dim=-1)
        if not inside.any():
            nearest = int(far.masked_fill(~visible, torch.inf).argmin())
            y, x = where[nearest].tolist()
            raise WorldkitError(
                f"no visible token's centre lies in the mask in frame {frame}: its middle is at ({middle[0]:.2f}, "
                f"{middle[1]:.2f}), the nearest token ({nearest}) at ({y:.2f}, {x:.2f})"
            )
        return [i for i in far.argsort().tolist() if inside[i]]

    def objects(self, *, frame: int = -1, view: int = 0, presence: float | None = None) -> list[list[int]]:
        """Everything in a frame: lists of tokens as `object_at` gives them, what covers most of the picture first.

        Args:
            frame: Which frame.
            view: Which camera.
            presence: Transparency above which a token counts. None: as in `object_at`, where a thing has a visible
                token (0.5), and faint ones (0.1) belong to it.
        Raises:
            ShapeError: a frame or view that is not there, or a latent of several clips.
            WorldkitError: the latent has no positions.
        """
        frame = self._frame(frame)
        _, size = self._boxes("objects", frame)
        left, faint = (self._visible(frame, view, least if presence is None else presence, some=False)
                       for least in (PRESENT, FAINT))
        found = []
        for first in size.prod(-1).argsort(descending=True, stable=True).tolist():
            if left[first]:
                others = [i for i in self._siblings(first, frame, faint) if i != first]
                found.append([first, *others])
                left[found[-1]] = faint[found[-1]] = False
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
        frame, picked, times = self._frame(frame), indices(tokens), self.shape[1]
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
                view = picked[0] // (size // self.spec.views)
                visible = self._visible(t, view)
                first = int(((where - center).abs() / half).amax(-1).masked_fill(~visible, torch.inf).argmin())
                found[t] = last = self._siblings(first, t, self._visible(t, view, FAINT))
                before = t
        return dict(sorted(found.items()))

    # -- helpers

    def _frame(self, frame: int) -> int:
        """A frame's index from 0."""
        times = self.shape[1]
        (found,) = indices([frame], "frame")
        if not -times <= found < times:
            raise ShapeError(f"frame {found} is out of range: this latent has {times} frames (0..{times - 1})")
        return found % times

    def _point(self, position: Sequence[float]) -> Tensor:
        """The position as a tensor ``[2]``, of the only clip."""
        self._one_clip("object_at")
        point = numbers(position, "position (y, x)")
        if point.shape != (2,) or not (point.abs() <= 1).all():
            raise ShapeError(f"position must be (y, x) in [-1, 1], got {position}")
        return point

    def _boxes(self, what: str, frame: int) -> tuple[Tensor, Tensor]:
        """Positions and half sides of boxes of one frame, ``[N, 2]`` each, (y, x) in units of positions."""
        self._one_clip(what)
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

    @staticmethod
    def _check_tokens(tokens: Sequence[int], size: int, where: str) -> None:
        if any(not -size <= token < size for token in tokens):
            raise ShapeError(f"tokens {[*tokens]} are out of range: {where} has {size} tokens (0..{size - 1})")

    def _one_clip(self, what: str) -> None:
        if self.shape[0] != 1:
            raise ShapeError(f"picking needs one clip, this latent has {self.shape[0]}: z[i : i + 1].{what}(...)")

    def _painter(self, drawn: Any, point: Tensor, frame: int, view: int) -> int:
        """The token that painted most of the pixel at a position."""
        share, tokens = self._shares(drawn, frame, view)
        here = share[(slice(None), *_cell(point.tolist(), *share.shape[-2:]))]
        if here.max() < _PAINTED:
            raise WorldkitError(f"no token painted {tuple(point.tolist())} in frame {frame}: only background is there")
        return tokens[int(here.argmax())]

    def _owners_at(self, drawn: Any, point: Tensor, frame: int, view: int) -> list[int]:
        """Tokens that painted the pixel at a position, who painted most of it first."""
        self._painter(drawn, point, frame, view)
        share, tokens = self._shares(drawn, frame, view)
        here = share[(slice(None), *_cell(point.tolist(), *share.shape[-2:]))]
        return self._owners(here, tokens)

    def _owners_in(self, drawn: Any, mask: Tensor, frame: int, view: int) -> list[int]:
        """Tokens that painted what a mask covers, who painted most of it first."""
        self._one_clip("object_in")
        share, tokens = self._shares(drawn, frame, view)
        mask = torch.nn.functional.interpolate(mask[None, None].to(share), share.shape[-2:], mode="area")[0, 0]
        inside, outside = ((share * m).sum((-1, -2)) / m.sum().clamp(min=1e-6) for m in (mask, 1 - mask))
        found = self._owners(inside, tokens)
        own = [tokens.index(token) for token in found]
        if inside[own].sum() < _STANDS_OUT * outside[own].sum():
            raise WorldkitError(f"no token painted what the mask covers in frame {frame} more than the rest: the "
                                f"nearest is {found[0]}, with {inside[own].sum():.2f} of the mask and "
                                f"{outside[own].sum():.2f} of the rest")
        return found

    @staticmethod
    def _owners(here: Tensor, tokens: list[int]) -> list[int]:
        """Tokens of about the largest share ``[K]``; where more than half of them share alike, the first alone."""
        order = here.argsort(descending=True, stable=True).tolist()
        found = [tokens[k] for k in order if here[k] >= _SHARED * here.max()]
        return found if len(found) <= max(1, len(tokens) // 2) else found[:1]

    def _shares(self, drawn: Any, frame: int, view: int) -> tuple[Tensor, list[int]]:
        """Share of every drawn token in every pixel of a frame, ``[K, H, W]``, and which tokens these are."""
        masks, tokens = getattr(drawn, "masks", None), getattr(drawn, "tokens", None)
        if masks is None:
            raise WorldkitError("drawn holds no masks: pass drawn=model.decode(z, masks=True); if it has none even so, "
                                "this decoder does not tell its tokens apart")
        if self.spec.views > 1:
            masks, tokens = masks[:, view], None if tokens is None else tokens[:, view]
        if masks.shape[:2] != self.shape:
            raise ShapeError(f"drawn covers {tuple(masks.shape[:2])} clips and frames, this latent {tuple(self.shape)}")
        first = view * (self.spec.groups[0].size // self.spec.views)
        which = range(masks.shape[2]) if tokens is None else tokens[0, frame].tolist()
        return masks[0, frame, :, 0], [first + int(token) for token in which]


def indices(given: int | Iterable[int], name: str = "tokens") -> list[int]:
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


def _cell(point: Sequence[float], height: int, width: int) -> tuple[int, int]:
    """(row, column) of the cell of a grid that holds a position."""
    y, x = point
    return min(int((y + 1) / 2 * height), height - 1), min(int((x + 1) / 2 * width), width - 1)


def numbers(given: Any, name: str) -> Tensor:
    """Numbers as a tensor."""
    try:
        return torch.as_tensor(given, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise ShapeError(f"{name} must be numbers, got {given!r}") from None


def _mask(given: Any) -> Tensor:
    """A mask as bool ``[H, W]``."""
    mask = torch.as_tensor(given) != 0
    if mask.ndim != 2:
        raise ShapeError(f"a mask must be [H, W], true where the thing is, got {list(mask.shape)}")
    if mask.all() or not mask.any():
        raise ShapeError(f"a mask must be true where the thing is, and nowhere else: this one is "
                         f"{'true' if mask.numel() and mask.all() else 'false'} everywhere")
    return mask.cpu()
