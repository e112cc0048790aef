"""One cell of an ablation: train a model, score it, store ``result.json``.

A cell's folder holds ``cell.json`` (what to do), ``run/`` (the training run, with exact resume), ``rollout.gif`` and
``rollout.png``, ``output.log`` (what the process printed) and at the end ``result.json``, written in one step. Any
error becomes a result, too; only a stop (Ctrl-C, a kill, a full disk) leaves no result, and the cell goes on from its
last checkpoint later.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from einops import rearrange

from .. import __version__
from ..batch import to_float_video
from ..data import ClipDataset, collate
from ..errors import (
    ConfigError,
    DataError,
    IncompatibleComponentsError,
    MissingExtraError,
    UnknownComponentError,
)
from ..files import no_room, write_atomically
from ..model import ComposedWorldModel
from ..training import evaluate, mean_image, predict, validation_loss
from ..training.recipes import WEIGHTS_FROM, open_clips, train
from ..viz import animate_rollout, rollout_strip, save_gif, save_png

CELL_FILE, RESULT_FILE, MEMORY_FILE = "cell.json", "result.json", "memory.json"
GIF_FILE, STILL_FILE = "rollout.gif", "rollout.png"
DEFAULTS = {"eval_every": 10**9, "eval_clips": 1, "save_every": 100, "keep": 1}
"""Training options of a cell: one evaluation, its own, at the end; checkpoints often enough to be stopped any time."""
BATCH_SIZE, EXAMPLES, SEED = 8, 2, 0
BUILDING = (ConfigError, IncompatibleComponentsError, MissingExtraError, UnknownComponentError)


def write_json(path: Path, content: Any) -> None:
    """Write a file in one step."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))


def read_json(path: Path) -> Any:
    """Content of a file, None if there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


Doing = Callable[[Mapping[str, Any], Path, bool], "dict[str, Any] | None"]
"""What is done with a cell: (content of ``cell.json``, folder, isolated) -> result, or None if it was stopped."""


def run_cell(folder: Path, *, isolated: bool, does: Doing | None = None) -> dict[str, Any] | None:
    """Do what ``cell.json`` says.

    Args:
        folder: The cell.
        isolated: Whether this process does nothing else, so that its peak memory is the cell's.
        does: What is done; None: `train_and_score`.
    Returns:
        The result, or None if the cell was stopped before it was finished.
    Raises:
        Exception: the disk is full, which says nothing of the cell.
    """
    cell = read_json(folder / CELL_FILE)
    try:
        result = (does or train_and_score)(cell, folder, isolated)
    except Exception as error:  # noqa: BLE001 - whatever else goes wrong in a cell is that cell's result
        if no_room(error):
            raise
        traceback.print_exc(file=sys.stderr)
        stage = "building" if isinstance(error, BUILDING) else "training or evaluation"
        result = failure(f"{type(error).__name__}: {error}", stage)
        if isolated and isinstance(error, UnknownComponentError):
            result["error"] += ("\nA component registered by hand in a script is unknown to the cell's own process: "
                                "make it a plugin, or call worldkit.ablation.run(..., isolate=False)")
    if result is not None:
        write_json(folder / RESULT_FILE, result)
    return result


def failure(error: str, stage: str) -> dict[str, Any]:
    """Result of a cell that failed."""
    return {"status": "failed", "stage": stage, "error": error}


def train_and_score(cell: Mapping[str, Any], folder: Path, isolated: bool) -> dict[str, Any] | None:
    """Train a model and score its predictions."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    model, trained = train(
        cell["preset"], cell["data"], run=folder / "run", overrides=cell["overrides"],
        train_overrides=DEFAULTS | cell["train"], data_options=cell["data_options"], show_progress=False,
    )
    memory = peak_memory(folder, isolated)
    if not trained.finished:
        return None
    report = score(model, cell, folder)
    return {
        "status": "finished",
        "loss": _loss(model, cell, trained.step),
        "parameters": model.parameter_report()["total"],
        "steps": trained.step,
        "seconds": trained.seconds,
        "cpu_seconds": trained.cpu,
        "peak_memory": memory,
        "weights_from": read_json(folder / "run" / "run.json")["facts"].get(WEIGHTS_FROM),
        "device": str(next(model.parameters()).device),
        "threads": torch.get_num_threads(),
        "worldkit": __version__,
        "torch": torch.__version__,
        **report,
    }


def _clips(model: ComposedWorldModel, cell: Mapping[str, Any], split: str, num_frames: int) -> ClipDataset:
    return open_clips(model, cell["data"], split=split, num_frames=num_frames, **cell["data_options"])


def score(model: ComposedWorldModel, cell: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """PSNR and SSIM of predictions driven by the deterministic prior, and pictures of two of them."""
    protocol, device = cell["protocol"], next(model.parameters()).device
    context = protocol["context_frames"]
    clips = _clips(model, cell, protocol["split"], context + protocol["horizon"])
    report = evaluate(
        model, clips, context_frames=context, driven_by=("prior",), max_clips=protocol["clips"],
        batch_size=BATCH_SIZE, seed=SEED, device=device, split=protocol["split"], data=cell["data"],
        training_mean=mean_image(_clips(model, cell, "train", 1)),
    )["prior"]
    films, stills = [], []
    for index in clips.spread(EXAMPLES):
        batch = collate([clips[index]]).to(device)
        with torch.no_grad():
            rollout = predict(model, batch, context_frames=context, driven_by="prior", generator=None)
        predicted = torch.cat([_one_picture(rollout.context_video), _one_picture(rollout.video)]).clamp(0, 1)
        truth = _one_picture(to_float_video(batch.video))
        films.append(animate_rollout(truth, {"prediction": predicted}, context_frames=context, cell=96))
        stills.append(rollout_strip(truth, {"prediction": predicted}, context_frames=context, cell=64))
    save_gif(torch.cat(films, -1), folder / GIF_FILE, fps=4)
    save_png(torch.cat(stills, -2), folder / STILL_FILE)
    return {"psnr": report.summary("model", "psnr").mean, "ssim": report.summary("model", "ssim").mean,
            "report": report.to_dict()}


def _one_picture(video: torch.Tensor) -> torch.Tensor:
    """``[1, (V,) T, C, H, W]`` -> ``[T, C, (V) H, W]``: views below one another."""
    return video[0] if video.ndim == 5 else rearrange(video[0], "v t c h w -> t c (v h) w")


def _loss(model: ComposedWorldModel, cell: Mapping[str, Any], step: int) -> float | None:
    """The training loss on the clips of the scored split; None where these are too short for a training clip."""
    protocol, device = cell["protocol"], next(model.parameters()).device
    try:
        clips = _clips(model, cell, protocol["split"], model.clip_length)
    except DataError:
        return None
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))), torch.no_grad():
        torch.manual_seed(SEED)
        return validation_loss(model, clips, max_clips=protocol["clips"], batch_size=BATCH_SIZE, step=step,
                               device=device)


def peak_memory(folder: Path, isolated: bool) -> int | None:
    """Bytes: the GPU's peak, or that of this process; the largest over all processes that trained this cell."""
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    elif isolated:
        peak = process_peak()
    else:
        return None
    peak = max(peak, read_json(folder / MEMORY_FILE) or 0)
    write_json(folder / MEMORY_FILE, peak)
    return peak


def process_peak() -> int:
    """Largest resident memory of this process so far, bytes.

    Not ``ru_maxrss`` where it can be helped: under Linux a new process inherits it from the one that started it.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
