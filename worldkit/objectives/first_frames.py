"""A prior over first frames learns on the latents of an encoder that is trained already; the rest stays as it is.

Clips are as long as the prior's ``frames`` and are encoded by their means, once (`objectives.remembered`). Clips that
leave their episode do not count.

Source: DiffuseDDLP (arXiv:2306.05957), whose official code trains on the first frames of episodes only: the training
option ``clips = "first"``. Every window of an episode (``"all"``) gives more data where episodes begin like they go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from ..batch import Batch, to_float_video
from ..config import ComponentConfig
from ..distributions import MEANS, Sampler
from ..errors import IncompatibleComponentsError
from ..latents import Latent
from .base import Loss, Objective
from .remembered import Remembered

if TYPE_CHECKING:
    from ..model import ComposedWorldModel


class FirstFramesConfig(ComponentConfig):
    """Options of the first-frames objective; those of its loss are the prior's.

    Attributes:
        background: What the encoder sees of the background: ``"encoder"``, what it always sees; ``"decoder"``, what
            the decoder leaves of it, as DiffuseDDLP's official code (encoders with ``encode_background``).
        remember: Training clips whose latents are kept in memory, so that they are encoded once only; 0: none.
    """

    name: str = "first-frames"
    background: Literal["encoder", "decoder"] = "encoder"
    remember: int = Field(default=20_000, ge=0)


class FirstFrames(Objective):
    """The prior's own loss on latents of first frames; see the module's docstring."""

    Config = FirstFramesConfig
    requires = frozenset({"prior"})
    frozen = frozenset({"encoder", "decoder", "dynamics", "latent_action", "conditioners", "heads"})

    def __init__(self, config: FirstFramesConfig):
        super().__init__(config)
        self._remembered = Remembered(config.remember)

    def forward(self, model: ComposedWorldModel, batch: Batch, step: int, *, sampler: Sampler) -> Loss:
        whole = _whole(batch)
        losses = {name: (value * whole).sum() / whole.sum().clamp(min=1)
                  for name, value in model.prior.loss(self._encoded(model, batch), sampler).items()}
        return Loss(sum(losses.values()), {name: value.detach() for name, value in losses.items()})

    def study(self, model: ComposedWorldModel, batches: Iterable[Batch]) -> None:
        latents = self._all(model, batches)
        model.prior.measure(latents)
        if self.config.remember:  # what the prior did not want to see as well
            for _ in latents:
                pass

    def _encoded(self, model: ComposedWorldModel, batch: Batch) -> Latent:
        known = self._remembered.find(model.encoder, batch)
        return self._encode(model, batch) if known is None else known

    def _all(self, model: ComposedWorldModel, batches: Iterable[Batch]) -> Iterator[Latent]:
        """Latents of all clips that do not leave their episode; on the way they are remembered."""
        for batch in batches:
            batch = replace(batch, video=to_float_video(batch.video))
            z = self._encode(model, batch)
            self._remembered.add(model.encoder, batch, z)
            yield z[_whole(batch).bool()]

    @torch.no_grad()
    def _encode(self, model: ComposedWorldModel, batch: Batch) -> Latent:
        encoding = model.encoder.see(batch, sampler=MEANS)
        if self.config.background == "encoder":
            return encoding.latent
        again = getattr(model.encoder, "encode_background", None)
        mask = None if again is None or model.decoder is None else model.decode(encoding.latent).background_mask
        if mask is None:
            raise IncompatibleComponentsError(
                "objective.background='decoder' asks for an encoder with encode_background, as 'particle-tracking', "
                "and a decoder that tells the background's share; this model has not both: take 'encoder'"
            )
        return again(encoding, batch.video, mask).latent


def _whole(batch: Batch) -> torch.Tensor:
    """1 for clips that do not leave their episode, ``[B]``."""
    if batch.done_mask is None:
        return torch.ones(batch.batch_size, device=batch.video.device)
    return batch.done_mask.flatten(1).all(1).float()
