"""Protocols by name: those of papers (`worldkit.metrics.PROTOCOLS`), and one of every preset."""

from __future__ import annotations

import fnmatch

from ..errors import ConfigError, UnknownComponentError
from ..factory import get_model_spec
from ..metrics import PROTOCOLS, Protocol
from ..presets import preset_names
from ..registry import suggestion

BY_HAND = "by hand"
"""Name of a protocol that is neither a paper's nor a preset's."""

MAX_CLIPS = 100
"""Clips a protocol made from a preset scores at most."""


def list_protocols(pattern: str = "*") -> list[str]:
    """Names of the protocols of papers that match a shell-style pattern. Preset names are protocols, too."""
    return sorted(fnmatch.filter(PROTOCOLS, pattern))


def find_protocol(name: str) -> Protocol:
    """The protocol of a paper, or the one a preset's ``eval`` table describes.

    Raises:
        UnknownComponentError: if there is neither; with the nearest name.
        ConfigError: of a preset that predicts nothing and sees nothing, as it draws single pictures out of nothing.
    Example:
        >>> find_protocol("lpwm-sketchy").horizon, find_protocol("lpwm-balls-mini").context_frames
        (44, 5)
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    try:
        spec = get_model_spec(name)
    except UnknownComponentError as error:
        known = [*PROTOCOLS, *preset_names()]
        raise UnknownComponentError(
            f"unknown protocol '{name}'.{suggestion(name, known)}\n  protocols: {', '.join(PROTOCOLS)}, and the name "
            "of every preset"
        ) from error
    obs, table = spec.config.get("obs", {}), spec.eval
    if table.get("horizon") == 0:
        raise ConfigError(f"'{spec.name}' draws single pictures out of nothing and predicts none, so there is nothing "
                          "to evaluate: what it draws is judged by worldkit sample MODEL --data DATA")
    size = f"{obs['height']}x{obs['width']}" if "height" in obs and "width" in obs else None
    metrics = {"metrics": tuple(table["metrics"])} if "metrics" in table else {}
    return Protocol(
        spec.name, f"the eval table of preset {spec.name}", spec.source, int(table.get("context_frames", 1)),
        int(table.get("horizon", spec.config.get("timestep_horizon", 10))), resolution=size, max_clips=MAX_CLIPS,
        driven_by=tuple(table.get("driven_by", ("prior",) if spec.config.get("dynamics") else ("encoded",))), **metrics,
    )
