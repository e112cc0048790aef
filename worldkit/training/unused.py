"""What a model is trained on: `fed` leaves out the rest, `unused` tells of it, with the option that would."""

from __future__ import annotations

from typing import Any

from ..data import ClipDataset
from ..model import ComposedWorldModel

_OPTIONS = {
    "action": "-o conditioners.action=action (its width is taken from the data)",
    "goal_image": "-o conditioners.goal_image=goal-image",
    "language": "-o conditioners.language.name=language -o conditioners.language.{more}",
}


def fed(model: ComposedWorldModel, clips: ClipDataset, *, targets: bool = True) -> ClipDataset:
    """The clips with the conditions that a model takes, the vectors that it observes, and (``targets``) what its heads
    learn, unless these were chosen already."""
    conditions = model.config.columns if clips.conditions is None else clips.conditions
    wanted = model.config.targets if targets else {}
    vectors = model.config.vectors if clips.vectors is None else clips.vectors
    return clips.feeding(conditions, wanted if clips.targets is None else clips.targets, vectors)


def unused(model: ComposedWorldModel, clips: ClipDataset) -> list[str]:
    """A note for every condition in the data that the model does not take; none for models of single images."""
    if model.dynamics is None:
        return []
    found = clips.conditions_in_data()
    told = []
    read = {*(fed(model, clips).conditions or {}).values(), *model.config.obs.fed_from.values()}
    for name in sorted(found.keys() - read):
        option = _OPTIONS.get(name, f"-o conditioners.{name}=CONDITIONER")
        option = option.format(more=_language(found[name])) if name == "language" else option
        told.append(f"NOT TRAINED ON: the data have '{name}' ({_shape(found[name])}), which this model does not take. "
                    f"To train on it, with a run folder of its own: {option}")
    return told


def _language(value: Any) -> str:
    if isinstance(value, str):
        return "model=google-t5/t5-small"
    length, width = getattr(value, "shape", ()) if len(getattr(value, "shape", ())) == 2 else ("LENGTH", "WIDTH")
    return f"embed_dim={width} -o conditioners.language.max_length={length}"


def _shape(value: Any) -> str:
    if not hasattr(value, "shape"):
        return f"text, as {value!r:.60}" if isinstance(value, str) else f"of type {type(value).__name__}"
    return f"{value.dtype} {list(value.shape)}"
