"""From a configuration to a model: finding the parts, checking that they fit, giving them their wiring.

Build order: encoder -> its spec -> dynamics -> the model's spec -> decoder, latent action -> conditioners -> objective.
The model's spec is the encoder's, or that of the dynamics' states if it filters.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch

from . import contract, wiring
from . import registry as registries
from .config import WorldModelConfig
from .errors import IncompatibleComponentsError
from .latent_actions.base import LatentAction
from .perception import check_filtering

if TYPE_CHECKING:
    from .model import WorldModel


_FIELDS = {"conditioners": registries.conditioners, "heads": registries.heads}
"""Parts of which a model has one per field of its batches."""


_NEEDS = {
    "grid": "a grid of tokens (height x width)", "tracked": "tokens that keep their identity over time",
    "normal": "Gaussian fields only", "codes": "codes (numbers of classes, as encoder 'vq' gives them)",
    "continuous": "numbers that can be added up (no codes)",
}
"""Properties of a latent (`LatentSpec.properties`) in words."""


def build(config: WorldModelConfig) -> WorldModel:
    """Build the model of a configuration. Its class is the one registered as ``config.family``.

    Raises:
        UnknownComponentError: an unknown family or component.
        IncompatibleComponentsError: with the reason and the parts that would fit.
    """
    return registries.models.get(config.family).from_config(config)


def assemble(config: WorldModelConfig) -> dict[str, Any]:
    """The parts of a composed model, by the names that its constructor gives them.

    Every component draws its initial weights from a random stream of its own.

    Raises:
        IncompatibleComponentsError: with the reason and the parts that would fit.
    """
    base = int(torch.randint(2**62, (), device="cpu").item())

    def make(key: str, cls: Any, options: Any, **given: Any) -> Any:
        kind = (_FIELDS if "." in key else WorldModelConfig.COMPONENTS)[key.partition(".")[0]].kind
        contract.check_arguments(kind, options.name, cls, options, **given)
        digest = hashlib.sha256(f"{base}:{key}".encode()).digest()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(digest[:7], "big"))
            part = cls(options, **given)
        contract.check_made(kind, options.name, part)
        return part

    def component(kind: str) -> Any:
        return _component(WorldModelConfig.COMPONENTS[kind], getattr(config, kind))

    horizon = config.timestep_horizon
    conditioner_classes = {name: _component(registries.conditioners, c) for name, c in config.conditioners.items()}
    encoder = make("encoder", component("encoder"), config.encoder, obs=config.obs)
    encoder.check_clip(config.clip_length)
    spec, anchors = encoder.spec, encoder.anchors()
    decoder = dynamics = latent_action = None
    if config.decoder is not None:
        _check_decoder(component("decoder"), config, encoder.drawn_spec)
    receivers = {name: wiring.receiver_of(name, c, config) for name, c in config.conditioners.items()}
    memory = wiring.memory_lengths(config, receivers)
    if config.dynamics is not None:
        _check_requires("dynamics", component("dynamics"), config, spec)
        contract.check_predicts(config.dynamics.name, component("dynamics"))
        dynamics = make("dynamics", component("dynamics"), wiring.dynamics_options(config), spec=spec, anchors=anchors,
                        window=horizon, memory_length=memory["dynamics"])
        if dynamics.filtering:
            check_filtering(config, spec, dynamics)
            spec = dynamics.spec
    if config.decoder is not None:
        drawn = spec if spec is not encoder.spec else encoder.drawn_spec
        decoder = make("decoder", component("decoder"), config.decoder, spec=drawn, obs=config.obs)
    if config.latent_action is not None:
        kind = component("latent_action")
        if dynamics is not None:
            wiring.check_width("dynamics", dynamics)
        elif "latent-action" not in component("objective").requires:
            raise IncompatibleComponentsError("a latent action needs a dynamics to act on; set dynamics, or drop it")
        acted = spec if dynamics is None else dynamics.factor_spec
        _check_requires("latent_action", kind, config, acted)
        latent_action = make(
            "latent_action", kind, config.latent_action, spec=acted, anchors=anchors if acted is spec else {},
            window=horizon,
            dynamics_dim=getattr(dynamics, "cond_dim", 0), memory_length=memory["latent_action"],
            **({"obs": config.obs} if kind.reads == "video" else {}),
        )
    wiring.check_read(config, receivers, {"dynamics": dynamics, "latent_action": latent_action})
    widths = {"dynamics": getattr(dynamics, "cond_dim", 0), "latent_action": getattr(latent_action, "cond_dim", 0)}
    conditioners = {
        name: make(f"conditioners.{name}", conditioner_classes[name], c, obs=config.obs,
                   dim=wiring.width_of(name, receivers[name], widths))
        for name, c in config.conditioners.items()
    }
    for name, conditioner in conditioners.items():
        wiring.check_stand_in(name, conditioner)
    prior = None
    if config.prior is not None:
        _check_requires("prior", component("prior"), config, spec)
        prior = make("prior", component("prior"), config.prior, spec=spec)
    heads = {
        name: make(f"heads.{name}", _component(registries.heads, h), h, feature_dim=_feature_dim(name, dynamics))
        for name, h in config.heads.items()
    }
    objective = make("objective", component("objective"), config.objective)
    _check_objective(objective, config, dynamics)
    return {"encoder": encoder, "decoder": decoder, "dynamics": dynamics, "latent_action": latent_action,
            "conditioners": conditioners, "receivers": receivers, "prior": prior, "heads": heads,
            "objective": objective}


def _feature_dim(head: str, dynamics: Any) -> int:
    if dynamics is None:
        raise IncompatibleComponentsError(
            f"head '{head}' reads the transitions of a dynamics, but this model has none; set dynamics, or drop the "
            "head (-o heads=none)"
        )
    return dynamics.feature_dim()


def _component(registry: registries.Registry, options: Any) -> Any:
    """The class behind a component's options."""
    cls = registry.get(options.name)
    contract.check_class(registry.kind, options.name, cls)
    contract.check_config(registry.kind, options.name, options)
    return cls


def _check_decoder(decoder: Any, config: WorldModelConfig, spec: Any) -> None:
    if decoder.kinds is not None and spec.kind not in decoder.kinds:
        fits = [n for n in registries.list_decoders()
                if (kinds := registries.decoders.get(n).kinds) is None or spec.kind in kinds]
        raise IncompatibleComponentsError(
            f"decoder '{config.decoder.name}' draws {', '.join(sorted(decoder.kinds))}, but encoder "
            f"'{config.encoder.name}' gives {spec.kind}. Decoders that fit: {', '.join(fits) or 'none'}"
        )


def _check_requires(kind: str, cls: Any, config: WorldModelConfig, spec: Any) -> None:
    """Refuse a dynamics, prior or latent action that cannot do with this latent."""
    missing = cls.requires - spec.properties
    if missing:
        registry = WorldModelConfig.COMPONENTS[kind]
        fits = [n for n in registry.names() if registry.get(n).requires <= spec.properties]
        what = " and ".join(_NEEDS.get(m, m) for m in sorted(missing))
        groups = " + ".join(f"{g.size} {g.name}" for g in spec.groups)
        raise IncompatibleComponentsError(
            f"{registry.kind} '{getattr(config, kind).name}' needs {what}, but encoder '{config.encoder.name}' gives "
            f"{groups} without that. {registry.plural.capitalize()} that fit: {', '.join(fits) or 'none'}"
        )


def _check_objective(objective: Any, config: WorldModelConfig, dynamics: Any) -> None:
    if "decoder" in objective.requires and config.decoder is None:
        raise IncompatibleComponentsError(f"objective '{config.objective.name}' needs a decoder, but none is set")
    if "dynamics" in objective.requires and dynamics is None:
        raise IncompatibleComponentsError(f"objective '{config.objective.name}' trains a dynamics, but none is set")
    if "latent-action" in objective.requires and config.latent_action is None:
        raise IncompatibleComponentsError(
            f"objective '{config.objective.name}' trains latent actions, but none is set; set latent_action='vq'"
        )
    if "prior" in objective.requires and config.prior is None:
        raise IncompatibleComponentsError(
            f"objective '{config.objective.name}' trains a prior over first frames, but none is set; set "
            "prior='diffusion'"
        )
    if "heads" in objective.requires and not config.heads:
        raise IncompatibleComponentsError(
            f"objective '{config.objective.name}' trains heads, but none is set; set heads={{'reward': 'two-hot'}} "
            "(-o heads.reward=two-hot)"
        )
    if config.prior is not None and "prior" not in objective.requires:
        trains = [n for n in registries.list_objectives() if "prior" in registries.objectives.get(n).requires]
        raise IncompatibleComponentsError(
            f"objective '{config.objective.name}' would leave prior '{config.prior.name}' untrained; set prior=None, "
            f"and train one when everything else is trained, with objective='{trains[0]}'"
        )
    _check_actions(objective, config)
    if dynamics is not None:
        _check_filters(objective, config, dynamics)
    most, runs = config.timestep_horizon + 1, dynamics is not None and "prior" not in objective.requires
    if runs and config.clip_length > most and (
            config.latent_action or not (dynamics.explicit_prior or dynamics.unrolls)):
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


def _check_actions(objective: Any, config: WorldModelConfig) -> None:
    """Refuse an objective that would leave latent actions untrained which learn by losses of their own."""
    if config.latent_action is None:
        return
    cls = registries.latent_actions.get(config.latent_action.name)
    if "latent-action" in objective.requires and cls.losses is LatentAction.losses:
        fits = [n for n in registries.list_latent_actions()
                if registries.latent_actions.get(n).losses is not LatentAction.losses]
        raise IncompatibleComponentsError(
            f"objective '{config.objective.name}' trains latent actions by losses of their own, and latent action "
            f"'{config.latent_action.name}' has none, it learns beside a dynamics; latent actions that have: "
            f"{', '.join(fits)}"
        )
    if cls.losses is LatentAction.losses or objective.action_losses or "latent_action" in objective.frozen:
        return
    fits = [n for n in registries.list_objectives() if registries.objectives.get(n).action_losses]
    raise IncompatibleComponentsError(
        f"latent action '{config.latent_action.name}' learns by losses of its own, which objective "
        f"'{config.objective.name}' leaves out; objectives that have them: {', '.join(fits)}"
    )


def _check_filters(objective: Any, config: WorldModelConfig, dynamics: Any) -> None:
    """Refuse an objective that is not made for a dynamics that filters, or for one that does not."""
    unfit = "no-filtering" if dynamics.filtering else "filtering"
    if unfit not in objective.requires:
        return
    fits = [n for n in registries.list_objectives()
            if not {unfit, "no-dynamics", "prior"} & registries.objectives.get(n).requires]
    kinds = ("does not filter", "filters") if dynamics.filtering else ("filters", "does not")
    raise IncompatibleComponentsError(
        f"objective '{config.objective.name}' trains a dynamics that {kinds[0]}, and '{config.dynamics.name}' "
        f"{kinds[1]} (filters: its latents depend on the frames before); objectives that fit: {', '.join(fits)}"
    )
