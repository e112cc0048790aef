"""Configurations: frozen pydantic models, an open union over registered components, one merge rule for all overrides.

A component's config holds hyper-parameters only. Wiring (latent spec, observation size, widths of neighbours) is passed
to constructors by the factory and never appears here; devices, paths and batch sizes belong to `TrainConfig`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, WrapValidator, model_validator
from pydantic_core import PydanticCustomError, PydanticSerializationError

from . import registry as registries
from .errors import ConfigError, WorldkitError
from .names import NOT_CONDITIONS, TargetColumn, VectorColumn, check_name
from .registry import Registry, suggestion

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Base of every configuration: frozen, and strict about unknown options."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_options(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            known = [field.alias or name for name, field in cls.model_fields.items()]
            for key in data:
                if key not in known:
                    raise PydanticCustomError(
                        "unknown_option",
                        "unknown option '{key}'.{hint} Options: {options}",
                        {"key": str(key), "hint": suggestion(str(key), known), "options": ", ".join(known)},
                    )
        return data

    @classmethod
    def parse(cls: type[C], data: Mapping[str, Any]) -> C:
        """Validate a nested dict.

        Raises:
            ConfigError: one line per problem with its dotted path, and a suggestion for misspelt options.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(_explain(error, cls.__name__)) from None

    def replace(self: C, path: str, value: Any) -> C:
        """A copy with one option changed; same rules as every other override.

        Example:
            >>> ObsSpec(height=64, width=64).replace("height", 128).height
            128
        """
        return type(self).parse(merge(self.to_dict(), nest({path: value})))

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dict; `parse` is its inverse.

        Raises:
            ConfigError: an option holds what JSON has no word for.
        """
        try:
            return _keep_none(self, self.model_dump(mode="json", exclude_none=True, by_alias=True))
        except PydanticSerializationError as error:
            raise ConfigError(
                f"{type(self).__name__} cannot be stored: {error}. Options are numbers, texts, truth values, lists, "
                "and tables of these"
            ) from None

    def to_json(self) -> str:
        """Readable JSON of `to_dict`."""
        return json.dumps(self.to_dict(), indent=2)


def _keep_none(value: Any, stored: Any) -> Any:
    """A stored config with the options that are None although that is not their default: they would come back as it."""
    if isinstance(value, BaseModel):
        for name, option in type(value).model_fields.items():
            key = option.serialization_alias or name
            if getattr(value, name) is not None:
                _keep_none(getattr(value, name), stored[key])
            elif option.default is not None:  # another default, or none at all
                stored[key] = None
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            _keep_none(entry, stored.get(key))
    elif isinstance(value, (list, tuple)):
        for entry, part in zip(value, stored, strict=True):
            _keep_none(entry, part)
    return stored


class ComponentConfig(Config):
    """Base of component configs; ``name`` is the registered name."""

    name: str


def _explain(error: ValidationError, what: str) -> str:
    lines = []
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"] if not str(part).startswith("function-"))
        said = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing":
            said = f"it must be said; on the command line -o {path}=..."
        lines.append(f"  {path + ': ' if path else ''}{said}")
    return f"invalid {what}:\n" + "\n".join(lines)


def Choice(registry: Registry) -> Any:  # noqa: N802 - reads as a type
    """An open discriminated union: any registered component's config, chosen by its ``name``.

    Accepts a name, a dict with a name, or a config object; dumps the config in full.
    """

    def validate(value: Any, handler: Any) -> ComponentConfig:
        if isinstance(value, ComponentConfig):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping) or "name" not in value:
            raise PydanticCustomError(
                "no_component_name", "a {kind} is given by its name or by a table with a name, got {value}",
                {"kind": registry.kind, "value": repr(value)},
            )
        try:
            name = registry.resolve(value["name"])
            component = registry.get(name)
            options = getattr(component, "Config", None)
            if not (isinstance(options, type) and issubclass(options, ComponentConfig)):
                raise ConfigError(
                    f"{registry.kind} '{name}' has no options that can be read: give its class an attribute Config, a "
                    "subclass of worldkit.config.ComponentConfig"
                )
        except WorldkitError as error:
            raise PydanticCustomError("unknown_component", "{message}", {"message": str(error)}) from error
        return component.Config.model_validate({**value, "name": name})

    return Annotated[SerializeAsAny[ComponentConfig], WrapValidator(validate)]


class ObsSpec(Config):
    """What a model sees: a picture, vectors beside it (proprioception), or vectors alone.

    Without a picture height and width are 0, and video is empty: ``[B, T, C, 0, 0]``.

    Attributes:
        height, width: Pixels; 0: no picture.
        channels: Colour channels.
        views: Camera views per time step.
        vectors: Name -> width of what is observed beside the video, ``Batch.vectors[name]`` float ``[B, T, width]``.
        discrete: Name -> number of classes of single whole numbers beside the video, int64 ``[B, T]``; -1: missing.
        columns: Vector -> column of the data that it is fed from, where that has another name.
    Example:
        >>> ObsSpec(vectors={"position": 3, "velocity": 2}, discrete={"door": 2}).widths
        {'door': 2, 'position': 3, 'velocity': 2}
    """

    height: int = Field(default=0, ge=0)
    width: int = Field(default=0, ge=0)
    channels: int = Field(default=3, gt=0)
    views: int = Field(default=1, gt=0)
    vectors: dict[str, Annotated[int, Field(gt=0)]] = {}
    discrete: dict[str, Annotated[int, Field(gt=1)]] = {}
    columns: dict[str, str] = {}

    @model_validator(mode="after")
    def _check(self) -> ObsSpec:
        if bool(self.height) != bool(self.width):
            raise ValueError(f"height {self.height} and width {self.width} must both be pixels, or both 0 (no picture)")
        if not self.height and not self.widths:
            raise ValueError("nothing is observed: give height and width of a picture, or vectors "
                             "(obs.vectors.NAME=WIDTH)")
        for name in [*self.vectors, *self.discrete]:
            check_name(name, "a vector")
            if name in ("image", "video"):
                raise ValueError(f"a vector cannot be called '{name}', which is the picture; obs.columns.NAME={name} "
                                 "feeds one from the column of this name")
        for name in self.columns:
            if name not in self.widths:
                raise ValueError(f"columns.{name} names no vector; there are: {', '.join(self.widths) or 'none'}")
        if twice := self.vectors.keys() & self.discrete.keys():
            raise ValueError(f"'{min(twice)}' is among vectors and among discrete; it can only be one of them")
        return self

    @property
    def widths(self) -> dict[str, int]:
        """Numbers that a network sees of every vector (of discrete ones their classes), in order of their names."""
        return dict(sorted({**self.vectors, **self.discrete}.items()))

    @property
    def fed_from(self) -> dict[str, str]:
        """Vector -> column of the data."""
        return {name: self.columns.get(name, name) for name in self.widths}


class WorldModelConfig(Config):
    """A whole world model.

    Attributes:
        format_version: Version of this schema, stored with checkpoints.
        obs: Image size, channels and views, and vectors beside the image.
        timestep_horizon: Frames the dynamics sees at most; see `clip_length`. 1 without a dynamics: single images.
        encoder, decoder, dynamics, latent_action, prior, objective: Components, by registered name.
        conditioners: Batch field -> conditioner: ``{"action": {"name": "action", "dim": 7}}``.
        heads: Target -> head: ``{"reward": {"name": "two-hot"}, "terminated": {"name": "bernoulli"}}``.
    """

    COMPONENTS: ClassVar[dict[str, Registry]] = {
        "encoder": registries.encoders,
        "decoder": registries.decoders,
        "dynamics": registries.dynamics,
        "latent_action": registries.latent_actions,
        "prior": registries.priors,
        "objective": registries.objectives,
    }

    format_version: int = 1
    family: str = "composed"
    obs: ObsSpec
    timestep_horizon: int = Field(default=20, ge=1)
    encoder: Choice(registries.encoders)  # type: ignore[valid-type]
    decoder: Choice(registries.decoders) | None = None  # type: ignore[valid-type]
    dynamics: Choice(registries.dynamics) | None = None  # type: ignore[valid-type]
    latent_action: Choice(registries.latent_actions) | None = None  # type: ignore[valid-type]
    prior: Choice(registries.priors) | None = None  # type: ignore[valid-type]
    conditioners: dict[str, Choice(registries.conditioners)] = {}  # type: ignore[valid-type]
    heads: dict[str, Choice(registries.heads)] = {}  # type: ignore[valid-type]
    objective: Choice(registries.objectives)  # type: ignore[valid-type]

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, data: Any) -> Any:
        kinds = {"conditioners": "a condition", "heads": "a head"} if isinstance(data, Mapping) else {}
        given = [(kind, *entry) for kind in kinds if isinstance(data.get(kind), Mapping)
                 for entry in data[kind].items()]
        for kind, name, value in given:
            if kind == "conditioners" and name in NOT_CONDITIONS:
                raise ValueError(
                    f"a condition cannot be called '{name}': clips have something else under this name. Call it "
                    f"otherwise{'; conditioners.proprio.from=state feeds it from there' if name == 'state' else ''}"
                )
            for inner, options in value.items() if isinstance(value, Mapping) and "name" not in value else ():
                if isinstance(options, Mapping) and "name" in options:  # what nesting made of {"pose.x": ...}
                    check_name(f"{name}.{inner}", kinds[kind])
            check_name(name, kinds[kind])
        return data

    @classmethod
    def parse(cls: type[C], data: Mapping[str, Any]) -> C:
        """As `Config.parse`; of a family with a configuration of its own, that."""
        family = data.get("family", "composed") if isinstance(data, Mapping) else "composed"
        if cls is WorldModelConfig and family != "composed" and family in registries.models:
            own = getattr(registries.models.get(family), "Config", cls)
            if own is not cls:
                return own.parse(data)
        return super().parse(data)

    @property
    def columns(self) -> dict[str, str]:
        """Condition -> entry of the data that it is fed from; see `worldkit.conditioners.base.ConditionerConfig`."""
        return {name: getattr(c, "column", None) or name for name, c in self.conditioners.items()}

    @property
    def targets(self) -> dict[str, TargetColumn]:
        """Target -> column of the data that its head learns; see `worldkit.heads.base.HeadConfig`."""
        return {name: TargetColumn(getattr(h, "column", None), getattr(h, "reached", None))
                for name, h in self.heads.items()}

    @property
    def vectors(self) -> dict[str, VectorColumn]:
        """Vector beside the video -> column of the data that it is fed from; see `ObsSpec`."""
        obs = self.obs
        return {name: VectorColumn(column, obs.vectors.get(name), obs.discrete.get(name))
                for name, column in obs.fed_from.items()}

    @property
    def clip_length(self) -> int:
        """Frames of a training clip.

        As many as the objective asks for (its option ``num_frames``), or the prior that it trains; else one more than
        the dynamics sees, or the horizon if there is no dynamics.
        """
        asked = getattr(self.objective, "num_frames", None)
        if self.prior is not None and "prior" in registries.objectives.get(self.objective.name).requires:
            asked = self.prior.frames
        return asked or self.timestep_horizon + (self.dynamics is not None)


def option_paths(config: Config) -> list[str]:
    """Dotted paths of all options of a configuration, those of its parts included.

    Example:
        >>> option_paths(ObsSpec(height=64, width=64))
        ['height', 'width', 'channels', 'views', 'vectors', 'discrete', 'columns']
    """
    found: list[str] = []
    for name in type(config).model_fields:
        value = getattr(config, name)
        inner = value if isinstance(value, Mapping) else {"": value}
        parts = {f"{name}.{key}".rstrip("."): part for key, part in inner.items() if isinstance(part, Config)}
        found += [f"{path}.{option}" for path, part in parts.items() for option in option_paths(part)] or [name]
    return found


def differences(here: Any, there: Any, path: str) -> list[str]:
    """What differs between two configurations given as nested dicts.

    Args:
        here, there: Tables of options, single options, or None for what is missing.
        path: What they are called; ``""`` for whole models.
    Returns:
        A line for every option that differs; one for a whole part if it is another component, or missing.
    Example:
        >>> differences({"lr": 1, "steps": 2}, {"lr": 3, "steps": 2}, "train")
        ['train.lr is 3 there, 1 here']
    """
    both = isinstance(here, Mapping) and isinstance(there, Mapping)
    if both and here.get("name") == there.get("name"):
        return [line for key in sorted(here.keys() | there.keys())
                for line in differences(here.get(key), there.get(key), f"{path}.{key}".lstrip("."))]
    if here == there:
        return []
    here, there = (x.get("name") if isinstance(x, Mapping) else x for x in (here, there))
    return [f"{path} is {there!r} there, {here!r} here"]


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """``{"dynamics.num_layers": 4}`` or ``{"dynamics__num_layers": 4}`` -> ``{"dynamics": {"num_layers": 4}}``.

    Example:
        >>> nest({"a__b": 1, "a.c": 2})
        {'a': {'b': 1, 'c': 2}}
    """
    result: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.replace("__", ".").split(".")
        value = nest(value) if isinstance(value, Mapping) else value
        for parent in reversed(parents):
            leaf, value = parent, {leaf: value}
        result[leaf] = _join(result[leaf], value) if leaf in result else value
    return result


def _join(first: Any, second: Any) -> Any:
    """Two overrides of one key: tables unite, a component's bare name joins the options given beside it."""
    if isinstance(first, str) and isinstance(second, Mapping):
        first = {"name": first}
    elif isinstance(first, Mapping) and isinstance(second, str):
        second = {"name": second}
    if not isinstance(first, Mapping) or not isinstance(second, Mapping):
        return second
    both = {key: _join(first[key], second[key]) for key in first.keys() & second.keys()}
    return {**first, **second, **both}


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Override a nested dict.

    Dicts merge key by key; ``None`` removes a key; a component whose ``name`` changes is REPLACED, so that no option
    of the old component leaks into the new one; the same or no name merges.

    Example:
        >>> merge({"dynamics": {"name": "pint", "num_layers": 6}}, {"dynamics": "gru"})
        {'dynamics': {'name': 'gru'}}
    """
    result = dict(base)
    for key, value in overrides.items():
        old = result.get(key)
        if isinstance(value, str) and isinstance(old, Mapping) and "name" in old:
            value = {"name": value}
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            same = isinstance(old, Mapping) and value.get("name", old.get("name")) == old.get("name")
            result[key] = merge(old if same else {}, value)
        else:
            result[key] = value
    return result


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Command-line overrides ``["dynamics.num_layers=4", "encoder=slot"]`` as a nested dict; values are JSON or text.

    Raises:
        ConfigError: for a text without ``=``.
    """
    flat: dict[str, Any] = {}
    for text in assignments:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise ConfigError(f"an override reads path=value, for example dynamics.num_layers=4; got '{text}'")
        try:
            flat[path.strip()] = json.loads(value)
        except json.JSONDecodeError:
            flat[path.strip()] = {"none": None, "true": True, "false": False}.get(value.strip().lower(), value.strip())
    return nest(flat)
