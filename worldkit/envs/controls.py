"""What steers a dream: actions of an environment as what the model is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ..errors import ConfigError


@dataclass(frozen=True)
class Controls:
    """An action space, and who hears of its actions.

    Attributes:
        space: Of one environment.
        field: Condition that is given the actions; None: another one, or nobody.
        latent: Actions are the model's latent actions, ``[N or 1, A]``, or the numbers of their codes.
    """

    space: spaces.Space
    field: str | None = None
    latent: bool = False

    def tell(self, actions: np.ndarray, device: torch.device) -> tuple[dict[str, Tensor], Tensor | None]:
        """Actions ``[B, ...]`` -> (conditions of one transition, latent actions ``[B, 1, N or 1, A]`` or None).

        Raises:
            ConfigError: they are no actions of the space's shape, not finite, or not one of its choices.
        """
        self._check(actions)
        if self.latent and isinstance(self.space, spaces.Discrete):
            numbers = np.asarray(actions, np.int64).reshape(len(actions), 1, 1, 1)
            return {}, torch.as_tensor(numbers, device=device)
        if self.latent:
            return {}, torch.as_tensor(np.asarray(actions, np.float32), device=device)[:, None]
        if self.field is None:
            return {}, None
        if isinstance(self.space, spaces.Discrete):
            numbers = np.asarray(actions, np.int64) - int(self.space.start)
            return {self.field: torch.as_tensor(numbers, device=device)[:, None]}, None
        vectors = np.asarray(actions, np.float32).reshape(len(actions), 1, -1)
        return {self.field: torch.as_tensor(vectors, device=device)}, None

    def _check(self, actions: np.ndarray) -> None:
        try:
            numbers = np.asarray(actions, np.float64)
        except (TypeError, ValueError):
            numbers = np.zeros((1, 0))
        if numbers.shape[1:] != (self.space.shape or ()):
            raise ConfigError(f"an action of this environment is one of {self.space}, got {np.asarray(actions)[0]!r}")
        if not np.isfinite(numbers).all():
            raise ConfigError(f"an action must be finite, got {numbers.tolist()}")
        if isinstance(self.space, spaces.Discrete):
            if (numbers < self.space.start).any() or (numbers >= self.space.start + self.space.n).any():
                raise ConfigError(f"an action of this environment is one of {self.space}, got {numbers.tolist()}")


def controls_of(model: Any, actions: str, space: spaces.Space | None) -> Controls:
    """How a model is steered; the space of latent actions is that of `Imagination`, which sees one.

    Args:
        model: A composed world model.
        actions: ``"auto"``, ``"latent"``, ``"none"``, or the name of a condition.
        space: Action space of the environment that the model knows; None: as wide as the model's, from -1 to 1.
    Raises:
        ConfigError: the model has nothing of the kind, or its actions are not those of the space.
    """
    steering = {name: c.config for name, c in model.conditioners.items() if hasattr(c.config, "num_actions")}
    if actions == "auto":
        actions = next(iter(steering), "latent" if model.latent_action is not None else "none")
    if actions in steering:
        return Controls(_space(actions, steering[actions], space), field=actions)
    ways = ["none", *steering, *(["latent"] if model.latent_action is not None else [])]
    if actions not in ways:
        raise ConfigError(f"actions={actions!r}: this model can be steered by {', '.join(map(repr, ways))}, and 'auto' "
                          "takes the last")
    if space is not None:
        raise ConfigError(f"action_space= is the space of a condition's actions, and actions={actions!r} is none: "
                          "leave it out")
    return Controls(spaces.Discrete(1), latent=actions == "latent")


def _space(name: str, config: Any, given: spaces.Space | None) -> spaces.Space:
    """The space of a condition's actions, checked against the one that is given."""
    if config.num_actions is not None:
        own: spaces.Space = spaces.Discrete(config.num_actions)
        fits = isinstance(given, spaces.Discrete) and int(given.n) == config.num_actions
    else:
        own = spaces.Box(-1.0, 1.0, (config.dim,), np.float32)
        fits = isinstance(given, spaces.Box) and int(np.prod(given.shape)) == config.dim
    if given is None or fits:
        return own if given is None else given
    discrete = config.num_actions is not None
    wants = f"{config.num_actions} discrete actions" if discrete else f"vectors of {config.dim} numbers"
    raise ConfigError(f"action_space is {given}, but this model was trained on {wants} ('{name}'): give the space of "
                      "the environment that its data come from")
