"""Planners and costs by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

from ..errors import ConfigError, UnknownComponentError
from ..registry import canonical, suggestion
from .arm import ArmCEM
from .base import Planner
from .categorical import CategoricalCEM
from .cem import CEM, ICEM, PlaNetCEM, PredictiveSampling
from .costs import ActionEffort, Cost, LatentDistance, PixelDistance, PredictedReward, Weighted
from .gradient import GradientPlanner
from .mppi import MPPI
from .objects import ObjectDistance

PLANNERS: dict[str, type[Planner]] = {
    "cem": CEM, "icem": ICEM, "mppi": MPPI, "gradient": GradientPlanner, "categorical-cem": CategoricalCEM,
    "predictive-sampling": PredictiveSampling, "planet-cem": PlaNetCEM, "arm-cem": ArmCEM,
}

COSTS: dict[str, Callable[[], Cost]] = {
    "pixels": PixelDistance, "objects": ObjectDistance, "nearest-objects": partial(ObjectDistance, pairing="nearest"),
    "latent": LatentDistance, "reward": PredictedReward, "effort": ActionEffort,
}


def list_planners() -> list[str]:
    """Names for `make_planner`.

    Example:
        >>> list_planners()
        ['arm-cem', 'categorical-cem', 'cem', 'gradient', 'icem', 'mppi', 'planet-cem', 'predictive-sampling']
    """
    return sorted(PLANNERS)


def make_planner(name: str, **options: Any) -> Planner:
    """A planner by name, with options of its class.

    Raises:
        UnknownComponentError: there is none of this name.
        ConfigError: it has no such option, or not with this value.
    Example:
        >>> make_planner("cem", candidates=100).candidates
        100
    """
    kind = PLANNERS.get(canonical(str(name)))
    if kind is None:
        raise UnknownComponentError(
            f"unknown planner '{name}'.{suggestion(str(name), list_planners())} Known: {', '.join(list_planners())}"
        )
    known = {option.name: option.type for option in fields(kind)}
    for option, value in options.items():
        if option not in known:
            raise ConfigError(f"planner '{name}' has no option '{option}'.{suggestion(option, known)} It has: "
                              f"{', '.join(known)}")
        wanted = {"int": int, "float": (int, float), "Returns": str, "Normalize": str}[str(known[option])]
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise ConfigError(f"option '{option}' of planner '{name}' must be {known[option]}, got {value!r}")
    return kind(**options)


def make_cost(text: str) -> Cost:
    """A cost, or a weighted sum of some, as ``"pixels"`` or ``"objects,effort=0.01"``.

    Raises:
        UnknownComponentError: there is none of this name.
        ConfigError: a weight that is no number.
    Example:
        >>> make_cost("pixels,effort=0.01")
        Weighted(terms=((1.0, PixelDistance(frames='last')), (0.01, ActionEffort())))
    """
    terms = []
    for part in str(text).split(","):
        name, _, weight = (piece.strip() for piece in part.partition("="))
        if canonical(name) not in COSTS:
            raise UnknownComponentError(
                f"unknown cost '{name}'.{suggestion(name, COSTS)} Known: {', '.join(COSTS)}; a sum: pixels,effort=0.01"
            )
        try:
            terms.append((float(weight or 1), COSTS[canonical(name)]()))
        except ValueError:
            raise ConfigError(f"cost '{name}' weighs {weight!r}, which is no number: pixels,effort=0.01") from None
    return terms[0][1] if len(terms) == 1 and terms[0][0] == 1 else Weighted(tuple(terms))
