"""Which thing of a clip is meant: by number, by place, or by a mask; and a picture of what there is to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...counterfactual import drawn
from ...data.entries import DAMAGED
from ...errors import ConfigError
from ...files import reason
from ...model import ComposedWorldModel
from ...scene import Found, Scene
from ...viz.boxes import draw_boxes
from ...viz.images import INK, MUTED, canvas, enlarge, from_pil, text_block, to_pil, to_uint8

_OVERLAP = 0.2  # of a mask and where the picture changes (intersection over union), below which they are two things
_SQUARE = 0.02  # how far the shape of a mask may be from that of the picture


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
                              f"{scene.nouns}, 0 to {scene.size - 1}")
        return list(dict.fromkeys(particle))
    if at is not None:
        if not all(abs(value) <= 1 for value in at):
            raise ConfigError(f"{option or '--at'} {' '.join(f'{v:g}' for v in at)} lies outside the picture: Y X run "
                              "from -1 -1, the top left corner, to 1 1")
        if found := scene.at(at):
            return found
        raise ConfigError(f"nothing lies at ({at[0]:g}, {at[1]:g}) in frame {scene.frame}: the picture there stays the "
                          f"same without any one or two {scene.noun}s. worldkit whatif without --at lists what there "
                          "is")
    assert mask is not None
    where = read_mask(mask, scene.model)
    return scene.z.object_in(where, frame=scene.frame) if scene.shares is None else _spot_in(scene, where)


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
    except DAMAGED as error:
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
