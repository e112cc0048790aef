"""Pictures of a model at work: the decomposition panel, and rollouts beside the truth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch, to_float_video
from ..latents import Latent, LatentSpec, Particles
from ..model import ComposedWorldModel
from ..viz import (
    PanelInputs,
    animate_rollout,
    animate_samples,
    decomposition_panel,
    rollout_strip,
    samples_strip,
)
from ..viz.animation import INFERRED, MEAN, SAMPLED
from .evaluation import predict

COLUMNS = {"prior": MEAN, "sampled": SAMPLED, "inferred": INFERRED}
"""What may drive a rollout -> what a picture calls it."""
INFERRED_NOTE = (
    "Latent actions read off the true future tell which particle will show an object, so what follows them is no "
    "prediction. A model trained briefly can look worse with them than with its mean, because it does not know yet "
    "where and in which colour; the mean fades what it is unsure of."
)
"""What stands below every picture that shows these rollouts."""


@torch.no_grad()
def panel(model: ComposedWorldModel, clip: Tensor | Batch, *, frames: int = 8, cell: int = 128) -> Tensor:
    """How a model takes a clip apart, as `worldkit.viz.decomposition_panel` shows it.

    Args:
        model: The model.
        clip: One clip, ``[T, C, H, W]`` or ``[V, T, C, H, W]`` (the first view is shown), uint8 or float in [0, 1];
            or a batch of one, with the conditions that a dynamics that filters asks for.
        frames: Columns.
        cell: Side of a picture, pixels.
    Returns:
        uint8 ``[3, h, w]``.
    """
    batch = clip if isinstance(clip, Batch) else Batch(clip[None])
    encoding, video = model.perceive(batch), batch.video[0]
    decoded = model.decode(encoding.latent, masks=True)
    proposals = getattr(encoding.aux, "proposals", None)
    latent, several = _first_view(encoding.latent), video.ndim == 5
    time = video.shape[-4]

    def shown(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[0, 0] if several else x[0]

    def drawn(x: Tensor | None) -> Tensor | None:  # decoders are free to leave [0, 1], above all untrained ones
        return None if x is None else shown(x).clamp(0, 1)

    return decomposition_panel(
        PanelInputs(
            video=to_float_video(video[0] if several else video),
            reconstruction=drawn(decoded.video),
            latent=latent if isinstance(latent, Particles) else None,
            proposals=None if proposals is None else proposals[0] if proposals.ndim == 4 else proposals[:time],
            masks=shown(decoded.masks),
            foreground=drawn(decoded.foreground),
            background=drawn(decoded.background),
            tokens=shown(decoded.tokens) if decoded.masks is not None else None,
            uncertainty=latent.score[0] if isinstance(latent, Particles) and latent.score is not None else None,
        ),
        frames=frames,
        cell=cell,
    )


def _first_view(z: Latent) -> Latent:
    """Tokens of the first camera alone."""
    views = z.spec.views
    if views == 1:
        return z
    groups = tuple(replace(g, size=g.size // views) for g in z.spec.groups)
    spec: LatentSpec = replace(z.spec, groups=groups, views=1)
    score = None if z.score is None else z.score[..., : groups[0].size]
    return Latent.build(spec, {k: v[:, :, : v.shape[2] // views] for k, v in z.values.items()}, score=score)


@torch.no_grad()
def rollouts_beside_truth(
    model: ComposedWorldModel, batch: Batch, *, context_frames: int, generator: torch.Generator | None = None,
) -> dict[str, Any]:
    """A clip and what a model makes of it: the mean prediction (which is scored), a sampled one, a reconstruction.

    Args:
        model: The model; without latent actions nothing can be read off the true future, and that part is left out.
        batch: One clip with its conditions (several views: the first is shown).
        context_frames: Frames that are given; the rest is predicted.
        generator: Of the sampled rollout.
    Returns:
        What `worldkit.viz.animate_rollout` and `worldkit.viz.rollout_strip` take: ``truth``, ``rollouts``,
        ``context_frames``, ``note``.
    """
    several = batch.video.ndim == 6

    def shown(x: Tensor) -> Tensor:
        return x[0, 0] if several else x[0]

    rollouts = {}
    for driver, caption in COLUMNS.items():
        if driver == "inferred" and model.latent_action is None:
            continue
        rollout = predict(model, batch, context_frames=context_frames, driven_by=driver, generator=generator)
        rollouts[caption] = torch.cat([shown(rollout.context_video), shown(rollout.video)]).clamp(0, 1)
    return {"truth": to_float_video(shown(batch.video)), "rollouts": rollouts, "context_frames": context_frames,
            "note": INFERRED_NOTE if INFERRED in rollouts else ""}


def animation(
    model: ComposedWorldModel, batch: Batch, *, context_frames: int, generator: torch.Generator | None = None,
    title: str = "", cell: int = 160,
) -> Tensor:
    """`rollouts_beside_truth` as an animation ``[T, 3, h, w]`` uint8; `film` says more."""
    return film(model, batch, context_frames=context_frames, generator=generator, title=title, cell=cell)[0]


def film(
    model: ComposedWorldModel, batch: Batch, *, context_frames: int, generator: torch.Generator | None = None,
    title: str = "", cell: int = 160,
) -> tuple[Tensor, Tensor]:
    """`rollouts_beside_truth` as an animation, with the goal image if there is one, and as a strip that stands still.

    Args:
        model, batch, context_frames, generator: As there.
        title: Text above the animation.
        cell: Height of a picture of the animation, pixels.
    Returns:
        uint8 ``[T, 3, h, w]`` and ``[3, h', w']``.
    """
    goal = batch.conditions.get("goal_image") if "goal_image" in model.conditioners else None
    if goal is not None:
        goal = to_float_video(goal[0, 0] if batch.video.ndim == 6 else goal[0])
    parts = rollouts_beside_truth(model, batch, context_frames=context_frames, generator=generator)
    return animate_rollout(**parts, title=title, goal=goal, cell=cell), rollout_strip(**parts)


@torch.no_grad()
def samples(model: ComposedWorldModel, *, seed: int = 0, videos: int = 4, cell: int = 96) -> tuple[Tensor, Tensor]:
    """Videos that a model draws out of nothing, as an animation and as a strip that stands still.

    Of a model with conditions the first frames alone: nobody says what happens after them. After first frames the
    dynamics follows its means.

    Args:
        model: The model.
        seed: Of the first frames.
        videos: How many.
        cell: Height of a picture, pixels.
    Returns:
        uint8 ``[T, 3, h, w]`` and ``[3, h', w']``.
    """
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    if model.dynamics is None or model.conditioners:
        first = model.sample_first_frames(videos, generator=generator)
        drawn = [model.decode(first).video]
    else:
        rollout = model.sample(videos, model.config.timestep_horizon, generator=generator, deterministic=True)
        drawn = [rollout.context_video, rollout.video]
    if model.config.obs.views > 1:  # the first one
        drawn = [video[:, 0] for video in drawn]
    shown, first_frames = torch.cat(drawn, 1).clamp(0, 1), drawn[0].shape[1]
    return (animate_samples(shown, first_frames=first_frames, cell=cell),
            samples_strip(shown, first_frames=first_frames, cell=cell))
