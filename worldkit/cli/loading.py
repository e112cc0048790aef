"""The models that commands are given."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, UnknownComponentError
from .output import console


@dataclass(frozen=True)
class Loaded:
    """A model, where it lies (its preset's name, if in the package), its preset, what results say of its weights.

    ``trained_on``: its data, if known; ``shipped``: it comes along with the package, and so can these.
    """

    model: Any
    place: str
    preset: str | None
    facts: Mapping[str, Any]
    trained_on: str | None = None
    shipped: bool = False


def load(source: str) -> Loaded:
    """A model by preset name (with weights), folder, run folder or hub id; tells which folder that is."""
    from ..factory import create_model, get_model_spec
    from ..presets import packaged_file, resolve_preset
    from ..presets.shipped import facts_of
    from ..storage.folders import digest, provenance, read_facts
    from ..storage.hub import load_folder, locate

    if is_place(source):
        folder = locate(source)
        console.print(f"model: {folder}", soft_wrap=True)
        facts = read_facts(folder)
        return Loaded(load_folder(folder), str(folder.resolve()), _known_preset(facts.get("preset")),
                      provenance(folder), facts.get("data"))
    model, spec = create_model(source, pretrained=True), get_model_spec(resolve_preset(source))
    if str(spec.weights).startswith("hub:"):
        return Loaded(model, spec.name, spec.name, provenance(locate(str(spec.weights))))
    facts = {"weights": digest(packaged_file(spec))}
    return Loaded(model, spec.name, spec.name, facts, facts_of(spec).get("data"), shipped=True)


def data_of(options: Namespace, loaded: Loaded) -> str:
    """What ``--data`` says; without it, the data that a model was trained on which comes along.

    Raises:
        ConfigError: it must be said.
    """
    if options.data is not None:
        return options.data
    if loaded.trained_on is None or not loaded.shipped:
        known = f". It was trained on --data {loaded.trained_on}" if loaded.trained_on else ""
        raise ConfigError(f"say with --data what {loaded.place} is to predict{known}")
    console.print(f"data: {loaded.trained_on}, which {loaded.place} was trained on; --data names others")
    return loaded.trained_on


def is_place(source: str) -> bool:
    """Whether a model is named by where it lies, not by its preset."""
    return source.startswith(("hub:", "dir:")) or "/" in source or Path(source).exists()


def _known_preset(name: Any) -> str | None:
    """The preset that ``train.json`` names, if it is one here; a note if it is not."""
    from ..presets import resolve_preset

    if name is None:
        return None
    try:
        return resolve_preset(str(name))
    except UnknownComponentError:
        console.print(f"note: trained as preset '{name}', which is not known here: its protocol is not used")
        return None


def protocol(options: Namespace, loaded: Loaded) -> tuple[int, int]:
    """(frames given, frames predicted): as the options say, else as the preset does, else by hand."""
    from ..training.recipes import protocol as frames_of

    given = {"context_frames": options.context, "horizon": options.horizon}
    if loaded.preset is not None:
        return frames_of(loaded.preset, loaded.model, given)
    window = loaded.model.config.timestep_horizon
    return given["context_frames"] or max(1, window // 2), given["horizon"] or window
