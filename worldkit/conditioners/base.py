"""The conditioner contract: raw actions, language or goals -> `Condition`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from ..conditions import Condition
from ..config import ComponentConfig, ObsSpec
from ..latents import Latent


class ConditionerConfig(ComponentConfig):
    """Base of conditioner configs.

    Attributes:
        to: Who receives the condition. ``"auto"``: the latent action if the model has one, else the dynamics.
    """

    to: Literal["auto", "latent_action", "dynamics", "both"] = "auto"


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


class Conditioner(nn.Module, ABC):
    """Raw condition -> `Condition` in width ``dim``.

    Attributes:
        per_frame: True if the raw value has a time axis.
        takes_mask: True if a mask may say where the condition is absent.
    """

    Config: ClassVar[type[ConditionerConfig]]
    per_frame: ClassVar[bool] = False
    takes_mask: bool = False

    def __init__(self, config: ConditionerConfig, *, dim: int, obs: ObsSpec):
        super().__init__()
        self.config, self.dim, self.obs = config, dim, obs

    @classmethod
    def memory_tokens(cls, config: ConditionerConfig) -> int:
        """Tokens that conditioners of this config add to `Condition.memory`."""
        return 0

    @abstractmethod
    def check(self, raw: Tensor, *, name: str) -> None:
        """Raise `ShapeError` if the raw value does not fit the config; ``name`` is the batch field."""

    @abstractmethod
    def forward(self, raw: Tensor, mask: Tensor | None, *, view: ModelView) -> Condition:
        """Condition for all transitions. ``mask`` is True where the condition is given."""
