"""`Rollout`, a prediction, and the steps of the loop behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .batch import check_shape
from .conditions import Condition
from .distributions import Sampler
from .dreaming import Loop
from .latents import Latent

if TYPE_CHECKING:
    from .dynamics.base import Window
    from .model import ComposedWorldModel


@dataclass(frozen=True)
class Rollout:
    """A prediction.

    Attributes:
        latents: Predicted latents, ``[B, horizon]``.
        context_latents: Latents of the context, ``[B, C0]``.
        video: Predicted frames, ``[B, horizon, C, H, W]`` (``[B, V, horizon, ...]``), not clamped; None if not decoded.
        context_video: Reconstruction of the context, likewise.
        latent_actions: ``[B, C0 + horizon - 1, N or 1, A]``: inferred inside the context, then given or sampled. Can be
            edited and passed to `WorldModel.rollout` again.
        predictions: What the model's heads say, by target, ``[B, horizon]`` (of vectors ``[B, horizon, S]``): index k
            is about the transition that leads to predicted frame k, of k = 0 from the last frame of the context.
        vectors: Predicted vectors beside the video, by name, ``[B, horizon, S]`` (of discrete ones the probabilities
            of their classes), of models whose decoder tells them and if decoded.
        context_vectors: Those of the context, likewise.
    """

    latents: Latent
    context_latents: Latent
    video: Tensor | None = None
    context_video: Tensor | None = None
    latent_actions: Tensor | None = None
    predictions: Mapping[str, Tensor] = field(default_factory=dict)
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    context_vectors: Mapping[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        (clips, given), predicted = self.context_latents.shape, self.latents.shape[1]
        kind, tokens = type(self.latents).__name__, self.latents.spec.num_tokens
        shapes = {"video": self.video, "context_video": self.context_video, "latent_actions": self.latent_actions}
        known = [f"{name} {list(x.shape)}" for name, x in shapes.items() if x is not None]
        missing = [name for name, x in shapes.items() if x is None]
        told = [f"  {what}: {', '.join(f'{name} {list(x.shape)}' for name, x in found.items())}"
                for what, found in (("predictions", self.predictions), ("vectors", self.vectors)) if found]
        return "\n".join([
            f"Rollout of {clips} clip(s): {given} frames given, {predicted} predicted",
            f"  latents, context_latents: {kind}, {tokens} tokens a frame",
            f"  {', '.join(known + [f'no {name}' for name in missing])}",
            *told,
        ])


def stills(model: ComposedWorldModel, z: Latent, *, decode: bool = True) -> Rollout:
    """Frames ``[B, C0]`` after which nothing is predicted, as a prediction of no frames."""
    drawn = model.decode(z) if decode else None
    if drawn is None:
        return Rollout(latents=z[:, :0], context_latents=z)
    return Rollout(latents=z[:, :0], context_latents=z, video=drawn.video[..., :0, :, :, :], context_video=drawn.video,
                   vectors={name: x[:, :0] for name, x in drawn.vectors.items()}, context_vectors=drawn.vectors)


def predicted(
    model: ComposedWorldModel, z: Latent, horizon: int, given: Mapping[str, Condition], latent_actions: Tensor | None,
    sampler: Sampler, window: Window, *, video: Any = None,
) -> tuple[Latent, Tensor | None, dict[str, Tensor]]:
    """Predicted latents ``[B, horizon]``, the latent actions of context and prediction, and what heads say.

    ``video``: what ``z`` was seen in, for latent actions that read video.
    """
    past = z.shape[1] - 1
    if latent_actions is not None:
        model.require_latent_action("latent_actions=...")
        check_shape(latent_actions, "b t n a", name="latent_actions", b=z.shape[0], t=past + horizon)
    inside = {receiver: cond.at(slice(0, past)) for receiver, cond in given.items()}
    actions = None if latent_actions is None else latent_actions[:, :past]
    loop = Loop(model, z, inside, latent_actions=actions, sampler=sampler, window=window, video=video)
    latents, taken, told = [], [], []
    for t in range(past, past + horizon):  # transition t leads to frame t + 1
        now = slice(t, t + 1)
        cond = {receiver: cond.at(now) for receiver, cond in given.items()}
        latents.append(loop.step(cond, None if latent_actions is None else latent_actions[:, now]))
        taken.append(loop.latent_action)
        told.append(loop.predictions)
    if latent_actions is None and loop.latent_actions is not None:
        latent_actions = torch.cat([loop.latent_actions, *taken], 1)
    said = {name: torch.cat([step[name] for step in told], 1) for name in model.heads}
    return type(z).cat(latents), latent_actions, said
