"""The decomposition panel: how a particle model explains a clip, one row per aspect, one column per frame.

Differences from upstream on purpose: rows in the order in which one reads them; one box per thing, not per particle,
without numbers on small pictures, where they hide what they describe; a thing keeps its colour over time and in all
rows; absent particles are left out by their transparency, not by a cut on the product of an uncertainty of either sign
with it; what painted a pixel is outlined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from ..batch import check_shape
from ..errors import ShapeError
from ..latents import Particles
from .boxes import PALETTE, boxes_from_masks, boxes_from_particles, draw_boxes, draw_keypoints, nms
from .images import WHITE, Color, enlarge, labelled_rows, to_uint8
from .tracks import mask_colors, particle_colors

ROWS = (
    "input", "reconstruction", "foreground", "background", "segmentation", "boxes from masks", "boxes from scale",
    "surest keypoints", "all keypoints", "prior proposals",
)  # fmt: skip
"""Row labels in their order; a row whose input is missing is left out."""

MIN_PRESENCE = 0.2
"""Particles more transparent than this get no box and are not among the surest (LPWM gates at the same value)."""

_MIN_MASK_SCORE = 0.1  # masks fainter than this on average get no box
_OWNED = 0.5  # share of a pixel from which on a thing owns it, and is outlined
_LABELLED = 192  # height of a picture, in pixels, from which on boxes carry numbers
_DIMMED = 0.6  # brightness of a picture below boxes


@dataclass(frozen=True)
class PanelInputs:
    """What the panel shows of ONE clip; plain tensors, so that any model can fill it. Only ``video`` is required.

    Attributes:
        video: True frames, ``[T, 3, H, W]``, uint8 or float in [0, 1].
        reconstruction: Decoded frames, the same shape.
        latent: Particles of the clip, ``[1, T, N, .]``, one view.
        proposals: Positions of prior proposals, ``[T, M, 2]``, (y, x) in [-1, 1]; of the first frames alone, if there
            are no others.
        masks: Alpha masks of the drawn tokens, ``[T, K, 1, H, W]`` in [0, 1]; K may be less than N.
        foreground: Decoded tokens without background, as ``video``.
        background: Decoded background, as ``video``.
        tokens: Which particle each mask is of, ``[T, K]``; None: mask k is particle k's.
        uncertainty: Per particle, ``[T, N]``, any unit, SMALL = sure (for LPWM the sum of its five score features).
            Ranks particles; without it, the least transparent come first.
    """

    video: Tensor
    reconstruction: Tensor | None = None
    latent: Particles | None = None
    proposals: Tensor | None = None
    masks: Tensor | None = None
    foreground: Tensor | None = None
    background: Tensor | None = None
    tokens: Tensor | None = None
    uncertainty: Tensor | None = None

    def __post_init__(self) -> None:
        sizes = check_shape(self.video, "t c h w", name="video", c=3)
        t, image = sizes["t"], {"h": sizes["h"], "w": sizes["w"]}
        if t == 0:
            raise ShapeError("video is empty: a panel needs at least one frame")
        for name in ("reconstruction", "foreground", "background"):
            if getattr(self, name) is not None:
                check_shape(getattr(self, name), "t c h w", name=name, **sizes)
        if self.proposals is not None:
            given = check_shape(self.proposals, "t m yx", name="proposals", yx=2)["t"]
            if given > t:
                raise ShapeError(f"proposals are of {given} frames, but the video has {t}")
        if self.masks is not None:
            check_shape(self.masks, "t k c h w", name="masks", t=t, c=1, **image)
        if self.tokens is not None:
            if self.masks is None:
                raise ShapeError("tokens say which particle a mask is of, but masks are missing: pass both or neither")
            check_shape(self.tokens, "t k", name="tokens", t=t, k=self.masks.shape[1])
        if self.latent is not None:
            check_shape(self.latent.position, "b t n yx", name="latent.position", b=1, t=t)
        if self.uncertainty is not None:
            if self.latent is None:
                raise ShapeError("uncertainty ranks particles, but latent is missing: pass both or neither")
            check_shape(self.uncertainty, "t n", name="uncertainty", t=t, n=self.latent.position.shape[2])


def panel_rows(inputs: PanelInputs, *, frames: int = 8, cell: int = 128, top: int = 10) -> dict[str, Tensor]:
    """The rows of the panel before they are put together.

    Args:
        inputs: One clip.
        frames: Number of columns: the first frames of the clip.
        cell: Height to which small frames are enlarged by a whole factor, in pixels.
        top: Number of keypoints in the row "surest keypoints".
    Returns:
        Label (of `ROWS`, in that order) -> ``[T', 3, h, w]`` uint8.
    """
    t = min(frames, inputs.video.shape[0])
    base, factor = enlarge(to_uint8(inputs.video[:t]), cell)
    rows = {"input": base}
    for label in ("reconstruction", "foreground", "background"):
        image = getattr(inputs, label)
        if image is not None:
            rows[label] = enlarge(to_uint8(image[:t]), cell)[0]
    hues = None
    if inputs.latent is not None:
        latent = inputs.latent[:, :t].detach().to("cpu", torch.float32)
        uncertainty = None if inputs.uncertainty is None else inputs.uncertainty[:t].detach().cpu().float()
        hues = particle_colors(latent, MIN_PRESENCE)
        rows |= _particle_rows(base, latent, uncertainty, factor, top, hues)
    if inputs.proposals is not None:
        points = inputs.proposals[:t].detach().cpu()
        dots = [draw_keypoints(i, p, colors=[WHITE], radius=2) for i, p in zip(base, points, strict=False)]
        rows["prior proposals"] = torch.stack([*dots, *base[len(dots):]])
    if inputs.masks is not None:
        masks = rearrange(inputs.masks[:t].detach().cpu().float(), "t k 1 h w -> t k h w")
        owners = mask_colors(masks) if hues is None else _colors_of(inputs.tokens, hues, masks.shape[1])
        triples = list(zip(base, masks, owners, strict=True))
        rows["boxes from masks"] = torch.stack([_mask_boxes(*triple, factor) for triple in triples])
        rows["segmentation"] = torch.stack([segmentation(*triple) for triple in triples])
    return {label: rows[label] for label in ROWS if label in rows}


def decomposition_panel(inputs: PanelInputs, *, frames: int = 8, cell: int = 128, top: int = 10) -> Tensor:
    """The panel as one picture: a labelled row per aspect, a column per frame.

    Rows from top to bottom: `ROWS`. Those below "background" are drawn over the true frames. A thing has one colour,
    over time and in all rows, and one box; boxes around masks go through non-maximum suppression (IoU 0.2). On large
    pictures boxes carry the transparency (particles) or the mean alpha (masks).

    Args:
        inputs: One clip.
        frames: Number of columns: the first frames of the clip.
        cell: Height to which small frames are enlarged by a whole factor, in pixels.
        top: Number of keypoints in the row "surest keypoints".
    Returns:
        ``[3, h, w]`` uint8.
    Raises:
        ShapeError: if ``frames`` or ``top`` is below 1; `PanelInputs` checks the shapes.
    Source:
        The row list of upstream lpwm's training figures, utils/util_func.py @ 4cf53c4.
    Example:
        >>> decomposition_panel(PanelInputs(video=torch.rand(3, 3, 32, 32)), cell=96).shape
        torch.Size([3, 122, 408])
    """
    if frames < 1 or top < 1:
        raise ShapeError(f"frames and top must be at least 1, got frames={frames}, top={top}")
    rows = panel_rows(inputs, frames=frames, cell=cell, top=top)
    return labelled_rows(rows, [f"frame {t}" for t in range(len(rows["input"]))])


def segmentation(image: Tensor, masks: Tensor, colors: Sequence[Color]) -> Tensor:
    """Who painted which pixel: the picture, tinted by masks, with a line around what each mask owns.

    Args:
        image: ``[3, h, w]`` uint8, where h and w are whole multiples of the masks' size.
        masks: Alpha masks, ``[K, H, W]`` in [0, 1].
        colors: One per mask.
    Returns:
        ``[3, h, w]`` uint8; dim where nothing is painted.
    """
    check_shape(masks, "k h w", name="masks")
    tones = torch.tensor(list(colors), dtype=torch.float32).reshape(len(masks), 3)
    factor = image.shape[-1] // masks.shape[-1]
    tint = torch.einsum("khw,kc->chw", masks, tones).clamp(0, 255)
    things = list(dict.fromkeys(colors))  # masks of one colour are one thing
    shares = torch.stack([masks[[c == thing for c in colors]].sum(0) for thing in things])
    strength, owner = shares.max(0)
    owner = torch.where(strength > _OWNED, owner + 1, 0)
    large = [x.repeat_interleave(factor, -1).repeat_interleave(factor, -2) for x in (tint, owner)]
    blended = 0.45 * image + 0.55 * large[0]
    edge = torch.zeros_like(large[1], dtype=torch.bool)
    edge[:, 1:] |= large[1][:, 1:] != large[1][:, :-1]
    edge[1:] |= large[1][1:] != large[1][:-1]
    return torch.where(edge, torch.tensor(255.0), blended).round().clamp(0, 255).to(torch.uint8)


def rank_particles(presence: Tensor, uncertainty: Tensor | None) -> tuple[Tensor, Tensor]:
    """Present particles from the surest to the least sure, of one frame.

    Args:
        presence: Transparency, 1 = opaque, ``[N]``.
        uncertainty: ``[N]``, small = sure; without it the most opaque come first.
    Returns:
        (indices of particles above `MIN_PRESENCE`, best first ``[M]``; score of every particle ``[N]``, high = sure).
    """
    score = presence if uncertainty is None else -uncertainty
    order = score.argsort(descending=True, stable=True)
    return order[presence[order] > MIN_PRESENCE], score


def _particle_rows(
    base: Tensor, latent: Particles, uncertainty: Tensor | None, factor: int, top: int, hues: list[list[Color]]
) -> dict[str, Tensor]:
    height, width = base.shape[-2:]
    rows: dict[str, list[Tensor]] = {"all keypoints": [], "surest keypoints": [], "boxes from scale": []}
    for t, (image, own) in enumerate(zip(base, hues, strict=True)):
        position, scale, presence = latent.position[0, t], latent.scale[0, t], latent.transparency[0, t, :, 0]
        order, _ = rank_particles(presence, None if uncertainty is None else uncertainty[t])
        best = order[:top]
        rows["all keypoints"].append(draw_keypoints(image, position, colors=own))
        rows["surest keypoints"].append(draw_keypoints(image, position[best], colors=[own[i] for i in best] or own))
        first = [tokens[0] for tokens in latent.objects(frame=t, presence=MIN_PRESENCE)]
        boxes = boxes_from_particles(position[first], scale[first], height, width)
        rows["boxes from scale"].append(_boxed(image, boxes, presence[first], [own[i] for i in first], factor))
    return {label: torch.stack(images) for label, images in rows.items()}


def _mask_boxes(image: Tensor, masks: Tensor, colors: Sequence[Color], factor: int) -> Tensor:
    boxes, scores = boxes_from_masks(masks)
    solid = (scores > _MIN_MASK_SCORE).nonzero()[:, 0]
    kept = solid[nms(boxes[solid], scores[solid])].tolist()
    return _boxed(image, boxes[kept] * factor, scores[kept], [colors[i] for i in kept], factor)


def _boxed(image: Tensor, boxes: Tensor, scores: Tensor, colors: Sequence[Color], factor: int) -> Tensor:
    """Boxes over a dimmed picture, small ones last, with their scores where there is room."""
    dimmed = (image * _DIMMED).round().to(torch.uint8)
    labels = [f"{score:.2f}".removeprefix("0") for score in scores.tolist()] if image.shape[-2] >= _LABELLED else []
    return draw_boxes(dimmed, boxes, labels=labels, colors=colors or PALETTE, line=max(2, factor // 2))


def _colors_of(tokens: Tensor | None, hues: list[list[Color]], count: int) -> list[list[Color]]:
    """Colours of masks, from those of the particles they are of."""
    which = torch.arange(count).expand(len(hues), -1) if tokens is None else tokens[: len(hues)].cpu()
    return [[own[i] for i in row] for own, row in zip(hues, which.tolist(), strict=True)]
