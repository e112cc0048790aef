"""Which models an ablation compares: swapped parts x changed options, each resolved to a full configuration.

A `Variant` is one row of the table. Its identity is its resolved configuration, not the words of the command: an alias,
or an option that is set to what it already is, gives the same variant, and a later command finds its cells again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..config import WorldModelConfig, nest, parse_assignments
from ..errors import ConfigError, WorldkitError
from ..factory import create_config
from ..registry import conditioners, heads, suggestion
from ..training import TrainConfig
from ..training.misplaced import refuse_misplaced
from ..training.recipes import train_config

PARTS = tuple(WorldModelConfig.COMPONENTS)
REMOVABLE = ("decoder", "dynamics", "latent_action", "prior", "conditioners.", "heads.")
FIELDS = {"conditioners": conditioners, "heads": heads}
DECIDED = {"train.steps": "--budget", "train.seconds": "--budget", "train.cpu_seconds": "--budget",
           "train.num_epochs": "--budget", "train.seed": "--seeds"}
"""Training options that the ablation decides -> by what."""


@dataclass(frozen=True)
class Variant:
    """One row: a model and its training options, or the reason why they do not exist.

    Attributes:
        values: Axis -> value, as it is in the resolved configuration where there is one.
        overrides: Model overrides, nested, for `create_model`.
        train: Training options on top of the preset's.
        config: The resolved model; None if there is none.
        error: Why there is no such model.
        baseline: Whether this is the unchanged preset.
    """

    values: dict[str, Any]
    overrides: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    config: WorldModelConfig | None = None
    error: str | None = None
    baseline: bool = False

    @property
    def label(self) -> str:
        """For people: ``encoder=slot, dynamics.num_layers=4``."""
        return ", ".join(f"{axis}={shown(value)}" for axis, value in self.values.items())

    def key(self, preset: str) -> str:
        """Short digest of everything that decides the numbers except budget, data, protocol and seed."""
        model = self.overrides if self.config is None else self.config.to_dict()
        training = {} if self.config is None else train_config(preset, self.train).to_dict()
        content = json.dumps([preset, model, training, self.values if self.error else None], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    def folder_name(self, preset: str) -> str:
        """Readable and unique: the label in safe letters, then `key`."""
        words = re.sub(r"[^A-Za-z0-9_=.,-]+", "", self.label.replace(", ", ","))[:60]
        return f"{words or 'model'}-{self.key(preset)}"


def shown(value: Any) -> str:
    """A value of an axis as it is typed on the command line."""
    if value is None:
        return "none"
    if isinstance(value, Mapping) and "name" in value:
        options = ", ".join(f"{k}={shown(v)}" for k, v in value.items() if k != "name")
        return f"{value['name']}({options})" if options else str(value["name"])
    return value if isinstance(value, str) else json.dumps(value)


def parse_axes(texts: Sequence[str], option: str) -> dict[str, list[Any]]:
    """``["dynamics.num_layers=2,4", "encoder.glimpse_cnn.channel_multipliers=[1,2],[1,4]"]`` -> axis -> values.

    Raises:
        ConfigError: for a text without ``=``, without values, or an axis that is given twice.
    Example:
        >>> parse_axes(["dynamics.num_layers=2,4", "train.max_grad_norm=none,1"], "--set")
        {'dynamics.num_layers': [2, 4], 'train.max_grad_norm': [None, 1]}
    """
    axes: dict[str, list[Any]] = {}
    for text in texts:
        axis, equals, values = text.partition("=")
        axis = axis.strip()
        if not equals or not axis or not all(v.strip() for v in _split(values)):
            example = "dynamics=pint,gru" if option == "--swap" else "dynamics.num_layers=2,4"
            raise ConfigError(f"{option} reads NAME=VALUE,VALUE,..., for example {example}; got '{text}'")
        if axis in axes:
            raise ConfigError(f"{option} {axis} is given twice; give its values together: {option} {axis}=A,B,...")
        axes[axis] = [parse_assignments([f"value={v}"])["value"] for v in _split(values)]
    return axes


def _split(text: str) -> list[str]:
    """Split at commas outside brackets and braces."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested overrides as dotted paths, the inverse of `worldkit.config.nest`.

    Example:
        >>> flatten({"dynamics": {"dim": 16}, "train__lr": 0.1})
        {'dynamics.dim': 16, 'train.lr': 0.1}
    """
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        path = prefix + key.replace("__", ".")
        flat |= flatten(value, f"{path}.") if isinstance(value, Mapping) and value else {path: value}
    return flat


def expand(
    preset: str, swaps: Mapping[str, Sequence[Any]], settings: Mapping[str, Sequence[Any]],
    common: Mapping[str, Any],
) -> list[Variant]:
    """Every combination, the unchanged preset first (added if it is not among them).

    Args:
        preset: Name of a preset.
        swaps: Part -> names (None removes the part; a dict with a name gives options).
        settings: Dotted option of the model, or ``train.OPTION`` -> values.
        common: Dotted overrides of all variants, the baseline included.
    Raises:
        ConfigError: an unknown part or option, or one that may not vary. A combination that does not exist although
            its parts and options do is a variant with an ``error`` instead.
        UnknownComponentError: an unknown component.
    """
    refuse_misplaced(common, preset)
    swaps, settings = _check_swaps(swaps, preset), _check_settings(settings, preset)
    if twice := [path for path in settings if path in swaps]:
        raise ConfigError(f"{twice[0]} is both swapped and set; give all its values to --swap")
    _refuse_decided(common, "an option common to all cells")
    axes = {**swaps, **settings}
    base = _variant(preset, {}, common, swaps)
    if base.error:
        raise ConfigError(f"the unchanged preset cannot be configured: {base.error}")
    found: dict[str, Variant] = {}
    for values in itertools.product(*axes.values()):
        variant = _variant(preset, dict(zip(axes, values, strict=True)), common, swaps)
        found.setdefault(variant.key(preset), variant)
    _refuse_options_of_nothing(settings, list(found.values()))
    start = found.pop(base.key(preset), base)
    values = {axis: start.values.get(axis, _value(base, axis, preset)) for axis in axes}
    first = Variant(values, base.overrides, base.train, base.config, baseline=True)
    return [first, *found.values()]


def _variant(preset: str, values: Mapping[str, Any], common: Mapping[str, Any], swaps: Mapping[str, Any]) -> Variant:
    values = dict(values)
    flat = {**common, **values}
    removed = [part for part in swaps if part in values and values[part] is None]
    lost = [path for path in values for part in removed if path.startswith(f"{part}.")]
    if lost:
        what = lost[0].rpartition(".")[0]
        return Variant(values, error=f"ConfigError: {lost[0]} cannot be set: there is no {what} in this combination")
    flat = {p: v for p, v in flat.items() if not any(p.startswith(f"{part}.") for part in removed)}
    training = {p.removeprefix("train."): v for p, v in flat.items() if p.startswith("train.")}
    overrides = nest({p: v for p, v in flat.items() if not p.startswith("train.")})
    try:
        config = create_config(preset, **overrides)
        train_config(preset, training)
    except WorldkitError as error:
        return Variant(values, overrides, training, error=f"{type(error).__name__}: {error}")
    return Variant(values, overrides, training, config)


def _value(variant: Variant, axis: str, preset: str) -> Any:
    """What the unchanged preset has on an axis."""
    if axis.startswith("train."):
        return train_config(preset, variant.train).to_dict().get(axis.removeprefix("train."))
    node: Any = variant.config.to_dict()  # type: ignore[union-attr]
    for key in axis.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node["name"] if isinstance(node, Mapping) and "name" in node else node


def _check_swaps(swaps: Mapping[str, Sequence[Any]], preset: str) -> dict[str, list[Any]]:
    checked = {}
    for part, names in swaps.items():
        kind, dot, _ = part.partition(".")
        registry = (FIELDS if dot else WorldModelConfig.COMPONENTS).get(kind)
        if registry is None:
            refuse_misplaced({part: f"{','.join(map(shown, names))}"}, preset, option="--set")
            known = [*PARTS, *(f"{kind}.FIELD" for kind in FIELDS)]
            raise ConfigError(f"'{part}' is no part to swap.{suggestion(part, PARTS)} Parts: {', '.join(known)}. "
                              "Options are changed with --set (settings=)")
        checked[part] = []
        for name in _values(part, names):
            if name is None and not part.startswith(REMOVABLE):
                raise ConfigError(f"a model needs its {part}: it can be swapped, but not removed (none)")
            if isinstance(name, Mapping):
                name = {**name, "name": registry.resolve(name.get("name"))}
            elif name is not None:
                name = registry.resolve(name)
            checked[part].append(name)
    return checked


def _check_settings(settings: Mapping[str, Sequence[Any]], preset: str) -> dict[str, list[Any]]:
    settings = {path.replace("__", "."): _values(path, values) for path, values in settings.items()}
    refuse_misplaced({path: ",".join(map(shown, values)) for path, values in settings.items()}, preset, option="--set")
    _refuse_decided(settings, "an option to compare")
    for path in settings:
        kind, _, option = path.partition(".")
        if path in PARTS or (kind in FIELDS and option.count(".") == 0):
            raise ConfigError(f"{path} is a part: swap it with --swap {path}=... (swaps=)")
        if kind in ("obs", "data"):
            raise ConfigError(f"{path} changes the clips that are scored, so the rows could not be compared; "
                              f"give it to all cells with -o {path}=... (overrides=), one ablation for each value")
        if kind == "train" and option not in TrainConfig.model_fields:
            raise ConfigError(f"unknown option '{path}'.{suggestion(option, list(TrainConfig.model_fields))} "
                              f"Options: {', '.join(f'train.{o}' for o in TrainConfig.model_fields)}")
    return settings


def _values(axis: str, values: Any) -> list[Any]:
    if isinstance(values, (str, Mapping)) or not isinstance(values, Sequence) or not values:
        raise ConfigError(f"{axis} needs a list of values, for example ['pint', 'gru'] or [2, 4]; got {values!r}")
    try:
        return json.loads(json.dumps(list(values)))
    except TypeError as error:
        raise ConfigError(f"the values of {axis} must be plain texts, numbers, lists or None: {error}") from None


def _refuse_decided(options: Mapping[str, Any], what: str) -> None:
    for path in options:
        if path in DECIDED:
            raise ConfigError(f"{path} cannot be {what}: {DECIDED[path]} decides it for every cell alike")


def _refuse_options_of_nothing(settings: Mapping[str, Sequence[Any]], variants: list[Variant]) -> None:
    """A value that no combination accepts is a mistake of the command, not a result."""
    for path, values in settings.items():
        for value in values:
            having = [v for v in variants if v.values[path] == value]
            if having and all(v.error for v in having):
                raise ConfigError(f"no combination accepts {path}={shown(value)}:\n{having[0].error}")
