"""The conditioner contract: raw actions, language or goals -> `Condition`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..component import Component
from ..conditions import FORMS, Condition
from ..config import ComponentConfig, ObsSpec
from ..distributions import Sampler
from ..errors import IncompatibleComponentsError, ShapeError
from ..latents import Latent


class ConditionerConfig(ComponentConfig):
    """Base of conditioner configs.

    Attributes:
        to: Who receives the condition. ``"auto"``: the latent action if the model has one, else the dynamics.
        column: Entry of the data that feeds it, an option called ``from``: ``"action"``, or a column of the state, as
            ``"proprio"``. Default: the entry of the condition's own name.
        dropout: Probability in [0, 1) of hiding the condition of a whole clip in training, so that the model learns to
            do without, too. What stands in for it is the null embedding, which must be switched on.

    One that gives numbers as they are says how many in an attribute ``given_width``; a dynamics that leaves its own
    width open (``cond_dim=None``) is built for as many.
    """

    to: Literal["auto", "latent_action", "dynamics", "both"] = "auto"
    column: str | None = Field(default=None, alias="from", min_length=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _dropout_needs_a_stand_in(self) -> ConditionerConfig:
        if self.dropout > 0 and not getattr(self, "null_embedding", False):
            raise ValueError("dropout hides conditions behind a null embedding; set null_embedding=True")
        return self

    def complete(self, episodes: Iterable[np.ndarray]) -> ConditionerConfig:
        """The config with what the training data tell, where it was not given; training calls it before it builds.

        Args:
            episodes: What feeds the conditioner, one array per episode, read when it is asked for.
        """
        return self


@dataclass(frozen=True)
class ModelView:
    """The narrow part of a model that conditioners may use.

    Attributes:
        encode: Video ``[B, (V,) T, C, H, W]`` -> latent of means.
        embed: Latent -> tokens ``[B, T, N, D]`` as the receiver of the condition embeds its own.
        spread: One vector per view ``[B, V, T, D]`` -> one per token of that view, ``[B, T, N, D]``.
    """

    encode: Callable[[Tensor], Latent]
    embed: Callable[[Latent], Tensor]
    spread: Callable[[Tensor], Tensor]


class Conditioner(Component, ABC):
    """Raw condition -> `Condition` in width ``dim``.

    Attributes:
        per_frame: True if the raw value has a time axis.
        time_axis: Which axis that is, counted from the end.
        takes_mask: True if a mask may say where the condition is absent.
        gives: Forms of conditions it gives: ``"frame"``, ``"token"``, ``"memory"``; a receiver that does not read one
            of them is refused when the model is built. None: not known before it runs (`memory_tokens` apart).
        embeds: True if it uses `ModelView.embed`; a receiver that embeds no latents is refused.
    """

    RETURNS = Condition
    WORDS = {"gives": frozenset(FORMS)}
    Config: ClassVar[type[ConditionerConfig]]
    gives: ClassVar[frozenset[str] | None] = None
    embeds: ClassVar[bool] = False
    per_frame: ClassVar[bool] = False
    time_axis: int = -2
    takes_mask: bool = False
    config: ConditionerConfig
    dim: int
    obs: ObsSpec

    def __init__(self, config: ConditionerConfig, *, dim: int, obs: ObsSpec):
        super().__init__()
        self.config, self.dim, self.obs = config, dim, obs

    @classmethod
    def memory_tokens(cls, config: ConditionerConfig) -> int:
        """Tokens that conditioners of this config add to `Condition.memory`."""
        return 0

    @abstractmethod
    def check(self, raw: Any, *, name: str) -> None:
        """Raise `ShapeError` if the raw value does not fit the config; ``name`` is the batch field."""

    def mask_shapes(self, raw: Any) -> list[tuple[int, ...]]:
        """Shapes a mask may have: one entry per clip, or, with a time axis, one per vector."""
        shapes: list[tuple[int, ...]] = [(len(raw),)]
        return shapes + [tuple(raw.shape[: raw.ndim + self.axis(raw) + 1])] if self.per_frame else shapes

    def axis(self, raw: Tensor) -> int:
        """The time axis of a raw value, counted from the end: `time_axis`, unless values come in several forms."""
        return self.time_axis

    def check_mask(self, mask: Tensor, raw: Any, *, name: str) -> None:
        """Raise `ShapeError` if a mask is not bool or does not fit the raw value."""
        if not torch.is_tensor(mask) or mask.dtype != torch.bool:
            kind = mask.dtype if torch.is_tensor(mask) else type(mask).__name__
            raise ShapeError(f"the mask of condition '{name}' must be a bool tensor (True = given), got {kind}")
        shapes = self.mask_shapes(raw)
        if tuple(mask.shape) not in shapes:
            wanted = " or ".join(str(list(shape)) for shape in shapes)
            raise ShapeError(f"the mask of condition '{name}' must be {wanted}, got {list(mask.shape)}")

    def absent(self, batch: int, device: torch.device) -> Tensor:
        """A raw value with one entry, ``[batch, 1, ...]``, for a transition that is not there; a mask hides it.

        Only asked of conditioners with a time axis, by dynamics that filter.
        """
        raise IncompatibleComponentsError(f"{type(self).__name__} has no value for a transition that is not there")

    def hide_clips(self, raw: Any, mask: Tensor | None, sampler: Sampler, *, name: str) -> Tensor | None:
        """The mask with whole clips hidden as ``config.dropout`` asks; unchanged outside training."""
        if self.config.dropout == 0 or not self.training or sampler.deterministic:
            return mask
        tensors = [x for x in (*self.parameters(), *self.buffers(), raw) if torch.is_tensor(x)]
        like = torch.empty(len(raw), device=tensors[0].device if tensors else None)
        keep = sampler.uniform(f"conditioners.{name}.dropout", like) >= self.config.dropout
        return keep if mask is None else mask & keep.reshape(-1, *[1] * (mask.ndim - 1))

    @abstractmethod
    def forward(self, raw: Any, mask: Tensor | None, *, view: ModelView) -> Condition:
        """Condition for all transitions.

        Args:
            raw: What `check` has let pass.
            mask: True where the condition is given; ``[B]`` (whole clips) or another of `mask_shapes`.
            view: What may be used of the model.
        """


def stand_in(x: Tensor, mask: Tensor | None, null: Tensor | None) -> Tensor:
    """``x`` where the mask is True, the null embedding elsewhere, so that not even a NaN hidden there gets through.

    Args:
        x: ``[*mask axes, ..., D]``.
        mask: Bool; None = everything is given.
        null: ``[D]``.
    """
    if mask is None or null is None:
        return x
    return torch.where(mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim)), x, null.to(x.dtype))
