"""What actor and critic read of a state, and what a batch says of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...batch import Batch
from ...errors import ShapeError, TrainingError
from ...latents import Latent, LatentSpec


def token_dim(spec: LatentSpec) -> int:
    """Width of the tokens of `state_tokens`."""
    kinds = len(spec.groups) if len(spec.groups) > 1 else 0
    return max(spec.flat_dim(group.name) for group in spec.groups) + kinds


def state_tokens(z: Latent) -> Tensor:
    """All tokens of latents, ``[B, T, K, D]``: the fields of each side by side; of several groups, which one it is.

    Example:
        >>> from worldkit.testing import example_latent, example_spec
        >>> z = example_latent(example_spec(kind="slots"), batch=2, time=3)
        >>> list(state_tokens(z).shape), token_dim(z.spec)
        ([2, 3, 4, 3], 3)
    """
    groups = z.spec.groups
    if len(groups) == 1:
        return z.flat(groups[0].name)
    width = token_dim(z.spec)
    rows = []
    for number, group in enumerate(groups):
        flat = z.flat(group.name)
        kind = F.one_hot(torch.tensor(number, device=flat.device), len(groups)).to(flat.dtype)
        kind = kind.expand(*flat.shape[:-1], len(groups))
        rows.append(torch.cat([F.pad(flat, (0, width - len(groups) - flat.shape[-1])), kind], -1))
    return torch.cat(rows, 2)


@dataclass(frozen=True)
class Arrivals:
    """What came with each of the frames ``[B, T']`` that were seen, as numbers.

    Attributes:
        reward: Of the transition that led there; 0 where an episode begins.
        terminal: 1 where the episode ended by itself with this frame.
        last: 1 where it ended with this frame, whether by itself or cut off.
    """

    reward: Tensor
    terminal: Tensor
    last: Tensor

    @classmethod
    def of(cls, batch: Batch, frames: int) -> Arrivals:
        """Of the last ``frames`` frames of a batch: all of them, or all but one that is context.

        Args:
            batch: With targets ``"reward"``, and ``"terminated"`` and ``"truncated"`` if it knows them.
            frames: How many were seen.
        Raises:
            ShapeError: a batch without rewards.
            TrainingError: rewards that are not finite; a choice among bins would not show them.
        Example:
            >>> targets = {"reward": torch.tensor([[1.0, 2.0, 0.0]]), "terminated": torch.tensor([[False, True, True]])}
            >>> found = Arrivals.of(Batch(torch.zeros(1, 3, 3, 8, 8), targets=targets), 3)
            >>> found.reward, found.last
            (tensor([[0., 1., 2.]]), tensor([[0., 0., 1.]]))
        """
        if "reward" not in batch.targets:
            raise ShapeError("an actor-critic learns from rewards, which this batch lacks: pass Batch(video, "
                             f'targets={{"reward": ...}}); it has {", ".join(batch.targets) or "no targets"}')
        reward = batch.targets["reward"]
        if not torch.isfinite(reward).all():
            clip, frame = (~torch.isfinite(reward)).nonzero()[0].tolist()
            raise TrainingError(
                f"reward {reward[clip, frame].item()} of clip {clip}, transition {frame}, is no number: look at what "
                "the environment gives; worldkit data validate FOLDER finds the episode")
        terminal = batch.targets.get("terminated", torch.zeros_like(reward)).to(reward.dtype)
        ended = batch.targets.get("truncated", torch.zeros_like(reward)).to(reward.dtype).maximum(terminal)
        begins = torch.zeros_like(reward) if batch.first is None else batch.first.to(reward.dtype)
        here = [F.pad(x[:, :-1], (1, 0)) * (1 - begins) for x in (reward, terminal, ended)]
        here[2] = here[2].maximum(F.pad(begins[:, 1:], (0, 1)))
        return cls(*(x[:, -frames:] for x in here))
