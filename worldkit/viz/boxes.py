"""Bounding boxes and keypoints: geometry, non-maximum suppression, drawing.

Boxes are ``(top, left, bottom, right)`` in pixels, continuous: the image spans ``[0, h] x [0, w]``. Positions are
(y, x) in [-1, 1] as everywhere, so -1 is the outer edge of the first pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import reduce
from torch import Tensor

from ..batch import check_shape
from ..errors import ShapeError
from .images import Color, font, from_pil, to_pil

PALETTE: tuple[Color, ...] = (
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 255), (245, 130, 48), (145, 30, 220),
    (70, 240, 240), (240, 50, 230), (170, 255, 40), (255, 130, 170), (0, 160, 150),
)  # fmt: skip
"""Eleven saturated colours that stay apart on light and dark pictures; rank r has colour r modulo 11."""


def boxes_from_particles(position: Tensor, scale: Tensor, height: int, width: int) -> Tensor:
    """Boxes of the glimpses of particles, clamped to the image.

    The centre is ``(0.5 + position / 2) * side``, the size ``sigmoid(scale) * side``.

    Args:
        position: (y, x) in [-1, 1], ``[N, 2]``.
        scale: Logit of box side / image side, (height, width), ``[N, 2]``, as `Particles.scale`.
        height: Image height in pixels.
        width: Image width in pixels.
    Returns:
        ``[N, 4]``: (top, left, bottom, right) in pixels.
    Raises:
        ShapeError: if a shape is wrong.
    Source:
        Upstream lpwm, utils/util_func.py @ 4cf53c4 (square images there).
    Example:
        >>> boxes_from_particles(torch.zeros(1, 2), torch.zeros(1, 2), 32, 64)
        tensor([[ 8., 16., 24., 48.]])
    """
    n = check_shape(position, "n yx", name="position", yx=2)["n"]
    check_shape(scale, "n yx", name="scale", n=n, yx=2)
    side = torch.tensor([height, width], dtype=position.dtype, device=position.device)
    center, half = (0.5 + position / 2) * side, torch.sigmoid(scale) * side / 2
    box = torch.cat([center - half, center + half], -1)
    return torch.minimum(box.clamp(min=0), side.repeat(2))


def boxes_from_masks(masks: Tensor, *, threshold: float = 0.05) -> tuple[Tensor, Tensor]:
    """Smallest boxes around what each mask covers, and how solid each mask is.

    Args:
        masks: Alpha masks, ``[K, H, W]`` in [0, 1].
        threshold: A pixel is covered if its alpha is above this.
    Returns:
        (boxes ``[K, 4]`` in pixels, scores ``[K]``: mean alpha over the covered pixels). An empty mask has a zero box
        and score 0. The score comes from the mask itself, so no order of particles can be mixed up with it.
    Example:
        >>> mask = torch.zeros(1, 8, 8)
        >>> mask[0, 2:4, 3:7] = 1
        >>> boxes_from_masks(mask)
        (tensor([[2., 3., 4., 7.]]), tensor([1.]))
    """
    check_shape(masks, "k h w", name="masks")
    covered = masks > threshold
    spans = [_span(covered.any(2)), _span(covered.any(1))]  # rows, columns: [K, 2] each
    boxes = torch.stack([spans[0][:, 0], spans[1][:, 0], spans[0][:, 1], spans[1][:, 1]], -1)
    area = reduce(covered.to(masks.dtype), "k h w -> k", "sum")
    mass = reduce(masks * covered, "k h w -> k", "sum")
    return boxes.to(masks.dtype), mass / area.clamp(min=1)


def _span(covered: Tensor) -> Tensor:
    """First covered index and one past the last of each row, ``[K, L]`` -> ``[K, 2]``; zeros if none is covered."""
    length = covered.shape[1]
    first = covered.int().argmax(1)
    last = length - covered.flip(1).int().argmax(1)
    return torch.stack([first, last], -1) * covered.any(1, keepdim=True)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes ``[N, 4]`` and ``[M, 4]``, ``[N, M]``; 0 where both are empty.

    Example:
        >>> iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[0.0, 1.0, 2.0, 3.0]]))
        tensor([[0.3333]])
    """
    check_shape(a, "n box", name="a", box=4)
    check_shape(b, "m box", name="b", box=4)
    top_left = torch.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = (bottom_right - top_left).clamp(min=0).prod(-1)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).clamp(min=0).prod(-1) for x in (a, b))
    return overlap / (area_a[:, None] + area_b[None] - overlap).clamp(min=1e-12)


def nms(boxes: Tensor, scores: Tensor, *, threshold: float = 0.2) -> Tensor:
    """Greedy non-maximum suppression.

    Takes boxes from the highest score down, and drops every box that overlaps a taken one with IoU above the threshold.
    Equal scores keep their order.

    Args:
        boxes: ``[N, 4]``.
        scores: ``[N]``, higher is better.
        threshold: Largest IoU allowed between two kept boxes.
    Returns:
        Indices of the kept boxes by falling score, ``[M]``.
    Raises:
        ShapeError: if the shapes do not fit.
    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 5.0], [6.0, 6.0, 8.0, 8.0]])
        >>> nms(boxes, torch.tensor([0.5, 0.9, 0.7])).tolist()
        [1, 2]
    """
    n = check_shape(boxes, "n box", name="boxes", box=4)["n"]
    check_shape(scores, "n", name="scores", n=n)
    overlap = iou(boxes, boxes) > threshold
    alive, kept = torch.ones(n, dtype=torch.bool), []
    overlap = overlap.cpu()
    for i in scores.argsort(descending=True, stable=True).tolist():
        if alive[i]:
            kept.append(i)
            alive &= ~overlap[i]
    return torch.tensor(kept, dtype=torch.long, device=boxes.device)


def draw_boxes(
    image: Tensor, boxes: Tensor, *, labels: Sequence[str] = (), colors: Sequence[Color] = PALETTE, line: int = 2
) -> Tensor:
    """Picture with box outlines; box i has colour ``colors[i % len(colors)]``, so pass boxes in order of rank.

    Args:
        image: ``[3, h, w]``, uint8 or float in [0, 1].
        boxes: ``[N, 4]`` in pixels of this image.
        labels: Nothing, or one short text per box, written above it (below it at the top edge of the picture).
        colors: RGB colours, 0 .. 255.
        line: Line width in pixels.
    Returns:
        ``[3, h, w]`` uint8.
    """
    from PIL import ImageDraw

    n = check_shape(boxes, "n box", name="boxes", box=4)["n"]
    if labels and len(labels) != n:
        raise ShapeError(f"labels must hold one text per box: {n} boxes, {len(labels)} labels")
    picture = to_pil(image)
    draw, face = ImageDraw.Draw(picture), font(10)
    for i, (top, left, bottom, right) in enumerate(boxes.tolist()):
        if bottom - top >= 1 and right - left >= 1:
            draw.rectangle((left, top, right - 1, bottom - 1), outline=colors[i % len(colors)], width=line)
    for i, label in enumerate(labels):  # after all outlines, so that none crosses a text
        top, left, bottom, _ = boxes[i].tolist()
        width, height, color = face.getlength(label) + 3, 11, colors[i % len(colors)]
        top = top - height if top >= height else min(bottom, picture.height - height - 1)
        left = max(0.0, min(left, picture.width - width - 1))
        draw.rectangle((left, top, left + width, top + height - 1), fill=color)
        draw.text((left + 2, top + height / 2), label, fill=_readable_on(color), font=face, anchor="lm")
    return from_pil(picture)


def draw_keypoints(image: Tensor, position: Tensor, *, colors: Sequence[Color] = PALETTE, radius: int = 4) -> Tensor:
    """Picture with dots; dot i has colour ``colors[i % len(colors)]`` and a dark rim. Positions outside are clamped.

    Args:
        image: ``[3, h, w]``, uint8 or float in [0, 1].
        position: (y, x) in [-1, 1], ``[N, 2]``.
    Returns:
        ``[3, h, w]`` uint8.
    Example:
        >>> draw_keypoints(torch.zeros(3, 33, 33), torch.zeros(1, 2))[:, 16, 16].tolist()
        [230, 25, 75]
    """
    from PIL import ImageDraw

    check_shape(position, "n yx", name="position", yx=2)
    picture = to_pil(image)
    draw = ImageDraw.Draw(picture)
    for i, (y, x) in enumerate(position.detach().float().clamp(-1, 1).tolist()):
        center_y = min((0.5 + y / 2) * picture.height, picture.height - 1)
        center_x = min((0.5 + x / 2) * picture.width, picture.width - 1)
        corners = (center_x - radius, center_y - radius, center_x + radius, center_y + radius)
        draw.ellipse(corners, fill=colors[i % len(colors)], outline=(20, 20, 20))
    return from_pil(picture)


def _readable_on(color: Color) -> Color:
    return (0, 0, 0) if 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2] > 130 else (255, 255, 255)
