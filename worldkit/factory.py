"""`create_model`, `create_config`, `list_models`: from a name and overrides to a model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

from . import registry as registries
from .config import WorldModelConfig, merge, nest, option_paths
from .errors import ConfigError, NoPretrainedWeightsError
from .presets import ModelSpec, packaged_file, preset_names, preset_spec, resolve_preset
from .presets.obtaining import how_to_obtain

if TYPE_CHECKING:
    from .model import WorldModel


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names of all presets that match a shell-style pattern.

    Args:
        pattern: ``"lpwm*"``.
        pretrained: Only those that have weights.
    Example:
        >>> "lpwm-sketchy" in list_models("lpwm-*")
        True
    """
    return [n for n in preset_names(pattern) if not pretrained or preset_spec(n).weights is not None]


def get_model_spec(name: str) -> ModelSpec:
    """What a preset is: summary, source, paper, configuration, training defaults."""
    return preset_spec(_text(name))


model_info = get_model_spec


def create_config(name: str, **overrides: Any) -> WorldModelConfig:
    """Configuration of a preset with overrides.

    Args:
        name: A preset: ``"lpwm-sketchy"``.
        **overrides: ``dynamics__num_layers=4`` changes a leaf; ``encoder="slot"`` swaps a component (its options are
            the preset's ``alternatives`` for it, else the new one's defaults; a swapped encoder brings its decoder, and
            latent actions go where a dynamics comes that filters); nested dicts do either; ``None`` removes.
    Raises:
        ConfigError: an unknown or ill-typed option, with its path.
        UnknownComponentError: an unknown preset or component.
    Example:
        >>> create_config("lpwm-sketchy", dynamics__num_layers=4).dynamics.num_layers
        4
    """
    spec = preset_spec(_text(name))
    return override(spec.config, overrides, spec.alternatives)


def override(
    base: Mapping[str, Any], overrides: Mapping[str, Any], alternatives: Mapping[str, Any] | None = None
) -> WorldModelConfig:
    """A configuration with overrides, as `create_config` takes them.

    Args:
        base: Nested dict of a `WorldModelConfig`.
        overrides: Dotted or nested.
        alternatives: Kind -> name -> options of parts that may be swapped in; see `worldkit.presets.ModelSpec`.
    Raises:
        ConfigError, UnknownComponentError: as `create_config`.
    """
    changes = _canonical_names(nest(overrides))
    _refuse_options_of_parts(changes, base)
    new_encoder = _name(changes.get("encoder"))
    if new_encoder not in (None, _name(base.get("encoder"))) and "decoder" not in changes:
        changes["decoder"] = {"name": registries.encoders.get(new_encoder).default_decoder}
        changes["decoder"] = changes["decoder"] if changes["decoder"]["name"] else None
    if base.get("latent_action") is not None and "latent_action" not in changes and _filters(changes.get("dynamics")):
        changes["latent_action"] = None
        warnings.warn(
            f"dynamics '{_name(changes['dynamics'])}' filters, and no latent action goes with it: "
            f"'{_name(base['latent_action'])}' is left out (latent_action=None says so yourself)", stacklevel=3,
        )
    for kind, options in (alternatives or {}).items():
        part, _, inner = kind.partition(".")
        if not inner:
            _take_alternative(changes, base, part, options)
        elif isinstance(changes.get(part), Mapping) and isinstance(base.get(part), Mapping):
            changes[part] = dict(changes[part])
            _take_alternative(changes[part], base[part], inner, options)
    return WorldModelConfig.parse(merge(base, changes))


def _take_alternative(
    changes: dict[str, Any], base: Mapping[str, Any], kind: str, options: Mapping[str, Mapping[str, Any]]
) -> None:
    """Put the options of a part that is swapped in under those that are given with it."""
    new = _name(changes.get(kind))
    if new in options and new != _name(base.get(kind)):
        given = changes[kind] if isinstance(changes[kind], Mapping) else {}
        changes[kind] = merge({"name": new, **options[new]}, given)


def _refuse_options_of_parts(changes: Mapping[str, Any], base: Mapping[str, Any]) -> None:
    """Say to which parts an option belongs that was given to the model as a whole."""
    for name in changes:
        if name not in WorldModelConfig.model_fields:
            paths = option_paths(WorldModelConfig.parse(base))
            if found := [path for path in paths if path.rpartition(".")[2] == name]:
                raise ConfigError(f"'{name}' is no option of the model as a whole, but {', '.join(found)}: write "
                                  f"{found[0].replace('.', '__')}=... (-o {found[0]}=... on the command line)")


def _text(name: Any) -> str:
    """The name of a model, or a path, as text.

    Raises:
        ConfigError: it is neither.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise ConfigError(
            f"a model is named by a text, for example 'lpwm-sketchy', not by {type(name).__name__} {name!r}"
        )
    return os.fspath(name)


def _filters(dynamics: Any) -> bool:
    """Whether a dynamics that is swapped in filters."""
    name = _name(dynamics)
    return name in registries.dynamics.names() and getattr(registries.dynamics.get(name), "filtering", False)


def _name(component: Any) -> str | None:
    return component.get("name") if isinstance(component, Mapping) else component


def _canonical_names(changes: dict[str, Any]) -> dict[str, Any]:
    """Resolve component names, so that an alias of the present component is no swap."""
    result = dict(changes)
    for key, registry in WorldModelConfig.COMPONENTS.items():
        if key in result:
            result[key] = _canonical_name(result[key], registry)
    for key, registry in (("conditioners", registries.conditioners), ("heads", registries.heads)):
        if isinstance(result.get(key), Mapping):
            result[key] = {field: _canonical_name(value, registry) for field, value in result[key].items()}
    return result


def _canonical_name(value: Any, registry: registries.Registry) -> Any:
    if isinstance(value, str):
        return {"name": registry.resolve(value)}
    if isinstance(value, Mapping) and "name" in value:
        return {**value, "name": registry.resolve(value["name"])}
    return value


def create_model(
    name: str | None = None, *, config: WorldModelConfig | None = None, pretrained: bool = False, **overrides: Any
) -> WorldModel:
    """Build a world model.

    Args:
        name: A preset (``"lpwm-sketchy"``, see `list_models`), ``"hub:org/name[@revision]"`` or ``"dir:/path"``.
        config: A finished configuration instead; takes no name and no overrides.
        pretrained: Load the preset's weights.
        **overrides: See `create_config`.
    Raises:
        NoPretrainedWeightsError: nobody has published weights for the preset.
        CheckpointError: its weights belong to another version of the preset.
        IncompatibleComponentsError: components that cannot work together.
    Example:
        >>> model = create_model("lpwm-mini")
        >>> model.config.obs.height
        64
    """
    from .assembly import build  # with PyTorch, which names and configurations do without

    if config is not None:
        if name is not None or overrides:
            raise ConfigError("create_model(config=...) takes no name and no overrides: config.replace(path, value)")
        if not isinstance(config, WorldModelConfig):
            raise ConfigError(f"config must be a WorldModelConfig, got {type(config).__name__}; "
                              "WorldModelConfig.parse(...) makes one of a nested dict")
        return build(config)
    if name is None:
        raise ConfigError('create_model needs a name, for example create_model("lpwm-sketchy"); see list_models()')
    name = _text(name)
    if name.startswith(("hub:", "dir:")):
        if overrides:
            raise ConfigError(f"{name} is a finished model and takes no overrides")
        from .storage.hub import from_pretrained

        return from_pretrained(name)
    if "/" in name:
        raise ConfigError(f"'{name}' looks like a path or a hub id: write 'dir:{name}' or 'hub:{name}'")
    spec = preset_spec(name)
    if not pretrained:
        return build(create_config(name, **overrides))
    if spec.weights is None:
        have = ", ".join(list_models(pretrained=True)) or "none yet"
        raise NoPretrainedWeightsError(
            f"no weights are published for '{resolve_preset(name)}'. Presets with weights: {have} (worldkit list "
            f"--pretrained shows what they reach). {how_to_obtain(resolve_preset(name))}"
        )
    if overrides:
        raise ConfigError("pretrained=True takes no overrides: the weights fit only the preset's own configuration")
    return _load_published(spec)


def _load_published(spec: ModelSpec) -> WorldModel:
    """A preset with its own weights, from inside the package or from the hub."""
    import torch

    from .assembly import build
    from .presets.shipped import facts_of, refuse_older
    from .storage.hub import from_pretrained, load_weights, read_weights

    weights = str(spec.weights)
    if weights.startswith("hub:"):
        return from_pretrained(weights)
    config = create_config(spec.name)
    refuse_older(spec, config.to_dict(), facts_of(spec))
    with torch.random.fork_rng(devices=[]):
        model = build(config)
    with resources.as_file(packaged_file(spec)) as path:
        load_weights(model, read_weights(path), where=f"preset '{spec.name}'")
    return model.eval()
