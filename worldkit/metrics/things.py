"""Things by what is painted: found in every frame of a prediction, followed, and held against true objects.

Tokens that are anchored to places hand an object on when it leaves them, so that no token is the object. What they
paint is: a thing is a spot of the picture that one or several tokens paint, wherever they stand, and it is followed by
its place and colour. The truth has a say in the first predicted frame only, as for tokens (`worldkit.metrics.track`).

Positions are (x, y) in [0, 1] of the image, colours in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..batch import check_shape
from ..errors import ShapeError
from .tracking import match_objects

VISIBLE = 0.1
"""A token is there where it changes the picture by more than this."""
ALIKE = 0.5
"""Things whose colours differ by more than this in a channel are not the same."""
LEAST_REACH = 0.1
"""A thing moves by at most its own diameter from frame to frame, or by this, in image sides."""


def painted(masks: Tensor, video: Tensor, background: Tensor | None = None) -> Tensor:
    """How much every token changes every pixel.

    Args:
        masks: Share of each of K tokens in every pixel, ``[B, T, K, H, W]``.
        video: The picture, ``[B, T, C, H, W]``.
        background: What the picture would be without tokens, likewise; without it a share counts whole.
    Returns:
        ``[B, T, K, H, W]`` in [0, 1]: the share, times the largest difference to the background over channels.
    Raises:
        ShapeError: if shapes do not fit.
    Example:
        >>> red = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 1, 3, 1, 1)
        >>> painted(torch.full((1, 1, 2, 1, 1), 0.5), red, torch.zeros_like(red)).flatten().tolist()
        [0.5, 0.5]
    """
    sizes = check_shape(masks, "b t k h w", name="masks")
    same = {key: sizes[key] for key in "bthw"}
    same |= {"c": check_shape(video, "b t c h w", name="video", **same)["c"]}
    if background is None:
        return masks
    check_shape(background, "b t c h w", name="background", **same)
    return masks * (video - background).abs().amax(2).clamp(max=1)[:, :, None]


def plain_ground(video: Tensor) -> Tensor:
    """A background where a decoder draws none of its own (slots): the usual colour of each clip, ``[B, T, C, H, W]``.

    The median over all pixels and frames, which things must not cover by half.

    Args:
        video: ``[B, T, C, H, W]``.
    Example:
        >>> video = torch.zeros(1, 2, 3, 4, 4)
        >>> video[..., 0, :] = 1
        >>> plain_ground(video).max().item()
        0.0
    """
    check_shape(video, "b t c h w", name="video")
    usual = video.transpose(1, 2).flatten(2).median(-1).values  # [B, C]
    return usual[:, None, :, None, None].expand_as(video)


@dataclass(frozen=True)
class Spots:
    """Things of a frame, what is painted most first: centres ``[M, 2]``, colours ``[M, C]``, radii ``[M]``."""

    center: Tensor
    color: Tensor
    radius: Tensor

    @classmethod
    def of(cls, paint: Tensor, picture: Tensor) -> Spots:
        """Of what each of M things paints, ``[M, H, W]``; the radius is that of a disc as wide as the spot."""
        height, width = paint.shape[-2:]
        x, y = (torch.arange(n, dtype=paint.dtype) + 0.5 for n in (width, height))
        place = torch.stack([(x / width).expand(height, width), (y / height)[:, None].expand(height, width)])
        share = paint / paint.sum((-1, -2), keepdim=True)
        center = torch.einsum("mhw,dhw->md", share, place)
        spread = torch.einsum("mhw,dhw->m", share, place.square()) - center.square().sum(-1)
        return cls(center, torch.einsum("mhw,chw->mc", share, picture), (2 * spread.clamp(min=0)).sqrt())


def find_things(paint: Tensor, picture: Tensor) -> Spots:
    """Things of a frame: tokens that paint spots of one colour, nearer than the larger one's radius, are one thing.

    Args:
        paint: What every token paints, ``[K, H, W]``, as `painted` gives it.
        picture: ``[C, H, W]``.
    """
    paint, picture = (paint * (paint > VISIBLE)).double(), picture.double()
    paint = paint[paint.flatten(1).any(1)]
    paint = paint[paint.sum((-1, -2)).argsort(descending=True, stable=True)]
    tokens = Spots.of(paint, picture)
    near = torch.cdist(tokens.center, tokens.center) <= torch.maximum(tokens.radius[:, None], tokens.radius)
    one = near & (_unlike(tokens, tokens) <= ALIKE)
    left, things = torch.ones(len(paint), dtype=torch.bool), []
    for first in range(len(paint)):
        if left[first]:
            own = one[first] & left
            own[first] = True
            things.append(paint[own].sum(0))
            left &= ~own
    return Spots.of(torch.stack(things), picture) if things else tokens


def follow_things(paint: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
    """Follow the things of the first frame of a clip.

    From frame to frame the things are matched so that all of them together move and change colour least; one that finds
    nothing within its reach, of its colour, is lost. It stays where it was, and may be found there again.

    Args:
        paint: ``[T, K, H, W]``, as `painted` gives it.
        video: ``[T, C, H, W]``.
    Returns:
        (centres ``[T, N, 2]``, found, bool ``[T, N]``) of the N things of the first frame.
    """
    last = find_things(paint[0], video[0])
    centers, found = [last.center], [torch.ones(len(last.center), dtype=torch.bool)]
    for t in range(1, len(paint)):
        now = find_things(paint[t], video[t])
        thing, spot = _match(last, now)
        center, color, radius = (x.clone() for x in (last.center, last.color, last.radius))
        center[thing], color[thing], radius[thing] = now.center[spot], now.color[spot], now.radius[spot]
        last = Spots(center, color, radius)
        centers.append(center)
        found.append(torch.zeros_like(found[0]).index_fill(0, thing, True))
    return torch.stack(centers), torch.stack(found)


def track_things(
    truth: Tensor, still: Tensor, paint: Tensor, video: Tensor, *, visible: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Distance of every object to the thing it was paired with in the first frame, no less than standing still if lost.

    Pairs are made by `worldkit.metrics.match_objects` in the first frame and then frozen. An object without a thing is
    as far off as one that stands still; one whose thing is lost is as far off as from where it was seen last, and no
    less than one that stands still.

    Args:
        truth: True positions in the predicted frames, ``[B, T, M, 2]`` in (x, y), [0, 1].
        still: Where the objects truly were in the last given frame, ``[B, M, 2]``.
        paint: What every token paints in the predicted frames, ``[B, T, K, H, W]`` (`painted`).
        video: The predicted frames, ``[B, T, C, H, W]``.
        visible: Objects that can be seen, bool ``[B, T, M]``; default: all. Others have no distance.
    Returns:
        (distances ``[B, T, M]`` in image sides, NaN of hidden objects; paired, bool ``[B, M]``; kept, bool
        ``[B, T, M]``: paired, and its thing found in this frame).
    Raises:
        ShapeError: if shapes do not fit.
    """
    sizes = check_shape(truth, "b t m xy", name="truth", xy=2)
    b, t, m = sizes["b"], sizes["t"], sizes["m"]
    if 0 in (b, t):
        raise ShapeError(f"truth is empty: {list(truth.shape)}; give at least one clip and one frame")
    check_shape(still, "b m xy", name="still", b=b, m=m, xy=2)
    frame = check_shape(paint, "b t k h w", name="paint", b=b, t=t)
    check_shape(video, "b t c h w", name="video", b=b, t=t, h=frame["h"], w=frame["w"])
    truth, still = (x.detach().cpu().double() for x in (truth, still))
    visible = torch.ones(b, t, m, dtype=torch.bool) if visible is None else visible.cpu().bool()
    check_shape(visible, "b t m", name="visible", b=b, t=t, m=m)
    clips = [_track(*clip) for clip in zip(truth, still, paint, video, visible, strict=True)]
    distance, paired, kept = map(torch.stack, zip(*clips, strict=True))
    return distance.where(visible, torch.nan), paired, kept


def _track(truth: Tensor, still: Tensor, paint: Tensor, video: Tensor, visible: Tensor) -> tuple[Tensor, ...]:
    centers, found = follow_things(paint.detach().cpu(), video.detach().cpu().clamp(0, 1))
    chosen = match_objects(truth[0], centers[0], valid=visible[0], present=found[0])
    paired = chosen >= 0
    nothing = (still - truth).norm(dim=-1)  # [T, M]
    if not paired.any():
        return nothing, paired, paired.expand(len(truth), -1)
    index = chosen.clamp(min=0)
    distance, kept = (centers[:, index] - truth).norm(dim=-1), found[:, index] & paired
    lost = torch.maximum(distance, nothing).where(paired, nothing)
    return distance.where(kept, lost), paired, kept


def _unlike(a: Spots, b: Spots) -> Tensor:
    """Largest difference of the colours over channels, ``[M, N]``."""
    return torch.cdist(a.color, b.color, p=math.inf)


def _match(last: Spots, now: Spots) -> tuple[Tensor, Tensor]:
    """Indices of things and of the spots that they become."""
    from scipy.optimize import linear_sum_assignment

    reach = (2 * torch.maximum(last.radius[:, None], now.radius)).clamp(min=LEAST_REACH)
    moved, changed = torch.cdist(last.center, now.center) / reach, _unlike(last, now)
    allowed = (moved <= 1) & (changed <= ALIKE)
    cost = (moved + changed).where(allowed, 1e3)  # above any sum of allowed pairs of a few things
    thing, spot = (torch.as_tensor(x, dtype=torch.long) for x in linear_sum_assignment(cost.numpy()))
    kept = allowed[thing, spot]
    return thing[kept], spot[kept]
