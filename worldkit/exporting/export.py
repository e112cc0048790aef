"""`export`: a model's function as a file, checked before it is kept."""

from __future__ import annotations

import contextlib
import copy
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError, ExportError, NoDecoderError
from ..files import naming, no_room, open_to_others
from ..model import ComposedWorldModel
from .checks import Checked, check
from .formats import FORMATS, Format, Free, Untranslated
from .graphs import GRAPHS, Graph, Tensors, make_graph
from .specification import describe, write_readme, write_specification


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file.
        specification: What lies beside it as ``FILE.json``: inputs and outputs with names, types, shapes, meanings.
        checked: How far its answers are from the model's.
    """

    path: Path
    specification: dict[str, Any]
    checked: Checked


def export(
    model: Any, folder: str | Path, *, what: str = "encode", format: str = "onnx", context: int | None = None,
    horizon: int | None = None, latent_actions: bool = False, noise: bool = False, tolerance: float = 1e-4,
    name: str | None = None,
) -> Exported:
    """Write what a model computes as a file for other runtimes.

    The file is written under a temporary name, run, compared with the model, and only then renamed: no file that
    differs is ever there. Batch is free, and so is time where the model allows it; the specification says which.

    Args:
        model: A `worldkit.WorldModel`; its own mode and device stay as they are.
        folder: Where ``WHAT.onnx``, ``WHAT.onnx.json`` and ``README.md`` are written.
        what: ``"encode"``: frames to latents. ``"decode"``: latents to frames. ``"step"``: latents of the newest
            frames, and what is done, to the next latent. ``"rollout"``: the same for several frames, drawn, too.
        format: ``"onnx"`` (extra ``export``), ``"torch-export"``, or ``"safetensors"`` (weights that ``what`` reads).
        context: Frames that step and rollout start from; default: as many as the dynamics looks at, at most 4.
        horizon: Frames that rollout predicts; default 8.
        latent_actions: They are an input of step and rollout; otherwise the model's policy chooses their means.
        noise: What is random is drawn with noise that is an input; otherwise means are taken.
        tolerance: Largest difference ``|a - b| / (1 + |b|)`` from the model.
        name: What the model is called in the specification.
    Returns:
        The file, its specification, and how it compares.
    Raises:
        ExportError: the model cannot do that, an exporter cannot trace it, or the file differs; the message names what.
        NoDecoderError: ``"decode"`` of a model without a decoder.
        MissingExtraError: the packages of ONNX are not installed.
        OSError: a file cannot be written; an older one, and its specification, are as they were.
    Example:
        >>> import tempfile
        >>> from worldkit.assembly import build
        >>> from worldkit.testing.examples import small_config
        >>> found = export(build(small_config()), tempfile.mkdtemp(), what="encode", format="safetensors")
        >>> found.path.name, found.specification["inputs"][0]["shape"]
        ('encode.safetensors', ['batch', 'time', 3, 32, 32])
    """
    if what not in GRAPHS:
        raise ConfigError(f"what must be {', '.join(map(repr, GRAPHS))}, got {what!r}")
    if format not in FORMATS:
        raise ConfigError(f"format must be {', '.join(map(repr, FORMATS))}, got {format!r}")
    if not isinstance(model, ComposedWorldModel):
        raise ExportError(f"{type(model).__name__} is no world model that worldkit knows to take apart; "
                          "worldkit.create_model(...) makes one")
    if what == "decode" and model.decoder is None:
        raise NoDecoderError(f"this model (objective '{model.config.objective.name}') has no decoder, so there is no "
                             "decode to export")
    if what in ("step", "rollout") and model.dynamics is None:
        raise ExportError(f"this model (objective '{model.config.objective.name}') has no dynamics and predicts "
                          f"nothing, so there is no {what} to export")
    form = FORMATS[format]
    model = copy.deepcopy(model).cpu().eval()
    graph = make_graph(model, what, context=context, horizon=horizon, latent_actions=latent_actions, noise=noise).eval()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{what}{form.suffix}"
    temporary = path.with_name(f".{what}.{os.getpid()}.tmp{form.suffix}")
    try:
        with _naming(path):
            example, free, fixed, checked = _write(form, graph, temporary, tolerance)
        with torch.no_grad():
            outputs = graph(*example)
        told = describe(graph, form, path.name, free, fixed, example, outputs, checked, name or model.config.family)
        with naming(path):
            write_specification(path, told, before=lambda: _put(temporary, path))
    finally:
        temporary.unlink(missing_ok=True)
    write_readme(folder)
    return Exported(path, told, checked)


def _put(temporary: Path, path: Path) -> None:
    open_to_others(temporary)
    temporary.replace(path)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say which file there is no room for; exporters tell it as errors of many kinds, or as something that cannot be
    exported."""
    try:
        yield
    except Exception as error:
        if not no_room(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def _write(form: Format, graph: Graph, path: Path, tolerance: float) -> tuple[Tensors, Free, dict[str, str], Checked]:
    """Write a file that computes what the model does, with as many sizes left open as that allows; why others are not.

    Exporters may say that a size is open and still write it into the file; only running it tells.
    """
    fixed: dict[str, str] = {}
    for wanted, batch in ((("batch", "time"), 2), (("batch",), 2), ((), 1)):
        example = graph.examples(batch, graph.time())
        try:
            free = form.write(graph, example, path, wanted)
            if batch > 1 and not any("batch" in axes.values() for axes in free):
                fixed["batch"] = "the exporter writes it into the file"
                continue  # a file for two clips is of no use
            open_ = {name for axes in free for name in axes.values()}
            fixed = {size: why for size, why in fixed.items() if size not in open_}
            return example, free, fixed, check(form, graph, path, free, tolerance, traced=batch)
        except ExportError as error:
            if not wanted or isinstance(error, Untranslated):
                raise
            fixed[wanted[-1]] = str(error).splitlines()[0]
    raise AssertionError("the last attempt returns or raises")
