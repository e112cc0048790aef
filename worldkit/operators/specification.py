"""`OperatorSpec`: what was done to raw frames and actions before a model saw them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from ..config import Config, WorldModelConfig
from ..errors import ConfigError


class ActionRule(Config):
    """Actions as the model is told them: as in the data that it was trained on, in their units.

    Attributes:
        dim: Numbers of an action; None: choices.
        num_actions: Choices, numbered from 0; None: numbers.
        low, high: Smallest and largest value of every number in the training data; empty: not known.
        mean, std: Their mean and standard deviation, likewise.
    Example:
        >>> ActionRule(dim=2, low=(-1, -1), high=(1, 1)).high
        (1.0, 1.0)
    """

    dim: int | None = Field(default=None, gt=0)
    num_actions: int | None = Field(default=None, gt=0)
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> ActionRule:
        if (self.dim is None) == (self.num_actions is None):
            raise ValueError("an action has either dim (numbers) or num_actions (choices)")
        for name in ("low", "high", "mean", "std"):
            if (found := getattr(self, name)) and len(found) != self.dim:
                raise ValueError(f"{name} has {len(found)} numbers, an action has {self.dim or 'none'}")
        if bool(self.low) != bool(self.high) or any(a > b for a, b in zip(self.low, self.high, strict=True)):
            raise ValueError("low and high are given together, and low is not above high")
        return self


class LanguageRule(Config):
    """Language as the model is told it: embeddings of tokens.

    Attributes:
        embed_dim: Width of an embedding.
        max_length: Tokens of an instruction; shorter ones are padded.
        model: The T5 encoder that makes them of a text; None: embeddings only.
        masked: The model is told which tokens are padding; otherwise it attends to them.
    """

    embed_dim: int = Field(gt=0)
    max_length: int = Field(gt=0)
    model: str | None = None
    masked: bool = False


class OperatorSpec(Config):
    """What becomes of raw frames and actions before a model sees them.

    Attributes:
        format_version: Of this schema.
        height, width, channels: Of the frames that the model sees; height 0: none, vectors alone.
        resize: What becomes of frames of another shape (`worldkit.pictures`): ``"pad"``, ``"stretch"``, ``"crop"``.
        views: Cameras.
        cameras: Their names, in the order that the model knows; empty: not known.
        frame_rate: Frames per second that the model sees; None: not known.
        frame_skip: Of the recordings every n-th frame was shown; ``frame_rate`` counts those.
        actions, languages: Condition -> rule.
        goals: Conditions that are pictures.
        vectors: What is observed beside the frames: name -> numbers.
        discrete: Likewise, single classes: name -> how many.
        recorded: Training noted it. Otherwise it is what the configuration tells, with ``"pad"``.
    Example:
        >>> import worldkit as wk
        >>> spec = OperatorSpec.of_config(wk.create_config("lpwm-push-mini"))
        >>> spec.height, spec.actions["action"].dim, spec.recorded
        (32, 2, False)
    """

    format_version: int = 1
    height: int = Field(ge=0)
    width: int = Field(ge=0)
    channels: int = Field(default=3, gt=0)
    resize: Literal["pad", "stretch", "crop"] = "pad"
    views: int = Field(default=1, gt=0)
    cameras: tuple[str, ...] = ()
    frame_rate: float | None = Field(default=None, gt=0)
    frame_skip: int = Field(default=1, gt=0)
    actions: dict[str, ActionRule] = {}
    languages: dict[str, LanguageRule] = {}
    goals: tuple[str, ...] = ()
    vectors: dict[str, int] = {}
    discrete: dict[str, int] = {}
    recorded: bool = False

    @model_validator(mode="after")
    def _check(self) -> OperatorSpec:
        if self.format_version != 1:
            raise ValueError(f"format_version is {self.format_version}, this worldkit reads 1: update it")
        if self.cameras and len(self.cameras) != self.views:
            raise ValueError(f"{len(self.cameras)} camera(s) are named ({', '.join(self.cameras)}), the model has "
                             f"{self.views} view(s)")
        return self

    @classmethod
    def of_config(cls, config: WorldModelConfig, *, statistics: dict[str, dict[str, Any]] | None = None,
                  **known: Any) -> OperatorSpec:
        """What a configuration tells, and what else is known.

        Args:
            config: Of the model.
            statistics: Condition -> ``min``, ``max``, ``mean`` and ``std`` of its actions.
            **known: ``resize``, ``cameras``, ``frame_rate``, ``frame_skip``, ``recorded``.
        """
        obs, actions, languages, goals = config.obs, {}, {}, []
        for name, options in config.conditioners.items():
            dim, choices = getattr(options, "dim", None), getattr(options, "num_actions", None)
            if hasattr(options, "embed_dim"):
                languages[name] = {"embed_dim": options.embed_dim, "max_length": options.max_length,
                                   "model": options.model, "masked": options.null_embedding}
            elif dim or choices:
                found = (statistics or {}).get(name, {})
                found = found if len(found.get("min", ())) == dim else {}  # those of another column say nothing
                told = {ours: found[theirs] for ours, theirs in (("low", "min"), ("high", "max"), ("mean", "mean"),
                                                                 ("std", "std")) if theirs in found}
                actions[name] = {"num_actions": choices} if choices else {"dim": dim, **told}
            elif options.name == "goal-image":
                goals.append(name)
        return cls.parse({
            "height": obs.height, "width": obs.width, "channels": obs.channels, "views": obs.views,
            "actions": actions, "languages": languages, "goals": goals, "vectors": dict(obs.vectors),
            "discrete": dict(obs.discrete), **known,
        })

    def check_fits(self, config: WorldModelConfig) -> None:
        """Refuse a specification of another model.

        Raises:
            ConfigError: naming what differs.
        """
        own = type(self).of_config(config)
        for name in ("height", "width", "channels", "views", "vectors", "discrete"):
            if getattr(self, name) != getattr(own, name):
                raise ConfigError(f"the operator's {name} is {getattr(self, name)}, the model's {getattr(own, name)}: "
                                  "they belong to different models")
        given = {name: (rule.dim, rule.num_actions) for name, rule in self.actions.items()}
        wanted = {name: (rule.dim, rule.num_actions) for name, rule in own.actions.items()}
        if given != wanted or self.languages.keys() != own.languages.keys() or set(self.goals) != set(own.goals):
            raise ConfigError(f"the operator knows the conditions {sorted({*given, *self.languages, *self.goals})}, "
                              f"the model takes {sorted(config.conditioners)}, or their widths differ: they belong to "
                              "different models")
