"""The model card: what a model is, on what it was trained, what it scored, in Markdown with the hub's metadata."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .. import __version__

if TYPE_CHECKING:
    from ..model import WorldModel

_USAGE = """```python
import worldkit

model = worldkit.create_model("{source}")
# video [{axes}], uint8 or float in [0, 1]{values}
{call}
```
"""


def model_card(
    model: WorldModel,
    facts: Mapping[str, Any] | None = None,
    *,
    title: str = "A worldkit model",
    source: str = "dir:THIS_FOLDER",
    licence: str | None = None,
    evaluations: Mapping[str, str] | None = None,
    pictures: Sequence[str] = (),
) -> str:
    """A model card.

    Args:
        model: The model.
        facts: How it was trained: preset, data, seed, steps, ...
        title: Heading.
        source: What to pass to `worldkit.create_model` to load it.
        licence: Of the weights, as the hub spells it (``"mit"``); None says that nobody stated one.
        evaluations: Heading -> Markdown with protocol and numbers.
        pictures: Names of image files beside the card.
    Example:
        >>> from worldkit.testing.examples import small_config; from worldkit.assembly import build
        >>> "library_name: worldkit" in model_card(build(small_config()), {"seed": 0})
        True
    """
    header = ["---", "library_name: worldkit", "tags: [world-model, video-prediction]"]
    header += [f"license: {licence}"] if licence else []
    parts = ["\n".join([*header, "---"]), f"# {title}", _describe(model), _usage(model, source)]
    parts += [f"![{name}]({name})" for name in pictures]
    if facts:
        parts += ["## Training", "\n".join(f"- {name}: {value}" for name, value in facts.items())]
    for heading, text in (evaluations or {}).items():
        parts += [f"## {heading}", re.sub("^#", "##", text, flags=re.MULTILINE)]
    if not evaluations:
        parts += ["## Evaluation", "No evaluation was stored with this model: `worldkit eval MODEL --data ...`."]
    rows = "\n".join(f"| {name} | {count:,} |" for name, count in model.parameter_report().items())
    parts += ["## Parameters", f"| part | parameters |\n| --- | ---: |\n{rows}"]
    parts += ["## Licence", licence or "Not stated. Ask whoever shared these weights."]
    parts += [f"Written by worldkit {__version__}, torch {torch.__version__}, Python {platform.python_version()}."]
    return "\n\n".join(parts) + "\n"


def _usage(model: WorldModel, source: str) -> str:
    """Code that loads the model and predicts with it, or encodes if it is a model of images."""
    config = model.config
    names = list(config.conditioners)
    pairs = ", ".join(f'"{name}": {name}' for name in names)
    given = f", conditions={{{pairs}}}" if names else ""
    values = "; values of every frame cover those of video and the 10 predicted ones" if names else ""
    predicts = getattr(config, "dynamics", None) is not None
    call = f"rollout = model.rollout(video, horizon=10{given})" if predicts else "latent = model.encode(video)"
    axes = "B, V, T, C, H, W" if config.obs.views > 1 else "B, T, C, H, W"
    return _USAGE.format(source=source, axes=axes, values=values if predicts else "", call=call)


def _describe(model: WorldModel) -> str:
    config = model.config
    obs = config.obs
    views = f", {obs.views} views" if obs.views > 1 else ""
    named = {kind: getattr(config, kind, None) for kind in ("encoder", "dynamics", "latent_action", "decoder", "prior")}
    parts = ", ".join(f"{kind.replace('_', ' ')} `{part.name}`" for kind, part in named.items() if part is not None)
    takes = ", ".join(f"`{name}`" for name in config.conditioners) or "none"
    heads = ", ".join(f"`{name}` ({head.name})" for name, head in config.heads.items())
    heads = f" Predicted besides: {heads}." if heads else ""
    return (
        f"A world model of video, {obs.height} x {obs.width} pixels{views}: {parts}. Window: {config.timestep_horizon} "
        f"frames. Conditions: {takes}.{heads}"
    )
