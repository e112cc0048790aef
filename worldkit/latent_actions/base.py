"""The latent-action contract: infer what happened between two frames, and guess what will happen next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from ..component import Component
from ..conditions import FORMS, Condition
from ..config import ComponentConfig
from ..distributions import Distribution, Sampler
from ..errors import ShapeError
from ..latents import Latent, LatentSpec


@dataclass(frozen=True)
class ActionDist:
    """Distribution of latent actions: ``params`` ``[B, T, N or 1, P]`` of a `Distribution` over ``dim`` numbers."""

    dist: Distribution
    params: Tensor

    def __getitem__(self, index: Any) -> ActionDist:
        return ActionDist(self.dist, self.params[index])

    def sample(self, sampler: Sampler, name: str) -> Tensor:
        """``[B, T, N or 1, dim]``."""
        return self.dist.sample(self.params, sampler, name)

    def kl(self, prior: ActionDist) -> Tensor:
        """Nats, ``[B, T, N or 1]``."""
        return self.dist.kl(self.params, prior.params)


class LatentAction(Component, ABC):
    """Inverse dynamics (posterior) and policy (prior) over latent actions.

    Index t of both concerns the transition from frame t to frame t + 1: the posterior of T frames has T - 1 entries,
    the prior T, its last one about the transition nobody has seen.

    Attributes:
        Config: The component's config class.
        requires: Properties of the latent it cannot do without, as `Dynamics.requires`.
        reads: ``"latent"``: what actions are inferred from is what the encoder saw. ``"video"``: the frames themselves;
            then `__init__` also takes ``obs=``, and `forward` and `start` take ``video=`` (float in [0, 1],
            ``[B, T, C, H, W]``; of `start` None if there is one frame, and so nothing to infer).
        choices: How many actions there are, if they are told by numbers: int64 ``[B, T, N or 1, 1]``. None: actions are
            vectors.
        takes: Forms of conditions it reads, as `Dynamics.takes`.
        gives: Forms of conditions that `condition` gives the dynamics: ``"frame"``, ``"token"``. None: not known before
            it runs.
        cond_dim: Width of the conditions it receives (actions, language, goals).
    """

    RETURNS = tuple
    WORDS = {"requires": ("grid", "tracked", "normal", "codes", "continuous"), "takes": frozenset(FORMS),
             "gives": frozenset(FORMS)}
    Config: ClassVar[type[ComponentConfig]]
    requires: ClassVar[frozenset[str]] = frozenset()
    reads: ClassVar[Literal["latent", "video"]] = "latent"
    choices: int | None = None
    takes: frozenset[str] | None = None
    gives: ClassVar[frozenset[str] | None] = None
    config: ComponentConfig
    spec: LatentSpec
    window: int
    memory_length: int
    cond_dim: int

    def __init__(self, config: ComponentConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
                 dynamics_dim: int, memory_length: int = 0):
        super().__init__()
        self.config, self.spec, self.window, self.memory_length = config, spec, window, memory_length

    @abstractmethod
    def forward(self, z: Latent, cond: Condition) -> tuple[ActionDist, ActionDist]:
        """(posterior of T - 1, prior of T) for T <= window + 1 frames; ``cond`` has one entry per frame.

        Those that read video also take ``video``, and must do without ``z`` (None while they are trained alone).
        """

    @property
    def count(self) -> int:
        """How many factors have an action each; 1: one for all, or one per particle, of which many are a thing."""
        return 1

    def edited(self, action: Tensor, factor: int, value: Tensor) -> Tensor:
        """The same actions, but for those of one factor.

        Args:
            action: ``[B, T, K, A]``, as `worldkit.ComposedWorldModel.infer_latent_actions` gives them.
            factor: Which, from 0.
            value: ``[A]``, ``[B, T, A]`` or anything that broadcasts to it.
        Raises:
            ShapeError: there is no such factor.
        """
        count = action.shape[2]
        if not 0 <= factor < count:
            raise ShapeError(f"there is no factor {factor} whose latent action could be edited: these are actions of "
                             f"{count} (0 to {count - 1})")
        action = action.clone()
        action[:, :, factor] = value.to(action)
        return action

    def losses(self, video: Tensor, posterior: ActionDist) -> dict[str, Tensor]:
        """What it learns by on its own, beside the dynamics: ``[B, T - 1]`` each, entry t about transition t -> t + 1.

        Args:
            video: Frames, as in `reads`.
            posterior: What `forward` gave for them.
        """
        return {}

    def summary(self, posterior: ActionDist) -> dict[str, Tensor]:
        """Numbers worth a line in the log, about what `forward` found."""
        return {}

    @abstractmethod
    def condition(self, action: Tensor) -> Condition:
        """What latent actions ``[B, T, N or 1, dim]`` tell the dynamics."""

    @abstractmethod
    def start(self, z: Latent, cond: Condition, *, streaming: bool = False) -> tuple[ActionDist, Any]:
        """(posterior of the T - 1 transitions inside ``z``, state to go on from); any number of frames."""

    @abstractmethod
    def next(self, carry: Any) -> ActionDist:
        """Prior of the transition that leaves the newest frame, ``[B, 1, N or 1, P]``."""

    @abstractmethod
    def observe(self, carry: Any, z: Latent, cond: Condition) -> None:
        """Tell the state about one more frame ``[B, 1]``; ``cond`` is that frame's entry."""

    @abstractmethod
    def embed(self, z: Latent) -> Tensor:
        """Tokens ``[B, T, N, D]`` of a goal as this module sees latents, but without view embeddings (as upstream)."""
