"""``run.json``: what a run is, how it began, and what may change when it goes on.

It stays as it was written when the run began; whoever goes on adds an entry to ``"resumed"``.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..config import differences
from ..data import ClipDataset
from ..errors import TrainingError
from ..files import write_atomically
from ..storage.folders import read_json
from ..storage.hub import read_config
from .checkpoint import latest_checkpoint, step_of
from .commit import commit
from .config import TrainConfig

RECORD_FILE, DATA = "run.json", "data fingerprint"
RESIZE = "data.resize"
"""Entry of a run's facts; those of runs that began before there was a choice to record lack it."""
KEPT = ("seed", "init_from", "init_parts", "optimizer", "select_by", "clips", "ema", "ema_every", "ema_after",
        "ema_warmup")
"""Training options that stay for the life of a run: its order of clips, noise, what its optimiser remembers, its
average and ``best/`` rest on them."""
AT_THE_START = ("train.init_from", "train.init_parts")
"""Options that say how to begin: a run that goes on may leave them out."""


def surroundings() -> dict[str, Any]:
    """What this process was started with, and where."""
    return {
        "command": " ".join(sys.argv), "commit": {"worldkit": commit(Path(__file__)), "here": commit(Path.cwd())},
        "worldkit": __version__, "torch": torch.__version__, "python": platform.python_version(),
        "machine": platform.machine(), "threads": torch.get_num_threads(),
    }


def fingerprint(clips: ClipDataset) -> str:
    """A hash by which data are known again wherever they lie: of all lengths, and of two frames.

    Args:
        clips: Clips of the data.
    Returns:
        SHA-256 over the lengths of all episodes and the first frames of the first and the last one that has a clip.
    """
    source = clips.source
    digest = hashlib.sha256(json.dumps([source.length(i) for i in range(source.num_episodes)]).encode())
    for index in (0, len(clips) - 1):
        frame = source.read(clips.window(index)[0], 0, 1)["video"]
        digest.update(np.ascontiguousarray(frame).tobytes())
    return digest.hexdigest()


def write_record(run: Path, record: Mapping[str, Any]) -> None:
    """Write ``run.json`` in one step."""

    def write(temporary: Path) -> None:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(json.dumps(record, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())

    write_atomically(run / RECORD_FILE, write)


def where_to_begin(run: Path, record: Mapping[str, Any]) -> tuple[Path | None, dict[str, Any]]:
    """The checkpoint that a run goes on from, None for a new one, and the record to write.

    Args:
        run: Run folder.
        record: What would be the record of a new run.
    Raises:
        TrainingError: if the folder belongs to another model, or to other data (see `continued`).
        CheckpointError: if not one of its checkpoints can be read.
    """
    newest, began = latest_checkpoint(run), read_json(run / RECORD_FILE)
    if newest is not None and "model" not in began:
        began["model"] = read_config(newest).to_dict()
    if began.get("model", record["model"]) != record["model"]:
        first, *others = differences(record["model"], began["model"], "") or ["their entries differ"]
        more = f" (and {len(others)} more)" if others else ""
        raise TrainingError(f"run folder {run} belongs to another model configuration: {first}{more}. Give the options "
                            "it began with, another folder (--run), or delete it")
    if newest is None:
        return None, dict(record)
    return newest, continued(began, record, run=run, step=step_of(newest))


def continued(began: Mapping[str, Any], now: Mapping[str, Any], *, run: Path, step: int) -> dict[str, Any]:
    """The record of a run that goes on.

    Args:
        began: Its record, as far as there is one.
        now: What would be the record of a new run.
        run: Run folder.
        step: Where it goes on.
    Returns:
        ``began``, completed by ``now``, and with another entry in ``"resumed"``: step, command, commit and what is
        ``changed`` since the run began, option -> (then, now).
    Raises:
        TrainingError: other data, or an option of `KEPT` with another value.
    """
    instead = f"or give a new run folder, where -o train.init_from={run} begins with the weights of this one"
    changed = _changed(began, now)
    if began.get(DATA) != now[DATA] and _old(began) and now["facts"].get(RESIZE) == "pad":
        raise TrainingError(
            f"run {run} began when frames of another shape than the model's were cropped, now "
            f"{now['facts']['pixels']}: go on as it began with -o {RESIZE}=crop, {instead}"
        )
    if began.get(DATA, now[DATA]) != now[DATA]:
        options = in_words({name: values for name, values in changed.items() if name.split(".")[0] == "data"})
        since = "; since it began, sets of few episodes are split another way" if _old(began) else ""
        raise TrainingError(
            f"the data are not those that run {run} began with, they differ in lengths or frames"
            f"{f' ({options})' if options else ''}{since}: give it the same data, {instead}"
        )
    if kept := [f"train.{name}" for name in KEPT if f"train.{name}" in changed]:
        raise TrainingError(
            f"run {run} cannot go on with another {in_words({name: changed[name] for name in kept})}: leave it as it "
            f"was, {instead}"
        )
    entry = {"step": step, "command": now["command"], "commit": now["commit"], "changed": changed}
    return {**now, **began, "resumed": [*began.get("resumed", []), entry]}


def _old(began: Mapping[str, Any]) -> bool:
    """Whether a run began when nothing was said of pixels, on data that are not generated."""
    facts = began.get("facts", {})
    return facts.get("synthetic data") is False and not {RESIZE, "pixels"} & {*facts}


def in_words(changed: Mapping[str, Any]) -> str:
    """``train.lr 0.001 -> 0.0001, train.steps 10 -> 20``."""
    return ", ".join(f"{name} {then} -> {now}" for name, (then, now) in changed.items())


def _changed(began: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    if "train" not in began:  # the record was lost
        return {}
    old, new = _options(began), _options(now)
    changed = {name: [old.get(name), new.get(name)] for name in sorted({*old, *new}) if old.get(name) != new.get(name)}
    return {name: values for name, values in changed.items()
            if not (name in AT_THE_START and values[1] is None or name.startswith("data.") and DATA not in began
                    or name == RESIZE and values[0] is None and began[DATA] == now[DATA])}


def _options(record: Mapping[str, Any]) -> dict[str, Any]:
    """Options of training, those left out at their defaults, and of the data."""
    training = TrainConfig().to_dict() | record["train"]
    data = {name: value for name, value in record["facts"].items() if name == "data" or name.startswith("data.")}
    return {f"train.{name}": value for name, value in training.items()} | data
