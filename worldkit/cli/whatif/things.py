"""Which thing of a clip is meant: by number, by place, or by a mask; and what there is to choose from."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from ...counterfactual import VISIBLE, drawn
from ...errors import ConfigError, WorldkitError
from ...files import reason
from ...latents import Latent
from ...model import ComposedWorldModel
from ...viz.boxes import boxes_from_masks, boxes_from_particles, draw_boxes
from ...viz.images import INK, MUTED, canvas, enlarge, from_pil, text_block, to_pil, to_uint8

NOUNS = {"particles": "particle", "slots": "slot", "patches": "patch"}
_SEEN = 0.002  # mean change of the picture below which a thing shows nothing
_SPOT = 0.005  # of the picture, what must change without a slot for it to be listed
_OVERLAP = 0.2  # of a mask and where the picture changes (intersection over union), below which they are two things
_SQUARE = 0.02  # how far the shape of a mask may be from that of the picture


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
    def of(cls, model: ComposedWorldModel, video: Tensor, frame: int) -> Scene:
        """Of given frames ``[1, T, C, H, W]``."""
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

    def named(self, tokens: Sequence[int]) -> str:
        """``"particles 3, 7 and 12"``."""
        plural = "" if len(tokens) == 1 else "es" if self.noun.endswith("ch") else "s"
        *first, last = map(str, tokens)
        return f"{self.noun}{plural} {' and '.join([*([', '.join(first)] if first else []), last])}"

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
        count, found = len(self.shares or ()), {}
        for held in [(k,) for k in range(count)] + list(combinations(range(count), 2)) if count > 2 else []:
            spot = self.spot(held, self.frame)
            for part in held if len(held) > 1 else ():
                spot = spot & ~found[part,]
            found[held] = spot
        return found


def pick(scene: Scene, *, particle: Sequence[int] | None, at: Sequence[float] | None, mask: str | None,
         option: str = "") -> list[int]:
    """Tokens of the thing that is meant, in the frame of the scene; just one of the three is given.

    Raises:
        ConfigError: a number or place out of range, or a mask that cannot be read or does not fit.
        WorldkitError: nothing is there.
    """
    if particle is not None:
        if wrong := [k for k in particle if not 0 <= k < scene.size]:
            raise ConfigError(f"{option or '--particle'} {wrong[0]} is out of range: this model has {scene.size} "
                              f"{scene.noun}s, 0 to {scene.size - 1}")
        return list(dict.fromkeys(particle))
    if at is not None:
        if not all(abs(value) <= 1 for value in at):
            raise ConfigError(f"{option or '--at'} {' '.join(f'{v:g}' for v in at)} lies outside the picture: Y X run "
                              "from -1 -1, the top left corner, to 1 1")
        if scene.z.spec.grid is not None:
            return [scene.z.nearest(at, frame=scene.frame)]
        return scene.z.object_at(at, frame=scene.frame) if scene.shares is None else _spot_at(scene, at)
    assert mask is not None
    where = read_mask(mask, scene.model)
    return scene.z.object_in(where, frame=scene.frame) if scene.shares is None else _spot_in(scene, where)


def _spot_at(scene: Scene, at: Sequence[float]) -> list[int]:
    """The fewest slots without which the picture changes at a place."""
    for held, spot in scene.spots.items():
        row, column = (min(n - 1, int((p + 1) / 2 * n)) for p, n in zip(at, spot.shape, strict=True))
        if spot[row, column]:
            return list(held)
    raise ConfigError(f"nothing lies at ({at[0]:g}, {at[1]:g}) in frame {scene.frame}: the picture there stays the "
                      f"same without any one or two {scene.noun}s. worldkit whatif without --at lists what there is")


def _spot_in(scene: Scene, mask: Tensor) -> list[int]:
    """The slots without which the picture changes most nearly where a mask is."""
    def overlap(spot: Tensor) -> float:
        wanted = torch.nn.functional.interpolate(mask[None, None].float(), spot.shape, mode="area")[0, 0] > 0.5
        return float((spot & wanted).sum() / (spot | wanted).sum().clamp(min=1))

    found = {held: overlap(spot) for held, spot in scene.spots.items()}
    best = max(found, key=found.__getitem__, default=())
    if not best or found[best] < _OVERLAP:
        raise ConfigError(f"no {scene.noun} shows what the mask covers in frame {scene.frame}; worldkit whatif without "
                          "--mask lists what there is")
    return list(best)


def read_mask(path: str, model: ComposedWorldModel) -> Tensor:
    """A mask from a picture (any colour but black is the thing) or an ``.npy`` file (anything but 0), ``[H, W]`` bool.

    Raises:
        ConfigError: it cannot be read, has another shape than the model's frames, or covers nothing or all.
    """
    import numpy as np

    try:
        if Path(path).suffix.lower() == ".npy":
            array = np.load(path, allow_pickle=False)
        else:
            from PIL import Image

            with Image.open(path) as image:
                array = np.asarray(image.convert("RGB")).any(-1)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"--mask {path} cannot be read as a picture or .npy file: {reason(error)}") from error
    array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    obs = model.config.obs
    if array.ndim != 2:
        raise ConfigError(f"--mask {path} must be [H, W], not 0 where the thing is; it is {list(array.shape)}")
    if abs(array.shape[1] / array.shape[0] / (obs.width / obs.height) - 1) > _SQUARE:
        raise ConfigError(f"--mask {path} is {array.shape[0]} x {array.shape[1]}, the frames are {obs.height} x "
                          f"{obs.width} (height x width): it must have their shape, in any resolution")
    mask = torch.from_numpy(array != 0)
    if mask.all() or not mask.any():
        raise ConfigError(f"--mask {path} covers {'all' if mask.all() else 'nothing'}: it must be black (0) everywhere "
                          "but where the thing is")
    return mask


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


def picture(scene: Scene, found: Sequence[Found], *, cell: int = 320) -> Tensor:
    """The frame with a numbered box for everything that is there, and axes, ``[3, h, w]`` uint8."""
    pictures, factor = enlarge(to_uint8(drawn(scene.model, scene.z[:, scene.frame : scene.frame + 1])[0]), cell)
    boxes = [scene.box(scene.z, thing.tokens, scene.frame)[:1] for thing in found]
    numbers = [str(i + 1) for i, box in enumerate(boxes) if len(box)]
    drawn_boxes = torch.cat([torch.zeros(0, 4), *boxes]) * factor
    return _with_axes(draw_boxes(pictures[0], drawn_boxes, labels=numbers))


def _with_axes(image: Tensor) -> Tensor:
    """A picture with the coordinates of its sides and middle at the left and below."""
    from PIL import ImageDraw

    height, width, left, below = *image.shape[-2:], 44, 22
    out = canvas(height + below, width + left)
    out[:, :height, left:] = image
    sheet = to_pil(out)
    draw = ImageDraw.Draw(sheet)
    for value in (-0.5, 0.0, 0.5):
        x, y = left + (value + 1) / 2 * width, (value + 1) / 2 * height
        draw.line((x, height, x, height + 4), fill=INK)
        draw.line((left - 4, y, left, y), fill=INK)
    out = from_pil(sheet)
    for value in (-0.5, 0.0, 0.5):
        x, y = int(left + (value + 1) / 2 * width), int((value + 1) / 2 * height)
        out[:, height + 4 :, x - 20 : x + 20] = text_block(f"x {value:g}", below - 4, 40, size=11, color=MUTED)
        out[:, y - 8 : y + 8, : left - 4] = text_block(f"y {value:g}", 16, left - 4, size=11, color=MUTED)
    return out


def boxes_of(scene: Scene, z: Latent, tokens: Mapping[int, Sequence[int]]) -> list[Tensor]:
    """Boxes of a thing in every given frame of ``z``, for `worldkit.viz.difference.marked`."""
    return [scene.box(z, tokens[t], t) if t in tokens else torch.zeros(0, 4) for t in range(z.shape[1])]
