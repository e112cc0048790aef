"""A model at a glance: what happened, what it predicts, and what it found, of one clip; moving and standing still."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..batch import Batch, to_float_video
from ..latents import Latent, Particles
from ..model import ComposedWorldModel
from ..viz import PanelInputs
from ..viz.animation import framed
from ..viz.images import labelled_rows
from ..viz.panel import panel_rows
from .evaluation import predict

TRUTH, PREDICTED, REDRAWN, FOUND = "what happened", "the prediction", "drawn again", "what it found"
_ROWS = ("segmentation", "boxes from scale")  # the first of them that a model has shows what it found


@dataclass(frozen=True)
class Glance:
    """Rows of pictures of one clip.

    Attributes:
        rows: Name -> ``[T, 3, h, w]`` uint8: the truth, the prediction (given frames are drawn again), and, if the
            latent has anything to show, what the model found: the colours of its things.
        context_frames: How many frames were given.
        predicts: Whether the other frames are predicted, or (a model without a dynamics) seen and drawn again.
    """

    rows: dict[str, Tensor]
    context_frames: int
    predicts: bool

    def strip(self, *, given: int = 3) -> Tensor:
        """A row of pictures for each name, a column per frame, ``[3, h, w]``.

        Args:
            given: Given frames to show: evenly spaced ones, the last one among them.
        """
        count, context = len(next(iter(self.rows.values()))), self.context_frames
        seen = torch.linspace(context - 1, 0, min(context, given)).round().long().flip(0).tolist()
        chosen = [*seen, *range(context, count)]
        later = "predicted" if self.predicts else "seen"
        titles = [f"given {t + 1}" if t < context else f"{later} {t + 1 - context}" for t in chosen]
        return labelled_rows({name: pictures[chosen] for name, pictures in self.rows.items()}, titles)


@torch.no_grad()
def glance(model: ComposedWorldModel, batch: Batch, *, context_frames: int, cell: int = 96) -> Glance:
    """Look at one clip with a model.

    Args:
        model: The model. One without a dynamics predicts nothing: it draws again what it sees.
        batch: One clip ``[1, T, C, H, W]`` (one view) with its conditions; the first frames are given.
        context_frames: How many; of no account without a dynamics.
        cell: Height of a picture, pixels, to which small frames are enlarged by a whole factor.
    Example:
        >>> import worldkit as wk
        >>> model = wk.create_model("lpwm-balls-mini").eval()
        >>> seen = glance(model, wk.Batch(torch.rand(1, 7, 3, 32, 32)), context_frames=5)
        >>> list(seen.rows), seen.rows["the prediction"].shape, seen.strip().shape
        (['what happened', 'the prediction', 'what it found'], torch.Size([7, 3, 106, 106]), torch.Size([3, 352, 658]))
    """
    predicts = model.dynamics is not None
    if predicts:
        rollout = predict(model, batch, context_frames=context_frames, driven_by="prior", generator=None)
        latents = Latent.cat([rollout.context_latents, rollout.latents])
        video = torch.cat([rollout.context_video, rollout.video], 1)
    else:
        context_frames, latents = 0, model.encode(batch)
        video = model.decode(latents).video
    video = video[0].clamp(0, 1)
    rows = {TRUTH: framed(to_float_video(batch.video[0]), None, cell=cell),
            PREDICTED if predicts else REDRAWN: framed(video, context_frames, cell=cell)}
    found = _found(model, latents, video, cell)
    if found is not None:
        rows[FOUND] = framed(found, context_frames, cell=cell)
    return Glance(rows, context_frames, predicts)


def _found(model: ComposedWorldModel, latents: Latent, video: Tensor, cell: int) -> Tensor | None:
    """The drawn frames, what the model holds for things in colours, ``[T, 3, h, w]``; None without masks and boxes."""
    decoded = model.decode(latents, masks=True)
    masks = None if decoded.masks is None else decoded.masks[0]
    tokens = decoded.tokens[0] if masks is not None and decoded.tokens is not None else None
    particles = latents if isinstance(latents, Particles) else None
    rows = panel_rows(PanelInputs(video=video, latent=particles, masks=masks, tokens=tokens), frames=len(video),
                      cell=cell)
    return next((rows[name] for name in _ROWS if name in rows), None)
