"""Who receives which condition, in what width, and whether it reads it.

A condition that nobody reads is a model that cannot be steered, and does not say so. A part says which forms it reads
(`Dynamics.takes`, `LatentAction.takes`); one that does not is tried out, on made-up latents, when a model with
conditions is built.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from . import registry as registries
from .batch import Batch, to_float_video
from .conditions import EMPTY, FORMS, Condition
from .config import WorldModelConfig
from .distributions import Sampler
from .dynamics.base import EMBED, Dynamics
from .errors import IncompatibleComponentsError, ShapeError, WorldkitError
from .latents import Latent, LatentDist, LatentSpec
from .registry import Registry

NEEDS = {
    "frame": "conditions per frame (Condition.frame)",
    "token": "conditions per token (Condition.token)",
    "memory": "tokens to attend to (Condition.memory)",
    "goal": "goals as it embeds latents (a method embed)",
}
"""What a receiver of conditions may have to do, in words."""


def receiver_of(name: str, conditioner: Any, config: WorldModelConfig) -> str:
    """Who receives the condition of a batch field: ``"dynamics"``, ``"latent_action"`` or ``"both"``.

    Raises:
        IncompatibleComponentsError: the model has no such part.
    """
    if config.dynamics is None:
        raise IncompatibleComponentsError(
            f"condition '{name}' steers a dynamics, but this model has none; set dynamics, or drop the conditioner"
        )
    if conditioner.to == "auto":
        return "dynamics" if config.latent_action is None else "latent_action"
    if conditioner.to != "dynamics" and config.latent_action is None:
        raise IncompatibleComponentsError(
            f"conditioner '{name}' is routed to '{conditioner.to}', but the model has no latent action; "
            "set latent_action='gaussian', or to='dynamics'"
        )
    return conditioner.to


def memory_lengths(config: WorldModelConfig, receivers: Mapping[str, str]) -> dict[str, int]:
    """Receiver -> tokens of memory that it gets."""
    lengths = {"dynamics": 0, "latent_action": 0}
    for name, c in config.conditioners.items():
        for receiver in lengths if receivers[name] == "both" else [receivers[name]]:
            lengths[receiver] += registries.conditioners.get(c.name).memory_tokens(c)
    return lengths


def width_of(name: str, receiver: str, widths: Mapping[str, int]) -> int:
    """Width of the condition of a batch field.

    Raises:
        IncompatibleComponentsError: it goes to two parts of different widths.
    """
    if receiver != "both":
        return widths[receiver]
    if widths["dynamics"] != widths["latent_action"]:
        raise IncompatibleComponentsError(
            f"condition '{name}' goes to both latent action (width {widths['latent_action']}) and dynamics (width "
            f"{widths['dynamics']}); give both the same dim, or route it to one of them"
        )
    return widths["dynamics"]


def dynamics_options(config: WorldModelConfig) -> Any:
    """The dynamics' options; an open width of conditions (``cond_dim``) is that of what is told as it is (its option
    ``given_width``): numbers, or latent actions.

    Nothing else may be told beside them; of a dynamics that is told nothing it is 0.
    """
    options = config.dynamics
    if getattr(options, "cond_dim", 0) is not None:
        return options
    told = [*config.conditioners.values(), *([] if config.latent_action is None else [config.latent_action])]
    widths = [getattr(c, "given_width", None) for c in told]
    if None in widths or config.latent_action is not None and len(widths) > 1:
        return options
    return options.model_copy(update={"cond_dim": max(widths, default=0)})


def check_stand_in(name: str, conditioner: Any) -> None:
    """Refuse dropout of a condition that its conditioner would show all the same.

    Raises:
        IncompatibleComponentsError: it has no stand-in for hidden values.
    """
    if conditioner.config.dropout and not conditioner.takes_mask:
        raise IncompatibleComponentsError(
            f"conditioners.{name}.dropout hides conditions, but {type(conditioner).__name__} takes no masks and would "
            "show them: set self.takes_mask = True in it and put a stand-in where the mask is False, or drop dropout"
        )


def check_width(kind: str, part: Any) -> None:
    """Refuse a part that is to receive conditions and does not say in what width.

    Raises:
        IncompatibleComponentsError: it has no ``cond_dim``.
    """
    if not isinstance(getattr(part, "cond_dim", None), int):
        raise IncompatibleComponentsError(
            f"{kind.replace('_', ' ')} '{part.config.name}' ({type(part).__name__}) receives conditions, but does not "
            "say in what width: set self.cond_dim, a whole number, in its __init__"
        )


def check_read(config: WorldModelConfig, receivers: Mapping[str, str], parts: Mapping[str, Any]) -> None:
    """Check that every part reads the conditions that go to it; fills in ``takes`` of parts that do not say so.

    Args:
        config: Of the model.
        receivers: Condition -> who receives it, see `receiver_of`.
        parts: ``"dynamics"`` and ``"latent_action"``, either may be None.
    Raises:
        IncompatibleComponentsError: naming the condition, what is missing, and what to do.
    """
    for kind, part in parts.items():
        given = dict(_given(kind, config, receivers))
        if part is None or not given:
            continue
        check_width(kind, part)
        says = type(part).takes is not None
        if not says:
            part.takes = tried(part)
        for what, needs in given.items():
            unknown = frozenset(FORMS if part.takes is None else ())
            missing = sorted(needs - abilities(part) - unknown)
            if missing:
                raise IncompatibleComponentsError(_refusal(kind, config, part, what, missing, says=says))


def _given(kind: str, config: WorldModelConfig, receivers: Mapping[str, str]) -> Iterator[tuple[str, frozenset[str]]]:
    """(what gives conditions to a part, what the part must be able to do with them)."""
    for name, c in config.conditioners.items():
        cls = registries.conditioners.get(c.name)
        forms = frozenset({"memory"} if cls.memory_tokens(c) else ()) if cls.gives is None else cls.gives
        if receivers[name] in (kind, "both"):
            yield f"condition '{name}'", forms | frozenset({"goal"} if cls.embeds else ())
    if kind == "dynamics" and config.latent_action is not None:
        gives = registries.latent_actions.get(config.latent_action.name).gives
        yield f"latent action '{config.latent_action.name}'", gives or frozenset()


def abilities(part: Any) -> frozenset[str]:
    """Which of `NEEDS` a part, or a class of parts, meets; as far as it says so."""
    cls = part if isinstance(part, type) else type(part)
    silent = issubclass(cls, Dynamics) and cls.embed is Dynamics.embed
    return frozenset(part.takes or ()) | frozenset(() if silent else {"goal"})


def told_by(latent_action: Any, dynamics: Any, action: Tensor) -> Condition:
    """What latent actions ``[B, T, N or 1, A]`` tell the dynamics.

    Raises:
        ShapeError: it is no condition of the dynamics' width.
        IncompatibleComponentsError: the dynamics does not read it.
    """
    cond = latent_action.condition(action)
    if not isinstance(cond, Condition):
        raise ShapeError(f"{type(latent_action).__name__}.condition must give Condition, got {type(cond).__name__}")
    shape = (action.shape[0], action.shape[1], dynamics.factor_spec.num_tokens)
    check_condition(latent_action, cond, "the latent action", shape, dim=dynamics.cond_dim)
    refuse_unread(dynamics, cond, "the latent action")
    return cond


def video_for(latent_action: Any, video: Any, frames: int) -> dict[str, Tensor | None]:
    """``{"video": ...}``, float in [0, 1], for latent actions that read video; nothing for others.

    Args:
        latent_action: A `LatentAction`.
        video: Frames, a batch of them, or what was seen in them (then there are none to read).
        frames: How many.
    Raises:
        WorldkitError: there are transitions to read it off, but no frames.
    """
    if latent_action.reads != "video":
        return {}
    seen = video.video if isinstance(video, Batch) else video
    if torch.is_tensor(seen):
        return {"video": to_float_video(seen)}
    if frames > 1:
        raise WorldkitError(
            f"latent action '{latent_action.config.name}' is read off video, and this starts from {frames} frames of "
            "latents: give the frames themselves, the latent actions between them (latent_actions=...), or the last "
            "latent alone, z[:, -1:]"
        )
    return {"video": None}


def _refusal(
    kind: str, config: WorldModelConfig, part: Any, what: str, missing: Collection[str], *, says: bool
) -> str:
    title, registry = kind.replace("_", " "), WorldModelConfig.COMPONENTS[kind]
    name = getattr(config, kind).name
    forms = [form for form in missing if form in FORMS]
    lines = [f"{title} '{name}' does not read {' nor '.join(NEEDS[m] for m in missing)}, which {what} gives it."]
    if forms and not says:
        lines.append(
            f"It was tried: its answer does not depend on them. If it does read them, say so in its class: takes = "
            f"frozenset({{{', '.join(repr(form) for form in FORMS if form in {*forms, *part.takes})}}})."
        )
    if "goal" in missing:
        lines.append(f"{EMBED}.")
    fits = ", ".join(_fitting(registry, part.spec, missing)) or "none"
    lines.append(f"Otherwise take a {title} that does ({fits}){_elsewhere(kind, what, config)}")
    return " ".join(lines)


def _elsewhere(kind: str, what: str, config: WorldModelConfig) -> str:
    """What else may be done with a condition, in words; nothing, with those of a latent action."""
    if what.startswith("latent action"):
        return ""
    other = "dynamics" if kind == "latent_action" else "latent_action"
    first = "" if getattr(config, other) is not None else "latent_action='gaussian' and "
    return f", drop the conditioner, or send it elsewhere ({first}conditioners.{what.split(chr(39))[1]}.to='{other}')"


def _fitting(registry: Registry, spec: LatentSpec, needs: Collection[str]) -> list[str]:
    classes = {name: registry.get(name) for name in registry.names()}
    return [name for name, cls in classes.items()
            if set(needs) <= abilities(cls) and getattr(cls, "requires", frozenset()) <= spec.properties]


def tried(part: Any) -> frozenset[str] | None:
    """The forms of conditions on which the answers of a dynamics or latent action depend.

    A copy with shaken weights (layers that begin at zero would hide what they read) runs on made-up latents. The part
    itself and the global random state stay as they are.

    Args:
        part: A `Dynamics` or a `LatentAction`.
    Returns:
        None if it cannot be told: the part has no values yet (a ``meta`` device), or it does not run even without a
        condition.
    """
    if any(x.is_meta for x in (*part.parameters(), *part.buffers())):
        return None
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        try:
            trial = _Trial(part)
            return frozenset(trial.forms())
        except Exception:  # a stranger's code, on latents that we made up: no reason to refuse it
            return None


class _Trial:
    """A part on made-up latents of two frames (one if its window has no more)."""

    def __init__(self, part: Any):
        self.part: Any = copy.deepcopy(part).eval()
        for parameter in self.part.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        self.explicit = isinstance(part, Dynamics) and part.explicit_prior
        self.frames = min(2, part.window) if self.explicit else 2
        self.z = _made_up(part.spec, self.frames, next(iter(part.parameters()), torch.zeros(())))

    def forms(self) -> list[str]:
        everything = self._condition()
        try:
            run_once(self.part, self.z, everything)
            return [form for form in everything.forms if self._depends(everything, form)]
        except Exception:  # it may not know what to do with one of them: each by itself, or beside the memory
            found = [form for form in everything.forms
                     if any(self._survives(everything.only({form, *more}), form) for more in ((), ("memory",)))]
            if not found:
                run_once(self.part, self.z, EMPTY)
            return found

    def _survives(self, cond: Condition, form: str) -> bool:
        try:
            return self._depends(cond, form)
        except Exception:
            return False

    def _depends(self, cond: Condition, form: str) -> bool:
        other = replace(cond, **{form: torch.randn_like(getattr(cond, form))})
        pairs = zip(*(run_once(self.part, self.z, c) for c in (cond, other)), strict=True)
        return any(not torch.equal(a, b) for a, b in pairs)

    def _condition(self) -> Condition:
        part, steps = self.part, self.frames - (isinstance(self.part, Dynamics) and not self.explicit)
        told = getattr(part, "factor_spec", part.spec)  # latent actions have none of their own
        shapes = {"frame": (steps,), "token": (steps, told.num_tokens), "memory": (part.memory_length,)}
        like = self.z.presence
        return Condition(**{form: torch.randn(1, *shape, part.cond_dim, device=like.device, dtype=like.dtype)
                            for form, shape in shapes.items() if form != "memory" or part.memory_length})


def run_once(part: Any, z: Latent, cond: Condition) -> list[Tensor]:
    """The answers of a dynamics or a latent action, whatever they are; the same for the same input."""
    if not isinstance(part, Dynamics):
        return [dist.params for dist in part(z, cond)]
    if part.explicit_prior:
        return list(part.prior(z, cond).params.values())
    return list(part.loss(z, cond, Sampler(generator=torch.Generator(z.presence.device).manual_seed(0))).values())


def _made_up(spec: LatentSpec, frames: int, like: Tensor) -> Latent:
    params = {}
    for key in spec.keys():
        f = spec.field(key)
        raw = torch.randn(1, frames, spec.group(key[0]).size, f.dist.raw_dim(f.dim), device=like.device)
        params[key] = f.dist.from_raw(raw)
    return LatentDist(spec, params).mode()


def check_condition(
    giver: Any, cond: Condition, what: str, shape: tuple[int, int, int], *, dim: int, memory: int = 0
) -> None:
    """Refuse conditions of other sizes than was agreed on.

    Args:
        giver: What gave the condition.
        cond: The condition.
        what: For the message: ``"condition 'action'"``.
        shape: (batch, frames or transitions, tokens) of the latents that are steered.
        dim: Width in which the receiver wants it.
        memory: Tokens to attend to.
    Raises:
        ShapeError: naming what was given and what was wanted.
    """
    batch, frames, tokens = shape
    wanted = {"frame": ((batch,), (frames,)), "token": ((batch, 1), (frames, 1), (tokens, 1)),
              "memory": ((batch,), (memory,))}
    for form in cond.forms:
        found = tuple(getattr(cond, form).shape)
        axes = (*wanted[form], (dim,))
        if len(found) != len(axes) or any(size not in sizes for size, sizes in zip(found, axes, strict=True)):
            advice = "; memory_tokens(config) says how many tokens there are" if form == "memory" else ""
            raise ShapeError(
                f"{what}: {type(giver).__name__} gave Condition.{form} {list(found)}, expected "
                f"{[sizes[0] for sizes in axes]}{advice}"
            )


def refuse_unread(part: nn.Module | None, cond: Condition, what: str) -> None:
    """Refuse a condition of a form that nobody announced, and that its receiver does not read.

    Raises:
        IncompatibleComponentsError: naming what gave the condition, and the form.
    """
    takes = getattr(part, "takes", None)
    if takes is None:
        return
    for form in cond.forms:
        if form not in takes:
            raise IncompatibleComponentsError(
                f"{what} gave {NEEDS[form]}, which {type(part).__name__} does not read: it takes "
                f"{', '.join(sorted(takes)) or 'no conditions'}. If it does read them, add '{form}' to its takes"
            )
