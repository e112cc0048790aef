"""What there is in the given frames of a clip, as a model sees them: its things, their places, and them without one.

`worldkit whatif` and `worldkit play` ask it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from .batch import Batch
from .counterfactual import VISIBLE, drawn
from .errors import WorldkitError
from .latents import Latent
from .model import ComposedWorldModel
from .viz.boxes import boxes_from_masks, boxes_from_particles

NOUNS = {"particles": "particle", "slots": "slot", "patches": "patch", "pixels": "pixel"}
_SEEN = 0.002  # mean change of the picture below which a thing shows nothing
_SPOT = 0.005  # of the picture, what must change without a slot for it to be listed


@dataclass(frozen=True)
class Scene:
    """The given frames of a clip as a model sees them.

    Attributes:
        model, z: The model, and latents of the given frames, ``[1, T]``.
        frame: The frame in which things are picked.
        shares: How much of the picture each token paints, of tokens that have no positions but masks; else None.
    """

    model: ComposedWorldModel
    z: Latent
    frame: int
    shares: tuple[float, ...] | None = None

    @classmethod
    def of(cls, model: ComposedWorldModel, video: Tensor | Batch, frame: int) -> Scene:
        """Of given frames ``[1, T, C, H, W]``, in a batch with their conditions if the model's dynamics filters."""
        with torch.no_grad():
            z = model.encode(video)
            masks = None
            if z.spec.find("position") is None and z.spec.grid is None:
                masks = model.decode(z, masks=True).masks
        shares = None if masks is None else tuple(masks[0].mean((0, 2, 3, 4)).tolist())
        return cls(model, z, frame % z.shape[1], shares)

    @property
    def noun(self) -> str:
        """What its tokens are called: ``"particle"``."""
        return NOUNS.get(self.z.spec.kind, "token")

    @property
    def size(self) -> int:
        """How many tokens can be picked."""
        key = self.z.spec.find("position")
        return self.z.spec.groups[0].size if key is None else self.z.spec.group(key[0]).size

    @property
    def nouns(self) -> str:
        """Several of them: ``"patches"``."""
        return self.noun + ("es" if self.noun.endswith("ch") else "s")

    @property
    def tells_apart(self) -> bool:
        """Whether tokens stand for things: they have places or paint masks, as patches and whole states do not."""
        return self.z.positions is not None or self.shares is not None

    def named(self, tokens: Sequence[int]) -> str:
        """``"particles 3, 7 and 12"``."""
        *first, last = map(str, tokens)
        noun = self.noun if len(tokens) == 1 else self.nouns
        return f"{noun} {' and '.join([*([', '.join(first)] if first else []), last])}"

    def everywhere(self, tokens: Sequence[int]) -> dict[int, list[int]]:
        """Frame -> tokens of the thing: the same ones, if they follow their thing, else whoever draws it there."""
        if self.steady(tokens):
            return {t: list(tokens) for t in range(self.z.shape[1])}
        return self.z.follow(tokens, frame=self.frame)

    def steady(self, tokens: Sequence[int]) -> bool:
        """Whether tokens stay with their thing: no encoder ties them to places, and none jumps out of its box."""
        where, scale = self.z.positions, self.z.get("scale")
        if self.z.spec.identity != "tracked" or "position" in self.model.encoder.anchors():
            return False
        if where is None or scale is None:
            return True
        steps = where[0, 1:, list(tokens)] - where[0, :-1, list(tokens)]
        return bool((steps.abs() <= torch.sigmoid(scale[0, 1:, list(tokens)])).all())

    def place(self, tokens: Sequence[int], frame: int | None = None) -> tuple[float, float] | None:
        """(y, x) of a thing in a frame: of its first token, or the middle of what it painted; None for patches."""
        frame = self.frame if frame is None else frame
        if self.z.positions is not None:
            y, x = self.z.positions[0, frame, tokens[0]].tolist()
            return y, x
        spot = self.spot(tokens, frame)
        return None if spot is None or not spot.any() else _middle(spot)

    def box(self, z: Latent, tokens: Sequence[int], frame: int) -> Tensor:
        """The box around a thing in a frame of ``z``, ``[n, 4]`` in pixels of the model's frames; n = 0: none."""
        obs = self.model.config.obs
        scale, none = z.get("scale"), torch.zeros(0, 4)
        if z.positions is not None:
            first = list(tokens[:1])
            return none if scale is None else boxes_from_particles(
                z.positions[0, frame, first].cpu(), scale[0, frame, first].cpu(), obs.height, obs.width)
        spot = self.spot(tokens, frame)
        return none if spot is None or not spot.any() else boxes_from_masks(spot[None].float())[0]

    def without(self, z: Latent, tokens: Sequence[int]) -> Latent:
        """Without some tokens: transparent, or (slots) copies of the one that paints most of the rest.

        Raises:
            WorldkitError: nothing would be left, or the latent has no transparency.
        """
        if self.shares is None or z.spec.find("transparency") is not None:
            return z.edit(tokens, transparency=0.0)
        return z.edit(tokens, features_from=self.stand_in(tokens))

    def stand_in(self, tokens: Sequence[int]) -> int:
        """Of the others, the token that paints most.

        Raises:
            WorldkitError: there are no others.
        """
        left = [token for token in range(len(self.shares or ())) if token not in tokens]
        if not left:
            raise WorldkitError(f"these are all {self.noun}s there are: nothing would be left")
        return max(left, key=(self.shares or ()).__getitem__)

    @torch.no_grad()
    def spot(self, tokens: Sequence[int], frame: int) -> Tensor | None:
        """Where the picture visibly changes without some tokens, bool ``[H, W]``; None: they cannot be left out."""
        if self.shares is None:
            return None
        now = self.z[:, frame : frame + 1]
        change = drawn(self.model, now) - drawn(self.model, self.without(now, tokens))
        return change[0, 0].abs().amax(0).cpu() > VISIBLE

    @cached_property
    def spots(self) -> dict[tuple[int, ...], Tensor]:
        """Of tokens without positions: one or two of them -> where the picture changes without them and not before.

        Two slots may hold the same thing; without one of them the other still draws it.
        """
        count, found = len(self.shares or ()), dict[tuple[int, ...], Any]()
        for held in [(k,) for k in range(count)] + list(combinations(range(count), 2)) if count > 2 else []:
            spot: Any = self.spot(held, self.frame)
            for part in held if len(held) > 1 else ():
                spot = spot & ~found[part,]
            found[held] = spot
        return found

    def at(self, place: Sequence[float]) -> list[int]:
        """Tokens of the thing at a place ``(y, x)`` of the frame; empty: nothing is told apart there.

        Of patches, the one there; of slots, the fewest without which the picture changes there.

        Raises:
            WorldkitError: no particle's box reaches the place.
        """
        if self.z.spec.grid is not None:
            return [self.z.nearest(place, frame=self.frame)]
        if self.shares is None:
            return self.z.object_at(place, frame=self.frame)
        for held, spot in self.spots.items():
            row, column = (min(n - 1, int((p + 1) / 2 * n)) for p, n in zip(place, spot.shape, strict=True))
            if spot[row, column]:
                return list(held)
        return []


@dataclass(frozen=True)
class Found:
    """Something that could be meant: its tokens, its place, and how much of the picture is its (0 to 1)."""

    tokens: list[int]
    place: tuple[float, float]
    share: float


@torch.no_grad()
def things(scene: Scene) -> list[Found]:
    """What there is in the frame of the scene, what shows most first; empty for latents that know no things."""
    if scene.z.spec.find("position") is None:
        found = [Found(list(held), _middle(spot), float(spot.float().mean())) for held, spot in scene.spots.items()
                 if spot.float().mean() > _SPOT]
        return sorted(found, key=lambda thing: -thing.share)
    now = scene.z[:, scene.frame : scene.frame + 1]
    whole, found = drawn(scene.model, now), []
    for tokens in now.objects():
        without = whole
        with contextlib.suppress(WorldkitError):  # a latent without transparency
            without = drawn(scene.model, scene.without(now, tokens))
        change = float((whole - without).abs().mean())
        place = scene.place(tokens)
        if change > _SEEN and place is not None:
            y, x = (max(-1.0, min(1.0, value)) for value in place)  # centres may lie outside, --at may not
            found.append(Found(tokens, (y, x), change))
    return sorted(found, key=lambda thing: -thing.share)


def _middle(spot: Tensor) -> tuple[float, float]:
    """(y, x) of the middle of a spot, bool ``[H, W]``."""
    y, x = ((places.float().mean() + 0.5) * 2 / n - 1 for places, n in zip(spot.nonzero().unbind(-1), spot.shape,
                                                                           strict=True))
    return float(y), float(x)


def boxes_of(scene: Scene, z: Latent, tokens: Mapping[int, Sequence[int]]) -> list[Tensor]:
    """Boxes of a thing in every given frame of ``z``, for `worldkit.viz.difference.marked`."""
    return [scene.box(z, tokens[t], t) if t in tokens else torch.zeros(0, 4) for t in range(z.shape[1])]
