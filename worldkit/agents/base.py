"""The contracts: `Policy`, which acts, and `Agent`, a policy that is built from a configuration and can be saved.

What a policy remembers between frames is its carry. The caller keeps it, so one policy can act in many places at once::

    carry = policy.start(batch_size, goal=goals)
    while True:
        action, carry = policy.act(frame, carry, first=first, sampler=sampler)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from ..config import ComponentConfig
from ..distributions import Sampler
from ..errors import ConfigError
from ..model import WorldModel
from ..names import VectorColumn
from ..registry import Registry
from .actions import ActionSpec

if TYPE_CHECKING:
    from ..training.config import TrainConfig
    from .learner import Learner


class Policy(ABC):
    """Frames in, actions out, for ``B`` environments at once.

    Attributes:
        wants_goal: It acts towards a picture, which `start` must be given.
        action: What its actions are.
        eval_by_mode: It is scored without randomness (``Sampler(deterministic=True)``), as its paper does.
        wants_vectors: Vectors beside the frame, by name, that `act` must be given as ``vectors=``, ``[B, S]`` or, of
            classes, int64 ``[B]``; see `worldkit.agents.acting.vectors_of`. Of policies that have none ``act`` need
            not take that argument.
    """

    wants_goal: bool = False
    wants_vectors: Mapping[str, VectorColumn] = {}
    eval_by_mode: bool = False
    action: ActionSpec

    def explorer(self) -> Policy:
        """Who acts while experience is collected; by default it itself."""
        return self

    def ended(self, row: int, total: float, carry: Any) -> None:
        """Told of those who explore: an episode that they acted in is over.

        Args:
            row: Which of the environments.
            total: Its return.
            carry: As `act` gave it last.
        """
        return None

    @abstractmethod
    def start(self, batch_size: int, *, goal: Tensor | None = None) -> Any:
        """What it remembers before the first frame.

        Args:
            batch_size: Environments.
            goal: Pictures of what is to be reached, ``[B, C, H, W]``, uint8 or float in [0, 1].
        """

    @abstractmethod
    def act(self, frame: Tensor, carry: Any, *, first: Tensor, sampler: Sampler) -> tuple[Tensor, Any]:
        """Act on the newest frames.

        Args:
            frame: ``[B, C, H, W]``, uint8 or float in [0, 1].
            carry: As `start` or the last `act` gave it.
            first: ``[B]`` bool: the frame begins an episode, nothing before it counts.
            sampler: Where randomness comes from.
        Returns:
            Actions in the environment's units, float ``[B, A]`` or int64 ``[B]``, and what is remembered now.
        """


class Agent(Policy, nn.Module):
    """A policy with a configuration; `worldkit.agents.save_agent` writes it as a folder, `load_agent` reads it.

    Its own weights are those of its submodules. The world model it acts through, if any, is not one of them: it
    has a folder of its own, comes trained and stays frozen, unless both are trained together (`trains_model`).

    Args:
        config: Options.
        action: The actions it gives.
        frame_shape: ``(C, H, W)`` of the frames it sees.
        model: The world model, for those that have one.
        environment: Where it was trained to act, if that is known.
    Attributes:
        Config: Its options' class.
        needs_model: Whether it acts through a world model.
        trains: Whether it has weights of its own.
        trains_model: Whether it and its model are trained together, by acting: the model is not frozen then.
    """

    Config: ClassVar[type[ComponentConfig]]
    needs_model: ClassVar[bool] = False
    trains: ClassVar[bool] = True
    trains_model: ClassVar[bool] = False

    def __init__(self, config: ComponentConfig, *, action: ActionSpec, frame_shape: tuple[int, int, int],
                 model: WorldModel | None = None, environment: str | None = None):
        super().__init__()
        if self.needs_model != (model is not None):
            raise ConfigError(f"agent '{config.name}' {'needs' if self.needs_model else 'has'} "
                              f"{'a' if self.needs_model else 'no'} world model: "
                              + ("give model=..." if self.needs_model else "leave model= out"))
        self.config, self.action, self.frame_shape, self.environment = config, action, tuple(frame_shape), environment
        if model is not None and not self.trains_model:
            model.requires_grad_(False)
        self._model = [] if model is None else [model.eval()]  # in a list: no submodule

    @property
    def model(self) -> Any:
        """The world model."""
        return self._model[0]

    @property
    def wants_vectors(self) -> Mapping[str, VectorColumn]:  # type: ignore[override]
        """Those that its world model reads."""
        return self.model.config.vectors if self._model and self.model.encoder.reads_vectors else {}

    def loss(self, batch: Any) -> Tensor:
        """What training minimises, of a `worldkit.Batch` with ``"action"`` and ``"goal_image"``; one number."""
        raise ConfigError(f"agent '{self.config.name}' has no weights that could be trained")

    def learner(self, config: TrainConfig) -> Learner:
        """Who trains it, and its world model, on what it collects; by default the model alone, for one that plans.

        Args:
            config: Learning rate and the like; agents that say in their own options how they are optimised ignore that.
        Raises:
            ConfigError: there is no model.
        """
        from .learner import ModelLearner

        if not self.needs_model:
            raise ConfigError(f"agent '{self.config.name}' has no world model that could be trained by acting: "
                              "worldkit imitate trains it on recorded episodes")
        self.model.requires_grad_(True).freeze()
        return ModelLearner(self.model, config)

    def clip_length(self) -> int:
        """Frames of a training clip."""
        return 2

    def check_frame(self, frame: Tensor, what: str = "frame") -> None:
        """Refuse frames of another size than it was made for.

        Raises:
            ConfigError: saying how to make the environment.
        """
        if tuple(frame.shape[1:]) != self.frame_shape:
            _, h, w = self.frame_shape
            raise ConfigError(
                f"agent '{self.config.name}' sees frames {list(self.frame_shape)}, this {what} is "
                f"{list(frame.shape[1:])}: make the environment with size={h if h == w else (h, w)}")


agents: Registry[type[Agent]] = Registry("agent", builtins="worldkit.agents.builtin")


def register_agent(name: str, agent: Any = None, **options: Any) -> Any:
    """Register an agent's class, as a decorator or directly; see `worldkit.registry.Registry.register`."""
    return agents.register(name, agent, **options)


def list_agents(pattern: str = "*") -> list[str]:
    """Names of the agents that `create_agent` makes.

    Example:
        >>> "cloning" in list_agents()
        True
    """
    return agents.names(pattern)
