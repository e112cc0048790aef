"""What lies beside the weights of a preset: ``weights/NAME.json``, written by ``benchmarks/zoo.py``.

It says how they were made (command, data, seed, steps, minutes, hardware, log), which configuration they were trained
with, what an evaluation found, and what a few clips must give (`"check"`). Nothing here needs PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from importlib import resources
from typing import Any

from ..config import WorldModelConfig, differences
from ..errors import CheckpointError, ConfigError
from . import ModelSpec, packaged_file

MAX_MB, MAX_MB_TOGETHER = 5, 40
"""Largest weights file, and all of them together, in millions of bytes: they travel in every wheel."""


def facts_of(spec: ModelSpec) -> dict[str, Any]:
    """What is known of the weights that a preset brings inside the package; empty if there are none, or no file.

    Raises:
        CheckpointError: the file is damaged.
    Example:
        >>> from worldkit.presets import preset_spec
        >>> facts_of(preset_spec("lpwm-balls-mini"))["data"], facts_of(preset_spec("lpwm-sketchy"))
        ('balls-32', {})
    """
    if spec.weights is None or spec.weights.startswith("hub:"):
        return {}
    file = resources.files(__package__).joinpath(f"{spec.weights.removesuffix('.safetensors')}.json")
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged ({error}): reinstall worldkit") from error


def megabytes(spec: ModelSpec) -> float:
    """Size of the weights inside the package, millions of bytes."""
    return len(packaged_file(spec).read_bytes()) / 1e6


def refuse_older(spec: ModelSpec, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Refuse weights that were trained with another configuration than the preset has now.

    What is minimised (``objective``) may differ: it has no part in what a trained model does.

    Args:
        spec: The preset.
        config: Its configuration, as a nested dict with all defaults.
        facts: Of its weights; without an entry ``"config"`` nothing is known, and nothing refused.
    Raises:
        CheckpointError: naming the first option that differs, and what to do.
    """
    stored = facts.get("config")
    if stored is None:
        return
    stored = {**stored, "objective": config["objective"]}
    with suppress(ConfigError):  # of an option that is not there any more; else it has all defaults
        stored = WorldModelConfig.parse(stored).to_dict()
    lines = differences(dict(config), stored, "")
    if lines:
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        raise CheckpointError(
            f"the weights of '{spec.name}' belong to another version of the preset: {lines[0]}{more} (there: what they "
            "were trained with). Reinstall worldkit, so that both are of one version; if you changed the preset, undo "
            f"that, or train it anew: worldkit train {spec.name} --data {facts.get('data', 'PATH')}"
        )
