"""IRIS's world: a tokenizer, and a transformer over its codes, with rewards and ends; the two learn side by side.

The tokenizer learns as objective `vq` says. The transformer learns the codes that the tokenizer, which it does not
train, gives at that moment: the cross-entropy of every code given all before it, the ones of the first frame included
(but for the very first); heads read its hidden states behind actions and train it with their losses. All terms are
means over what lies inside the episode, and are summed.

Agents train the two by turns (`turn_loss`), with batches and optimisers of their own.

Source: IRIS (arXiv:2209.00588), written from a description of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from torch import nn

from ..batch import Batch
from ..distributions import Sampler
from ..errors import IncompatibleComponentsError
from ..latents import Latent
from .base import Loss
from .remembered import RememberedFrames
from .vq import VQ, VQConfig, masked_mean, tokenizer_loss

if TYPE_CHECKING:
    from ..model import ComposedWorldModel


class IRISConfig(VQConfig):
    """Options of IRIS's objective.

    Attributes:
        tokenizer_steps: So many training steps train the tokenizer alone, and all later ones the rest alone. None:
            every step trains both, on the same clips.
        num_frames: Frames of a training clip; None = one more than the dynamics' window.
        remember: Frames whose codes are kept in memory while the tokenizer stays as it is, each encoded once.
    """

    name: str = "iris"
    tokenizer_steps: int | None = Field(default=None, ge=0)
    num_frames: int | None = Field(default=None, gt=1)
    remember: int = Field(default=0, ge=0)


class IRIS(VQ):
    """Tokenizer and transformer; see the module's docstring.

    Attributes:
        turns: Parts that may learn one by one, see `turn_loss`.
    """

    Config = IRISConfig
    requires = frozenset({"decoder", "dynamics", "no-filtering"})
    turns: ClassVar[tuple[str, ...]] = ("tokenizer", "dynamics")
    config: IRISConfig

    def __init__(self, config: IRISConfig):
        super().__init__(config)
        self._remembered = RememberedFrames(config.remember)

    def prepare(self, model: ComposedWorldModel) -> None:
        if not hasattr(model.dynamics, "token_losses"):
            raise IncompatibleComponentsError(
                f"objective 'iris' trains a transformer over codes, and dynamics '{model.config.dynamics.name}' is "
                "none; set dynamics='token-transformer', or objective='two-stage' for a tokenizer that is trained"
            )

    def forward(self, model: ComposedWorldModel, batch: Batch, step: int, *, sampler: Sampler) -> Loss:
        first = self.config.tokenizer_steps
        if first is not None and self.training and self.steps_per_epoch:  # not outside of a training run
            part = self.turns[step >= first]
            loss = tokenizer_loss(model, batch, sampler, self.config) if part == "tokenizer" else (
                self._dynamics_loss(model, batch, sampler))
            return Loss(loss.total, loss.terms, partial=part == "tokenizer")
        both = tokenizer_loss(model, batch, sampler, self.config), self._dynamics_loss(model, batch, sampler)
        return Loss(both[0].total + both[1].total, {**both[0].terms, **both[1].terms})

    def turn_loss(self, model: ComposedWorldModel, batch: Batch, part: str, *, sampler: Sampler) -> Loss:
        """The loss of one part.

        Args:
            model: The model.
            batch: Clips; ``done_mask`` says of every frame whether it, and the transition that leaves it, are there.
                Unlike in `forward`, the action that leaves the last frame of a clip counts, too.
            part: One of `turns`.
            sampler: Source of randomness.
        """
        batch = batch.as_float()
        if part == "tokenizer":
            return tokenizer_loss(model, batch, sampler, self.config)
        return self._dynamics_loss(model, batch, sampler, last=True)

    def _dynamics_loss(self, model: ComposedWorldModel, batch: Batch, sampler: Sampler, *, last: bool = False) -> Loss:
        """`dynamics_loss` on the codes that the encoder gives when it does not learn."""
        encoder, learning = model.encoder, model.encoder.training
        encoder.eval()
        try:
            z = self._remembered.means(encoder, batch)
        finally:
            encoder.train(learning)
        return dynamics_loss(model, batch, z, sampler, last=last)

    def turn_parameters(self, model: ComposedWorldModel, part: str) -> list[nn.Parameter]:
        """What one of `turns` trains."""
        parts = (model.encoder, model.decoder) if part == "tokenizer" else (model.dynamics, model.conditioners,
                                                                           model.heads)
        return [p for module in parts for p in module.parameters() if p.requires_grad]


def dynamics_loss(
    model: ComposedWorldModel, batch: Batch, z: Latent, sampler: Sampler, *, last: bool = False
) -> Loss:
    """The loss of transformer and heads on the codes of clips.

    Args:
        model: The model.
        batch: Clips.
        z: Their codes.
        sampler: Source of randomness.
        last: The action that leaves the last frame of a clip counts, and ``done_mask`` says of every frame whether the
            transition that leaves it is there. Otherwise a transition counts if both of its frames do.
    """
    done = None if batch.done_mask is None else batch.done_mask if batch.done_mask.ndim == 2 else batch.done_mask[:, 0]
    frames = z.shape[1]
    if last:
        cond = model._gather_conditions(batch.conditions, batch.masks, frames, sampler)["dynamics"]
        crossed = done
    else:
        cond = model.condition(z, batch, sampler=sampler).cond
        crossed = None if done is None else done[:, :-1].bool() & done[:, 1:].bool()
    hidden = model.dynamics.hidden(z, cond)
    losses = model.dynamics.token_losses(z, hidden, done)
    count = losses.numel() - len(losses) if done is None else (
        done.sum() * losses.shape[2] - done[:, 0].sum()).clamp(min=1)
    terms = {"tokens": losses.sum() / count}
    total = terms["tokens"]
    if any(name not in batch.targets for name in model.heads):
        model.head_losses(z, cond, batch)  # raises: says which, and what to do
    features = model.dynamics.behind_actions(hidden)
    for name, head in model.heads.items():
        loss = masked_mean(head.loss(features, batch.targets[name][:, : features.shape[1]]), crossed)
        total = total + model.config.heads[name].weight * loss
        terms[f"head/{name}"] = loss
    return Loss(total, {name: value.detach() for name, value in terms.items()})
