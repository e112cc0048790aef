"""Checkpoints of a run: everything that decides the next step, written beside and renamed.

``checkpoints/step-00001000/`` is a model folder (`worldkit.storage.hub`) plus ``state.pt``: optimiser, random state,
position in the data. Loading it and going on gives the same numbers as never having stopped.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, TrainingError
from ..files import naming, tidy_files, write_atomically
from ..model import WorldModel
from ..storage.folders import WEIGHTS_FILE, tidy_folders, write_folder
from ..storage.hub import load_weights, read_weights, write_model
from ..storage.state import STATE_FILE, read_state, write_state


def save_checkpoint(run: Path, model: WorldModel, state: dict[str, Any], *, keep: int, facts: dict[str, Any]) -> Path:
    """Write ``run/checkpoints/step-N`` and remove older ones (see `prune`); the new one stays.

    Args:
        run: Run folder.
        model: What is trained.
        state: ``optimizer``, ``rng`` (one `random_state` per process), ``watch``, ``ema`` if there is one, and
            ``progress``: ``step``, ``epoch``, ``batch`` (steps made in this epoch), ``seconds``, ``best``, ``owed``.
        keep: How many checkpoints stay.
        facts: For the model card.
    Raises:
        TrainingError: if it cannot be written.
    """

    def fill(folder: Path) -> None:
        write_model(model, folder, facts=facts)
        write_state(state, folder)

    step = state["progress"]["step"]
    with writing(_folder(run, step), run, step):
        folder = write_folder(_folder(run, step), fill)
    prune(run, step, keep=keep)
    return folder


@contextmanager
def writing(path: Path, run: Path, step: int) -> Iterator[None]:
    """Say what a run could not write, and where it goes on.

    Raises:
        TrainingError: for every error of writing a file.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError, CheckpointError) as error:
        if isinstance(error, CheckpointError):  # of a folder within, under a name that passes
            error = error.__cause__ or error
        full = r"no space|i/o error|write failed|inline_container"  # torch.save has RuntimeError for a full disk
        no_room = isinstance(error, OSError) or re.search(full, str(error), re.IGNORECASE)
        advice = ". Is the disk full? Once there is room the same command goes on" if no_room else ""
        raise TrainingError(
            f"cannot write {path} after step {step} ({type(error).__name__}: {error}): {way_back(run, step)}{advice}"
        ) from error


def way_back(run: Path, step: int) -> str:
    """Which checkpoint a run that fails after a step, in the next one, may go on from, in words."""
    newest = latest_checkpoint(run)
    if newest is None:
        return "there is no checkpoint yet"
    if newest != _folder(run, step):
        return f"the last good checkpoint is {newest}"
    older = latest_checkpoint(run, before=step)
    if older is None:
        return f"its only checkpoint, {newest}, leads there at once"
    return f"{newest} leads there at once: delete it to go on from the last good checkpoint, {older}"


def prune(run: Path, step: int, *, keep: int) -> None:
    """Remove all but the newest ``keep`` of the checkpoints up to a step."""
    _remove([folder for folder in _newest_first(run) if folder <= _folder(run, step)][keep:])


def tidy(run: Path) -> None:
    """Clear away what a killed process left half written. Call it before anything is read, holding the run's lock."""
    tidy_folders(run / "checkpoints", "step-*")
    tidy_folders(run, "best")
    for folder in (run, run / "figures"):
        tidy_files(folder)


def drop_later(run: Path, step: int) -> None:
    """Remove checkpoints after a step: damaged ones, where the run goes on from an older one."""
    _remove([folder for folder in _newest_first(run) if folder > _folder(run, step)])


def _remove(folders: Sequence[Path]) -> None:
    for folder in folders:  # gone at once: whoever reads meanwhile finds a checkpoint whole or not at all
        leaving = folder.with_name(f".{folder.name}.dropped.partial")  # as `tidy` knows it
        shutil.rmtree(leaving, ignore_errors=True)  # what a killed process left of an earlier one of this step
        with suppress(OSError):
            folder.rename(leaving)
        shutil.rmtree(leaving, ignore_errors=True)


def _folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """Steps made before a checkpoint was written."""
    return int(folder.name.removeprefix("step-"))


def _newest_first(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-*"), reverse=True)


def latest_checkpoint(run: Path, *, before: int | None = None) -> Path | None:
    """Newest checkpoint that can be read, None if there is none at all; damaged ones are passed over with a warning.

    Args:
        run: Run folder.
        before: Only checkpoints of earlier steps.
    Raises:
        CheckpointError: if there are some, and not one can be read.
    """
    folders = [f for f in _newest_first(run) if before is None or f < _folder(run, before)]
    for folder in folders:
        try:
            read_state(folder)
            read_weights(folder / WEIGHTS_FILE)
            return folder
        except Exception as error:  # any damage; an older checkpoint is better than none
            if not folder.exists():  # a training that is at work here has just dropped it for a newer one
                return latest_checkpoint(run, before=before)
            warnings.warn(f"checkpoint {folder} cannot be read ({type(error).__name__}: {error})", stacklevel=2)
    if folders:
        raise CheckpointError(
            f"none of the {len(folders)} checkpoint(s) in {run / 'checkpoints'} can be read (see the warnings): give a "
            "new run folder, or delete them to begin anew"
        )
    return None


def load_checkpoint(folder: Path, model: WorldModel, *, rank: int = 0) -> dict[str, Any]:
    """Restore the model and this process's random state; returns the rest of `save_checkpoint`'s ``state``.

    Raises:
        CheckpointError: if the state is damaged, or the weights do not fit the model.
    """
    try:
        state = read_state(folder)
        states = state["rng"] if isinstance(state["rng"], list) else [state["rng"]]  # 0.1 stored the one state itself
        set_random_state(states[rank % len(states)])
    except Exception as error:
        raise CheckpointError(f"cannot read {folder / STATE_FILE}: {type(error).__name__}: {error}. Delete {folder} to "
                              "go on from an older one") from error
    load_weights(model, read_weights(folder / WEIGHTS_FILE), where=str(folder))
    return state


def random_state() -> dict[str, Any]:
    """State of torch's random generators."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


class RunLog:
    """``log.jsonl``: one JSON object per line. Opened again after a stop, lines of later steps are dropped."""

    def __init__(self, path: Path, *, step: int):
        self.path = path
        kept = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line)
                except (json.JSONDecodeError, KeyError):
                    break  # a line cut off by a crash
        write_atomically(path, lambda file: file.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8"))

    def write(self, entry: dict[str, Any]) -> None:
        """Append one line. Raises OSError, which names the file."""
        with naming(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All lines."""
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
