"""The decomposition panel: how a particle model explains a clip, one row per aspect, one column per frame.

Differences from upstream on purpose: dropped boxes keep the order of their scores (an index set lost it); boxes from
masks are scored by the masks (their scores were looked up by particle, wrong when only some particles are drawn);
absent particles are left out by their transparency, not by a cut on the product of an uncertainty of either sign with
it; a particle keeps its colour over time in the keypoint and segmentation rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from ..batch import check_shape
from ..errors import ShapeError
from ..latents import Particles
from .boxes import PALETTE, boxes_from_masks, boxes_from_particles, draw_boxes, draw_keypoints, nms, token_colors
from .images import WHITE, enlarge, labelled_rows, to_uint8

ROWS = (
    "input", "all keypoints", "reconstruction", "prior proposals", "surest keypoints", "foreground",
    "boxes from scale", "boxes from masks", "segmentation", "background",
)  # fmt: skip
"""Row labels in their order; a row whose input is missing is left out."""

MIN_PRESENCE = 0.2
"""Particles more transparent than this get no box and are not among the surest (LPWM gates at the same value)."""

_MIN_MASK_SCORE = 0.1  # masks fainter than this on average get no box


@dataclass(frozen=True)
class PanelInputs:
    """What the panel shows of ONE clip; plain tensors, so that any model can fill it. Only ``video`` is required.

    Attributes:
        video: True frames, ``[T, 3, H, W]``, uint8 or float in [0, 1].
        reconstruction: Decoded frames, the same shape.
        latent: Particles of the clip, ``[1, T, N, .]``, one view.
        proposals: Positions of prior proposals, ``[T, M, 2]``, (y, x) in [-1, 1].
        masks: Alpha masks of the drawn tokens, ``[T, K, 1, H, W]`` in [0, 1]; K may be less than N.
        foreground: Decoded tokens without background, as ``video``.
        background: Decoded background, as ``video``.
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
            check_shape(self.proposals, "t m yx", name="proposals", t=t, yx=2)
        if self.masks is not None:
            check_shape(self.masks, "t k c h w", name="masks", t=t, c=1, **image)
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
    if inputs.latent is not None:
        latent = inputs.latent[:, :t].detach().to("cpu", torch.float32)
        uncertainty = None if inputs.uncertainty is None else inputs.uncertainty[:t].detach().cpu().float()
        rows |= _particle_rows(base, latent, uncertainty, factor, top)
    if inputs.proposals is not None:
        points = inputs.proposals[:t].detach().cpu()
        dots = [draw_keypoints(i, p, colors=[WHITE], radius=2) for i, p in zip(base, points, strict=True)]
        rows["prior proposals"] = torch.stack(dots)
    if inputs.masks is not None:
        masks = rearrange(inputs.masks[:t].detach().cpu().float(), "t k 1 h w -> t k h w")
        boxed = [_mask_boxes(image, mask, factor) for image, mask in zip(base, masks, strict=True)]
        rows["boxes from masks"] = torch.stack(boxed)
        overlay = torch.stack([segmentation(mask) for mask in masks])
        blended = 0.3 * to_uint8(inputs.video[:t]) / 255 + 0.7 * overlay
        rows["segmentation"] = enlarge(to_uint8(blended), cell)[0]
    return {label: rows[label] for label in ROWS if label in rows}


def decomposition_panel(inputs: PanelInputs, *, frames: int = 8, cell: int = 128, top: int = 10) -> Tensor:
    """The panel as one picture: a labelled row per aspect, a column per frame.

    Rows from top to bottom: `ROWS`. Keypoint, proposal and box rows are drawn over the true frames. Boxes go through
    non-maximum suppression (IoU 0.2) and are coloured by rank; their labels are the transparency (particles) or the
    mean alpha (masks).

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
    return labelled_rows(rows, [f"t = {t}" for t in range(len(rows["input"]))])


def segmentation(masks: Tensor) -> Tensor:
    """Masks as colours: one hue per mask, weighted by alpha.

    Args:
        masks: Alpha masks, ``[K, H, W]`` in [0, 1].
    Returns:
        ``[3, H, W]`` float in [0, 1], black where nothing is drawn.
    Example:
        >>> segmentation(torch.ones(1, 1, 1)).flatten()
        tensor([1.0000, 0.1490, 0.1490])
    """
    k = check_shape(masks, "k h w", name="masks")["k"]
    colors = torch.tensor(token_colors(k), dtype=torch.float32).reshape(k, 3) / 255
    return torch.einsum("khw,kc->chw", masks, colors).clamp(0, 1)


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
    base: Tensor, latent: Particles, uncertainty: Tensor | None, factor: int, top: int
) -> dict[str, Tensor]:
    height, width = base.shape[-2:]
    hues = token_colors(latent.position.shape[2])
    rows: dict[str, list[Tensor]] = {"all keypoints": [], "surest keypoints": [], "boxes from scale": []}
    for t, image in enumerate(base):
        position, scale, presence = latent.position[0, t], latent.scale[0, t], latent.transparency[0, t, :, 0]
        order, score = rank_particles(presence, None if uncertainty is None else uncertainty[t])
        best = order[:top]
        rows["all keypoints"].append(draw_keypoints(image, position, colors=hues))
        best_hues = [hues[i] for i in best] or hues
        rows["surest keypoints"].append(draw_keypoints(image, position[best], colors=best_hues))
        boxes = boxes_from_particles(position[order], scale[order], height, width)
        kept = nms(boxes, score[order])
        labels = [_short(presence[order[i]].item()) for i in kept]
        rows["boxes from scale"].append(draw_boxes(image, boxes[kept], labels=labels, line=max(1, factor // 2)))
    return {label: torch.stack(images) for label, images in rows.items()}


def _mask_boxes(image: Tensor, masks: Tensor, factor: int) -> Tensor:
    boxes, scores = boxes_from_masks(masks)
    solid = (scores > _MIN_MASK_SCORE).nonzero()[:, 0]
    kept = solid[nms(boxes[solid], scores[solid])]
    labels = [_short(scores[i].item()) for i in kept]
    return draw_boxes(image, boxes[kept] * factor, labels=labels, colors=PALETTE, line=max(1, factor // 2))


def _short(value: float) -> str:
    """Two decimals without the leading zero: small boxes have little room."""
    return f"{value:.2f}".removeprefix("0")
