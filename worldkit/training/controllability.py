"""Whether latent actions matter: how much worse a prediction gets when they are replaced by others.

Genie's delta PSNR, at every predicted frame t: PSNR(truth, prediction driven by the latent actions read off the truth)
minus PSNR(truth, prediction driven by drawn ones), of the same clips, contexts and model. The paper leaves open what
they are drawn from. A code that no training clip used leads anywhere, and a model whose codes collapsed would look
controllable: so codes are drawn twice, all alike (``delta_psnr``) and as often as they were used in training
(``delta_psnr_usage``, which is 0 for a model of one code). Vectors, which cannot be drawn all alike, are those of other
clips. The true actions of the data, where there are some, are held against the codes (`worldkit.metrics.agreement`).

Differences need not be the same ones from every state: look at the pictures, too.

Source: Genie (arXiv:2402.15391), section 3 (t = 4). Open there and chosen here: frames that are given keep their latent
actions; rollouts are deterministic; 4 draws; PSNR of clips, then means; a squared error of at least 1e-10.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..batch import Batch
from ..data import ClipDataset
from ..errors import ConfigError
from ..metrics import Agreement, agreement
from ..model import ComposedWorldModel

DELTA, DELTA_USAGE = "delta_psnr", "delta_psnr_usage"
DRAWS = 4


def frame_psnr(video: Tensor, truth: Tensor) -> Tensor:
    """dB per clip and frame, ``[B, T]``, of video ``[B, T, C, H, W]`` in [0, 1].

    Example:
        >>> frame_psnr(torch.zeros(1, 1, 3, 4, 4), torch.full((1, 1, 3, 4, 4), 0.1))
        tensor([[20.]])
    """
    return -10 * torch.log10((video.clamp(0, 1) - truth).square().mean((2, 3, 4)).clamp(min=1e-10))


def with_true_actions(clips: ClipDataset) -> ClipDataset:
    """The same clips with the data's entry ``action``, if there is one, whether or not a model is told it."""
    asked = clips.conditions or {}
    if "action" in asked or "action" not in clips.conditions_in_data():
        return clips
    return clips.feeding({**asked, "action": "action"}, clips.targets, clips.vectors)


class Controllability:
    """Scores of clips, batch by batch, of a model with latent actions.

    Args:
        model: The model.
        seed: Of drawn latent actions.
        draws: How many of each kind.
    Raises:
        ConfigError: the model has no latent actions, or several cameras.
    """

    def __init__(self, model: ComposedWorldModel, *, seed: int = 0, draws: int = DRAWS):
        if model.latent_action is None:
            raise ConfigError("delta_psnr is about latent actions, and this model has none: leave it out of the "
                              "metrics")
        if model.config.obs.views > 1:
            raise ConfigError("delta_psnr is for one camera view; leave it out of the metrics")
        self.model, self.draws, self.generator = model, draws, torch.Generator().manual_seed(seed)
        self._pairs: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def scores(self, batch: Batch, truth: Tensor, video: Tensor, actions: Tensor, *, context_frames: int,
               **known: Any) -> dict[str, Tensor]:
        """Both differences in dB, ``[B, H]``; of vectors the second alone.

        Args:
            batch: Clips ``[B, T0 + H]``.
            truth: Their last H frames, in [0, 1].
            video: What was predicted for them with the latent actions that were inferred.
            actions: These, ``[B, T0 + H - 1, N or 1, A]``.
            context_frames: T0.
            **known: The model's conditions and masks.
        """
        told = batch.conditions.get("action")
        if self.model.latent_action.choices is not None and torch.is_tensor(told) and not told.is_floating_point():
            self._pairs.append((actions[:, :, 0, 0].cpu(), told[:, : actions.shape[1]].cpu()))
        base, found = frame_psnr(video, truth), {}
        for name in (DELTA, DELTA_USAGE):
            others = [self._drawn(actions, name, context_frames - 1) for _ in range(self.draws)]
            if others[0] is None:
                continue
            rolled = [self.model.rollout(batch.context(context_frames), truth.shape[1], latent_actions=x,
                                         deterministic=True, **known).video for x in others]
            found[name] = base - torch.stack([frame_psnr(x, truth) for x in rolled]).mean(0)
        return found

    def _drawn(self, actions: Tensor, how: str, given: int) -> Tensor | None:
        """Latent actions of which those of the first ``given`` transitions are as they were; None: cannot be drawn."""
        module, shape = self.model.latent_action, actions.shape
        if module.choices is None:
            if how == DELTA:
                return None
            drawn = actions[torch.randperm(shape[0], generator=self.generator).to(actions.device)]
        else:
            shares = torch.ones(module.choices) if how == DELTA else module.usage.cpu() + 1e-12
            drawn = torch.multinomial(shares, actions.numel(), replacement=True, generator=self.generator)
            drawn = drawn.view(shape).to(actions.device)
        return torch.cat([actions[:, :given], drawn[:, given:]], 1)

    def agreement(self) -> Agreement | None:
        """How codes and true actions of the clips so far agree; None if the data have no discrete ones."""
        if not self._pairs:
            return None
        codes, actions = (torch.cat(parts) for parts in zip(*self._pairs, strict=True))
        return agreement(codes, actions, generator=torch.Generator().manual_seed(0))
