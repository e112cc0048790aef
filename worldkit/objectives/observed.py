"""What objectives of models that filter share: observations drawn again, and heads that read states.

Parts are arrays per frame that was seen, ``[B, T']`` (``[B, T' - 1]`` where nothing is known of the first), in nats;
their means are what counts. A batch may have one frame more than was seen: then its first frame was context.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from einops import reduce
from torch import Tensor

from ..batch import Batch
from ..errors import ShapeError
from ..latents import Latent
from .terms import psnr

if TYPE_CHECKING:
    from ..decoders import Decoded
    from ..model import ComposedWorldModel

Likelihood = Literal["squared", "normal"]

_ZERO_AT_FIRST = frozenset({"reward", "terminated", "truncated"})
"""Targets that are zero for a frame that begins an episode."""


def seen_part(x: Tensor, frames: int, axis: int = 1) -> Tensor:
    """Entries of the frames that were seen, of a tensor with entries for these or for one more before them."""
    return x.narrow(axis, x.shape[axis] - frames, frames)


def observation_parts(
    model: ComposedWorldModel, z: Latent, batch: Batch, likelihood: Likelihood
) -> tuple[dict[str, Tensor], Decoded]:
    """How wrong observations are that are drawn from states, by name: ``"image"`` and the names of vectors.

    Args:
        model: Its decoder draws.
        z: States of the frames that were seen.
        batch: Observations.
        likelihood: ``"squared"``: squared errors, summed over numbers and pixels (values in [0, 1]); ``"normal"``: the
            negative log-likelihood under N(., 1).
    """
    drawn, frames, parts = model.decode(z), z.shape[1], {}
    if batch.video.numel():
        video = seen_part(batch.as_float().video, frames, batch.video.ndim - 4)
        squared = (drawn.video - video.to(drawn.video.dtype)).square()
        error = reduce(squared, "b ... t c h w -> b t", "sum")
        if likelihood == "normal":
            error = 0.5 * error + 0.5 * math.log(2 * math.pi) * (squared[0].numel() / frames)
        parts["image"] = error
    vectors = {name: seen_part(x, frames) for name, x in batch.vectors.items()}
    return parts | model.decoder.vector_losses(drawn, vectors, likelihood=likelihood), drawn


def head_parts(model: ComposedWorldModel, z: Latent, batch: Batch) -> dict[str, Tensor]:
    """How wrong heads are about how each state was reached, by target; gradients reach the states.

    The reward of a frame is that of the transition which led to it. Nothing led to a frame that begins an episode:
    reward, terminated and truncated are zero there, and other targets do not count. Of the first frame of a clip
    nothing is known, unless the batch says that it begins an episode, or holds the frame before.

    Raises:
        ShapeError: the batch lacks a target.
    """
    if not model.heads:
        return {}
    frames = z.shape[1]
    features, parts = model.dynamics.state_features(z), {}
    begins = None if batch.first is None else seen_part(batch.first, frames).to(features.device)
    for name, head in model.heads.items():
        if name not in batch.targets:
            raise ShapeError(
                f"this model has a head for the target '{name}', which the batch lacks (its targets: "
                f"{', '.join(batch.targets) or 'none'}): pass Batch(video, targets={{\"{name}\": ...}}), or clips of "
                "ClipDataset(..., targets=model.config.targets)"
            )
        target = batch.targets[name][:, :-1]
        known = torch.ones(z.shape, device=features.device)
        if target.shape[1] < frames:  # the first frame's is in no batch that begins with it
            target = torch.cat([torch.zeros_like(batch.targets[name][:, :1]), target], 1)
            known[:, 0] = 0
        if begins is not None:
            target = torch.where(begins.reshape(*begins.shape, *[1] * (target.ndim - 2)), 0, target)
            known = torch.where(begins, float(name in _ZERO_AT_FIRST), known)
        parts[name] = counted(head.loss(features, target), known)
    return parts


def counted(x: Tensor, known: Tensor) -> Tensor:
    """The same where ``known`` is 1, ``[B, T]``, and so weighed that the mean is that of these alone.

    Example:
        >>> counted(torch.tensor([[5.0, 1.0]]), torch.tensor([[0.0, 1.0]])).mean()
        tensor(1.)
    """
    known = known.to(x.dtype)
    return torch.where(known > 0, x, 0) * known * (known.numel() / known.sum().clamp(min=1))


def inside(parts: dict[str, Tensor], done_mask: Tensor | None) -> dict[str, Tensor]:
    """Parts without frames outside of their episode; ``done_mask`` is 1 inside."""
    if done_mask is None:
        return parts
    mask = (done_mask if done_mask.ndim == 2 else done_mask.float().mean(1)).float()
    return {name: counted(x, seen_part(mask, x.shape[1])) if x.ndim == 2 else x for name, x in parts.items()}


def head_scales(model: ComposedWorldModel) -> dict[str, float]:
    """Factors of the heads' losses."""
    return {name: head.config.weight for name, head in model.heads.items()}


def logged(parts: dict[str, Tensor], model: ComposedWorldModel, drawn: Any, batch: Batch) -> dict[str, Tensor]:
    """Means of parts for logs, as other objectives call them."""
    terms = {}
    for name, x in parts.items():
        kind = "head/" if name in model.heads else "vector/" if name in batch.vectors else ""
        terms[f"{kind}{name}"] = x.mean().detach()
    if "image" in parts and drawn is not None:
        with torch.no_grad():
            video = seen_part(batch.as_float().video, drawn.video.shape[-4], batch.video.ndim - 4)
            terms["psnr"] = psnr((drawn.video - video).square().mean())
    return terms
