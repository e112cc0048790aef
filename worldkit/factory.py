"""`create_model`, `create_config`, `list_models`: from a name and overrides to a model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from . import registry as registries
from . import wiring
from .config import WorldModelConfig, merge, nest
from .errors import ConfigError, IncompatibleComponentsError, NoPretrainedWeightsError
from .model import ComposedWorldModel, WorldModel
from .presets import ModelSpec, preset_names, preset_spec, resolve_preset


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
    return preset_spec(name)


model_info = get_model_spec


def create_config(name: str, **overrides: Any) -> WorldModelConfig:
    """Configuration of a preset with overrides.

    Args:
        name: A preset: ``"lpwm-sketchy"``.
        **overrides: ``dynamics__num_layers=4`` changes a leaf; ``encoder="slot"`` swaps a component (its options are
            the preset's ``alternatives`` for it, else the new one's defaults; a swapped encoder brings its decoder);
            nested dicts do either; ``None`` removes.
    Raises:
        ConfigError: an unknown or ill-typed option, with its path.
        UnknownComponentError: an unknown preset or component.
    Example:
        >>> create_config("lpwm-sketchy", dynamics__num_layers=4).dynamics.num_layers
        4
    """
    spec = preset_spec(name)
    base = dict(spec.config)
    changes = _canonical_names(nest(overrides))
    new_encoder = _name(changes.get("encoder"))
    if new_encoder not in (None, _name(base.get("encoder"))) and "decoder" not in changes:
        changes["decoder"] = {"name": registries.encoders.get(new_encoder).default_decoder}
        changes["decoder"] = changes["decoder"] if changes["decoder"]["name"] else None
    for kind, options in spec.alternatives.items():
        new = _name(changes.get(kind))
        if new in options and new != _name(base.get(kind)):
            changes[kind] = merge({"name": new, **options[new]}, changes[kind])
    return WorldModelConfig.parse(merge(base, changes))


def _name(component: Any) -> str | None:
    return component.get("name") if isinstance(component, Mapping) else component


def _canonical_names(changes: dict[str, Any]) -> dict[str, Any]:
    """Resolve component names, so that an alias of the present component is no swap."""
    result = dict(changes)
    for key, registry in WorldModelConfig.COMPONENTS.items():
        if key in result:
            result[key] = _canonical_name(result[key], registry)
    if isinstance(result.get("conditioners"), Mapping):
        result["conditioners"] = {
            field: _canonical_name(value, registries.conditioners) for field, value in result["conditioners"].items()
        }
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
        IncompatibleComponentsError: components that cannot work together.
    Example:
        >>> model = create_model("lpwm-mini")
        >>> model.config.obs.height
        64
    """
    if config is not None:
        if name is not None or overrides:
            raise ConfigError("create_model(config=...) takes no name and no overrides: config.replace(path, value)")
        return build(config)
    if name is None:
        raise ConfigError('create_model needs a name, for example create_model("lpwm-sketchy"); see list_models()')
    if name.startswith(("hub:", "dir:")):
        if overrides:
            raise ConfigError(f"{name} is a finished model and takes no overrides")
        from .hub import from_pretrained

        return from_pretrained(name)
    if "/" in name:
        raise ConfigError(f"'{name}' looks like a path or a hub id: write 'dir:{name}' or 'hub:{name}'")
    spec = preset_spec(name)
    if not pretrained:
        return build(create_config(name, **overrides))
    if spec.weights is None:
        have = ", ".join(list_models(pretrained=True)) or "none yet"
        raise NoPretrainedWeightsError(
            f"no weights are published for '{resolve_preset(name)}'. Presets with weights: {have}. Official LPWM "
            "checkpoints can be converted: worldkit convert lpwm CHECKPOINT --hparams hparams.json --out FOLDER"
        )
    if overrides:
        raise ConfigError("pretrained=True takes no overrides: the weights fit only the preset's own configuration")
    from .hub import load_packaged

    return load_packaged(spec)


def build(config: WorldModelConfig) -> WorldModel:
    """Assemble a model. Every component draws its initial weights from a random stream of its own.

    Raises:
        IncompatibleComponentsError: with the reason and the parts that would fit.
    """
    if config.family != "composed":
        return registries.models.get(config.family)(config)
    base = int(torch.randint(2**62, (), device="cpu").item())

    def make(key: str, constructor: Any, *args: Any, **wiring: Any) -> Any:
        digest = hashlib.sha256(f"{base}:{key}".encode()).digest()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(digest[:7], "big"))
            return constructor(*args, **wiring)

    def component(kind: str) -> Any:
        return WorldModelConfig.COMPONENTS[kind].get(getattr(config, kind).name)

    horizon = config.timestep_horizon
    encoder = make("encoder", component("encoder"), config.encoder, obs=config.obs)
    spec, anchors = encoder.spec, encoder.anchors()
    decoder = dynamics = latent_action = None
    if config.decoder is not None:
        _check_decoder(component("decoder"), config, spec)
        decoder = make("decoder", component("decoder"), config.decoder, spec=spec, obs=config.obs)
    receivers = {name: wiring.receiver_of(name, c, config) for name, c in config.conditioners.items()}
    memory = wiring.memory_lengths(config, receivers)
    if config.dynamics is not None:
        _check_dynamics(component("dynamics"), config, spec)
        dynamics = make("dynamics", component("dynamics"), config.dynamics, spec=spec, anchors=anchors, window=horizon,
                        memory_length=memory["dynamics"])
    if config.latent_action is not None:
        if dynamics is None:
            raise IncompatibleComponentsError("a latent action needs a dynamics to act on; set dynamics, or drop it")
        latent_action = make(
            "latent_action", component("latent_action"), config.latent_action, spec=spec, anchors=anchors,
            window=horizon, dynamics_dim=dynamics.cond_dim, memory_length=memory["latent_action"],
        )
    wiring.check_read(config, receivers, {"dynamics": dynamics, "latent_action": latent_action})
    widths = {"dynamics": getattr(dynamics, "cond_dim", 0), "latent_action": getattr(latent_action, "cond_dim", 0)}
    conditioners = {
        name: make(f"conditioners.{name}", registries.conditioners.get(c.name), c, obs=config.obs,
                   dim=wiring.width_of(name, receivers[name], widths))
        for name, c in config.conditioners.items()
    }
    objective = make("objective", component("objective"), config.objective)
    _check_objective(objective, config, dynamics)
    return ComposedWorldModel(
        config, encoder=encoder, decoder=decoder, dynamics=dynamics, latent_action=latent_action,
        conditioners=conditioners, receivers=receivers, objective=objective,
    )


def _check_decoder(decoder: Any, config: WorldModelConfig, spec: Any) -> None:
    if decoder.kinds is not None and spec.kind not in decoder.kinds:
        fits = [n for n in registries.list_decoders()
                if (kinds := registries.decoders.get(n).kinds) is None or spec.kind in kinds]
        raise IncompatibleComponentsError(
            f"decoder '{config.decoder.name}' draws {', '.join(sorted(decoder.kinds))}, but encoder "
            f"'{config.encoder.name}' gives {spec.kind}. Decoders that fit: {', '.join(fits) or 'none'}"
        )


def _check_dynamics(dynamics: Any, config: WorldModelConfig, spec: Any) -> None:
    missing = dynamics.requires - spec.properties
    if missing:
        fits = [n for n in registries.list_dynamics() if registries.dynamics.get(n).requires <= spec.properties]
        what = " and ".join({"grid": "a grid of tokens (height x width)",
                             "tracked": "tokens that keep their identity over time",
                             "normal": "Gaussian fields only"}.get(m, m) for m in sorted(missing))
        groups = " + ".join(f"{g.size} {g.name}" for g in spec.groups)
        raise IncompatibleComponentsError(
            f"dynamics '{config.dynamics.name}' needs {what}, but encoder '{config.encoder.name}' gives {groups} "
            f"without that. Dynamics that fit: {', '.join(fits) or 'none'}"
        )


def _check_objective(objective: Any, config: WorldModelConfig, dynamics: Any) -> None:
    if "decoder" in objective.requires and config.decoder is None:
        raise IncompatibleComponentsError(f"objective '{config.objective.name}' needs a decoder, but none is set")
    if "dynamics" in objective.requires and dynamics is None:
        raise IncompatibleComponentsError(f"objective '{config.objective.name}' trains a dynamics, but none is set")
    most = config.timestep_horizon + 1
    if dynamics is not None and config.clip_length > most and (config.latent_action or not dynamics.explicit_prior):
        raise IncompatibleComponentsError(
            f"objective '{config.objective.name}' asks for clips of {config.clip_length} frames, but "
            f"{'latent actions read' if config.latent_action else 'an implicit dynamics learns from'} at most {most} "
            f"(timestep_horizon + 1); set objective.num_frames to {most} or less, or a larger timestep_horizon"
        )
    if "no-dynamics" in objective.requires and dynamics is not None:
        raise IncompatibleComponentsError(
            f"objective '{config.objective.name}' trains encoder and decoder only and would leave dynamics "
            f"'{config.dynamics.name}' untrained; set dynamics=None, or objective='elbo'"
        )
