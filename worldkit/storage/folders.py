"""Folders on disk that hold models: finding them, and writing them whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..files import new_folder, open_to_others, reason

CONFIG_FILE, WEIGHTS_FILE, FACTS_FILE = "config.json", "model.safetensors", "train.json"
AGENT_FILE = "agent.safetensors"
OWN_FILES = (CONFIG_FILE, WEIGHTS_FILE, FACTS_FILE, "README.md", "panel.png", "rollout.gif", "eval-*.md",
             "eval-*.json", "eval-*.html")
"""What a model folder may hold; one that holds anything else is not replaced."""
TRAINED_ON, NOT_RECORDED = "resize in training", "not recorded"
"""Entry of `provenance`: how the frames of the training got the model's size."""


def write_folder(folder: str | Path, fill: Callable[[Path], None]) -> Path:
    """Write a folder beside its place and rename it, so that it is there whole or not at all.

    Args:
        folder: Where it ends up; an existing folder is replaced only after the new one is complete.
        fill: Called with the temporary folder.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = new_folder(folder.parent, f".{folder.name}.", ".partial")
    try:
        fill(temporary)
        open_to_others(temporary)
        for file in filter(Path.is_file, temporary.rglob("*")):
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        if folder.exists():
            old = folder.with_name(f".{folder.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
            try:
                temporary.rename(folder)
            except OSError:
                old.rename(folder)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder


@contextmanager
def writing_model(folder: str | Path) -> Iterator[None]:
    """Say which model folder could not be written, and why.

    Raises:
        CheckpointError: for every error of writing a file.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write the model folder {folder}: {reason(error)}; make room, or give "
                              "another place") from error


def tidy_folders(parent: Path, name: str) -> None:
    """Remove what a `write_folder` that was killed left behind, or, if it was about to replace a folder, put that back.

    Args:
        parent: Where it wrote.
        name: Of the folders, a shell-style pattern.
    """
    for old in parent.glob(f".{name}.old"):
        folder = parent / old.name.removeprefix(".").removesuffix(".old")
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(folder)
    for partial in parent.glob(f".{name}.*.partial"):
        shutil.rmtree(partial, ignore_errors=True)


def check_target(folder: str | Path, source: Path | None = None) -> Path:
    """The folder, as an absolute path, if a model may be written there without a loss.

    Args:
        folder: New, empty, or an earlier model folder with nothing else in it (`OWN_FILES`).
        source: Folder that the model comes from; the two must not overlap.
    Raises:
        CheckpointError: if something would be lost.
    """
    folder = Path(folder).resolve()
    advice = "give a new folder, so that nothing is lost"
    if source is not None:
        source = source.resolve()
        if folder.is_relative_to(source) or source.is_relative_to(folder):
            raise CheckpointError(f"{folder} is, holds or lies in {source}, where the model comes from; {advice}")
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; {advice}")
    held = list(folder.iterdir()) if folder.exists() else []
    if held and not all((folder / name).is_file() for name in (CONFIG_FILE, WEIGHTS_FILE)):
        raise CheckpointError(f"{folder} exists and is no model folder; {advice}")
    foreign = sorted(p.name for p in held if p.is_dir() or not any(p.match(pattern) for pattern in OWN_FILES))
    if foreign:
        raise CheckpointError(f"{folder} holds more than a model: {', '.join(foreign[:5])}; {advice}")
    return folder


def find_model(path: str | Path) -> Path:
    """The model folder meant by a path: itself, or of a run folder ``best/``, else the newest readable checkpoint.

    Of an agent it is the world model it acts through. A checkpoint that cannot be read is passed over with a warning.

    Raises:
        CheckpointError: if there is none.
    """
    folder = Path(path)
    for place in (folder, folder / "best"):
        if (place / CONFIG_FILE).is_file():
            return _of_agent(place) if (place / AGENT_FILE).is_file() else place
    steps = sorted(folder.glob("checkpoints/step-*"), reverse=True)
    for place in steps:
        if (place / "agent" / AGENT_FILE).is_file():
            place = _of_agent(place / "agent")
        if _is_readable(place):
            return place
    what = ("no such folder" if not folder.exists() else f"none of its {len(steps)} checkpoints can be read" if steps
            else f"no {CONFIG_FILE}, no best/ and no checkpoints/ in it")
    raise CheckpointError(
        f"{folder} is no model: {what}. Give a folder written by save_pretrained() or by worldkit train"
    )


def _of_agent(folder: Path) -> Path:
    """The folder of the world model that an agent acts through.

    Raises:
        CheckpointError: it acts through none, or that is not there.
    """
    about = read_json(folder / CONFIG_FILE)
    if not about.get("model"):
        raise CheckpointError(f"{folder} is an agent that acts without a world model: worldkit eval-agent and "
                              "play-agent let it act")
    place = Path(os.path.normpath(folder / about["model"]["place"]))
    if not (place / CONFIG_FILE).is_file():
        raise CheckpointError(f"{folder} acts through the model {place}, which is not there: put it back")
    return place


def _is_readable(folder: Path) -> bool:
    """Whether config and weights are there, the latter in full length; warns if not."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / WEIGHTS_FILE, "pt"):
            problem = "" if (folder / CONFIG_FILE).is_file() else f"it has no {CONFIG_FILE}"
    except (OSError, SafetensorError) as error:
        problem = f"its weights cannot be read: {error}"
    if problem:
        warnings.warn(f"checkpoint {folder} is passed over, {problem}", stacklevel=3)
    return not problem


def read_facts(folder: Path) -> dict[str, Any]:
    """What ``train.json`` says about the training of a model; see `read_json`."""
    return read_json(folder / FACTS_FILE)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file, or, with a warning, if it is damaged."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        warnings.warn(f"{file} cannot be read ({type(error).__name__}: {error})", stacklevel=2)
        return {}


def provenance(folder: Path) -> dict[str, Any]:
    """What a result says of the model it scored: sha256 of its weights file, and the training step if known."""
    facts = read_facts(folder)
    step, resize = facts.get("step"), resize_in_training(facts)
    found = {"weights": digest(folder / WEIGHTS_FILE)} | ({"step": step} if isinstance(step, int) else {})
    return found | ({TRAINED_ON: resize} if resize is not None else {})


def resize_in_training(facts: Mapping[str, Any]) -> str | None:
    """How the frames of a training got the model's size, None if there was nothing to choose or no training is known.

    Args:
        facts: What is known of the training. `NOT_RECORDED`: it began before there was a choice.
    Example:
        >>> resize_in_training({"data": "a.mp4", "pixels": "...", "data.resize": "pad"}), resize_in_training({})
        ('pad', None)
    """
    if "data.resize" in facts or "pixels" in facts:
        return facts.get("data.resize")
    return NOT_RECORDED if facts.get("synthetic data") is False else None


def digest(file: Path | Traversable) -> str:
    """sha256 of a file, as ``sha256sum`` prints it.

    Raises:
        CheckpointError: if it cannot be read.
    """
    try:
        with file.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot read weights {file}: {error}") from error
