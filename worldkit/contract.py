"""Whether a component keeps its contract, as far as that can be told before it runs.

What plugins forget is named with the part and with what to write, instead of an `AttributeError` from somewhere else.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from .cells.base import Cell, CellConfig
from .component import unset
from .conditioners.base import Conditioner, ConditionerConfig
from .config import ComponentConfig
from .decoders.base import Decoder
from .dynamics.base import Dynamics
from .encoders.base import Encoder
from .errors import IncompatibleComponentsError
from .heads.base import Head, HeadConfig
from .latent_actions.base import LatentAction
from .latents import LatentSpec
from .objectives.base import Objective
from .priors.base import Prior, PriorConfig

CONTRACTS: dict[str, type] = {
    "encoder": Encoder, "decoder": Decoder, "dynamics": Dynamics, "latent action": LatentAction,
    "conditioner": Conditioner, "prior": Prior, "head": Head, "objective": Objective, "cell": Cell,
}
"""Kind of component -> its base class."""
_CONFIGS: dict[str, type[ComponentConfig]] = {
    "conditioner": ConditionerConfig, "prior": PriorConfig, "head": HeadConfig, "cell": CellConfig,
}
"""Kind of component -> base of its options, where all of a kind have some."""


def check_class(kind: str, name: str, cls: Any) -> None:
    """Refuse what cannot be a component of this kind.

    Args:
        kind: As in `CONTRACTS`.
        name: Registered name.
        cls: What is registered.
    Raises:
        IncompatibleComponentsError: it is no class of this kind, or lacks methods that it must have.
    """
    base = CONTRACTS[kind]
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise IncompatibleComponentsError(
            f"{kind} '{name}' is {_told(cls)}, which is no {kind}: derive it from {base.__module__}.{base.__name__}"
        )
    others = list(_other_signatures(cls, base))
    if others:
        raise IncompatibleComponentsError(f"{kind} '{name}': {cls.__name__}.{'; '.join(others)}")
    abstract = sorted(getattr(cls, "__abstractmethods__", ()))
    if abstract:
        raise IncompatibleComponentsError(f"{kind} '{name}' ({cls.__name__}) lacks methods: {', '.join(abstract)}")


def check_predicts(name: str, cls: type[Dynamics]) -> None:
    """Refuse a dynamics that has no method to learn or to predict by.

    Raises:
        IncompatibleComponentsError: naming the methods.
    """
    def has(*methods: str) -> bool:
        return any(getattr(cls, method) is not getattr(Dynamics, method) for method in methods)

    groups = (("prior",),) if cls.explicit_prior else (("loss",), ("predict", "step", "prior"))
    lacks = [methods[0] for methods in groups if not has(*methods)]
    if cls.filtering and not has("filter"):
        raise IncompatibleComponentsError(
            f"dynamics '{name}' ({cls.__name__}) has filtering = True, but does not implement filter(seen, cond, "
            "sampler, *, first, last=None) -> Filtered"
        )
    if lacks:
        raise IncompatibleComponentsError(
            f"dynamics '{name}' ({cls.__name__}) has explicit_prior = {cls.explicit_prior}, but does not implement "
            f"{' and '.join(lacks)}: an explicit one has prior(z, cond) -> LatentDist, any other loss and predict"
        )


def check_config(kind: str, name: str, config: Any) -> None:
    """Refuse a conditioner, prior or head whose options lack those that all of its kind have."""
    wanted = _CONFIGS.get(kind, ComponentConfig)
    if not isinstance(config, wanted):
        raise IncompatibleComponentsError(
            f"Config of {kind} '{name}' must derive from {wanted.__module__}.{wanted.__name__}"
        )


def check_arguments(kind: str, name: str, cls: type, *arguments: Any, **wiring: Any) -> None:
    """Refuse a class whose constructor does not take what models give it."""
    try:
        inspect.signature(cls).bind(*arguments, **wiring)
    except TypeError as error:
        told = ", ".join(["config", *(["*"] if wiring else []), *wiring])
        raise IncompatibleComponentsError(
            f"{kind} '{name}': {cls.__name__}.__init__ must take (self, {told}), but {error}"
        ) from None
    except ValueError:  # no signature to look at
        return


def check_made(kind: str, name: str, part: Any) -> None:
    """Refuse a part that does not have what its contract announces.

    Raises:
        IncompatibleComponentsError: naming the attributes.
    """
    missing = [attribute for attribute in unset(part) if attribute != "cond_dim"]  # only what takes conditions has it
    if missing:
        own = "" if missing == ["spec"] else "call super().__init__(...) with all that it is given; "
        raise IncompatibleComponentsError(
            f"{kind} '{name}' ({type(part).__name__}) does not set {' and '.join(f'self.{m}' for m in missing)} in its "
            f"__init__: {own}see {CONTRACTS[kind].__module__}"
        )
    if isinstance(part, (Encoder, Decoder, Dynamics, LatentAction, Prior)) and not isinstance(part.spec, LatentSpec):
        raise IncompatibleComponentsError(
            f"{kind} '{name}' has {_told(part.spec)} as self.spec; it must be a LatentSpec: "
            'LatentSpec((TokenGroup("things", 4, (Field("features", 16),)),))'
        )


def _told(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _other_signatures(cls: type, base: type) -> Iterator[str]:
    """Methods of the contract that a class overrides so that they cannot be called as the contract says."""
    for name, method in vars(base).items():
        own = inspect.getattr_static(cls, name)
        if name.startswith("_") or own is method or not all(map(inspect.isfunction, (own, method))):
            continue
        wanted = inspect.signature(method)
        words = {p.name: None for p in wanted.parameters.values() if p.kind is p.KEYWORD_ONLY}
        try:
            inspect.signature(own).bind(*[None] * (len(wanted.parameters) - len(words)), **words)
        except TypeError as error:
            arguments = [str(p).partition(":")[0].partition("=")[0] for p in wanted.parameters.values()]
            stars = ["*"] if words else []
            told = ", ".join([*arguments[: len(arguments) - len(words)], *stars, *words])
            yield f"{name} must take ({told}), but {error}"
