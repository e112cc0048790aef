"""``worldkit demo``: from nothing to a trained world model and a report, on a CPU, without a download.

Makes Balls data (synthetic: three balls that bounce and collide), trains ``lpwm-balls-mini`` from scratch for a few
minutes, scores it on clips it never saw, and writes ``report.html``. Where the package ships weights of a longer run of
the same command, both models are shown, each under its own name.
"""

from __future__ import annotations

import json
import time
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from ..data import ClipDataset, collate
from ..factory import create_model, get_model_spec
from ..metrics import Report
from ..model import ComposedWorldModel
from ..training import animation, evaluate, mean_image, panel
from ..training.figures import INFERRED_NOTE
from ..training.recipes import open_clips, train
from ..viz import HtmlReport
from ..viz.boxes import boxes_from_particles, draw_boxes
from ..viz.images import enlarge, grid, to_uint8

PRESET, DATA = "lpwm-balls-mini", "balls-32"
CONTEXT, HORIZON, CLIPS = 5, 5, 40


def demo(*, out: str | Path, seconds: float, seed: int = 0) -> Path:
    """Run the demo.

    Args:
        out: Folder for the run and the report.
        seconds: Training time.
        seed: Of weights, data order and noise.
    Returns:
        Path of ``report.html``.
    """
    out, console, started = Path(out), Console(), time.perf_counter()
    run = out / f"run-{seconds:g}s-seed{seed}"
    console.print(f"[bold]1/3[/] making {DATA} (synthetic) and training {PRESET} from scratch for {seconds:g} s")
    model, result = train(PRESET, DATA, run=run, train_overrides={
        "seconds": seconds, "seed": seed, "eval_every": 10**9, "eval_clips": 8, "log_every": 5})
    console.print(f"[bold]2/3[/] predicting {CLIPS} test clips it never saw")
    test = open_clips(model, DATA, split="test", num_frames=CONTEXT + HORIZON)
    training = mean_image(open_clips(model, DATA, split="train", num_frames=1))
    models = {f"this run ({result.step} steps, {result.seconds:.0f} s)": model}
    if get_model_spec(PRESET).weights is not None:
        facts = shipped_facts()
        models[f"shipped weights ({facts['steps']} steps, {facts['minutes']} min)"] = create_model(
            PRESET, pretrained=True
        )
    scores = {name: _score(m, test, training, seed) for name, m in models.items()}
    for report in scores.values():
        report.print()
    console.print("[bold]3/3[/] drawing the report")
    page = _report(models, scores, test, result.log, seed=seed, seconds=time.perf_counter() - started)
    path = out / "report.html"
    page.write(path)
    return path


def shipped_facts() -> dict[str, Any]:
    """How the shipped weights were made: command, seed, steps, minutes, machine, log."""
    file = resources.files("worldkit.presets").joinpath("weights", f"{PRESET}.json")
    return json.loads(file.read_text(encoding="utf-8"))


def _score(model: ComposedWorldModel, test: ClipDataset, training: Tensor, seed: int) -> Report:
    return evaluate(model, test, context_frames=CONTEXT, training_mean=training, max_clips=CLIPS, seed=seed,
                    split="test", data=f"{DATA} (synthetic)")["prior"]


def _report(models: dict[str, ComposedWorldModel], scores: dict[str, Report], test: ClipDataset,
            log: list[dict[str, Any]], *, seed: int, seconds: float) -> HtmlReport:
    page = HtmlReport("worldkit demo: a latent particle world model of bouncing balls")
    page.text(
        "Synthetic data: three balls of radius 8 (in 64 pixels) bounce and collide; shown at 32 pixels. The model "
        "sees only video. It was trained on the training split and is scored here on test clips it never saw: "
        f"{CONTEXT} frames are given, {HORIZON} are predicted with the mean of its own policy. Two baselines stand "
        "beside it: repeating the last given frame, and the mean frame of the training data."
    )
    page.text(f"This demo took {seconds / 60:.1f} minutes on {torch.get_num_threads()} CPU thread(s); seed {seed}.")
    train = [line for line in log if "loss" in line]
    page.heading("Learning curve of this run")
    page.curve({"training loss": ([line["step"] for line in train], [line["loss"] for line in train])},
               x_label="step", y_label="loss")
    page.curve({"reconstruction PSNR": ([line["step"] for line in train], [line["psnr"] for line in train])},
               x_label="step", y_label="dB")
    page.heading("Predictions of clips it never saw")
    for name, report in scores.items():
        header, rows = report.table()
        page.table(header, rows, caption=f"{name}: mean over {HORIZON} predicted frames and {report.protocol['n']} "
                                         "clips ± half of the 95% interval over clips")
        page.text(_verdict(report))
    page.curve(_horizon_curves(scores), x_label="predicted frame", y_label="PSNR (dB)")
    clip = collate([test[len(test) // 2]])
    for name, model in models.items():
        page.heading(f"Taken apart: {name}")
        page.image(panel(model, clip.video[0], cell=96), caption="one column per frame")
        page.heading(f"Rolled out: {name}")
        for index in (0, len(test) // 2):
            generator = torch.Generator().manual_seed(seed)
            frames = animation(model, collate([test[index]]), context_frames=CONTEXT, generator=generator)
            page.gif(frames, fps=4, caption="Red: the truth; blue: given frames, reconstructed; green: predicted. "
                     f"The tables score the mean prediction. {INFERRED_NOTE}")
        page.heading(f"What if: {name}")
        page.gif(what_if(model, clip.video), fps=4, caption=(
            "left: the model's prediction; right: the same after its largest particle was moved by 0.35 of the "
            "image's half side in the last given frame. Boxes: the edited particle"))
    return page


def _verdict(report: Report) -> str:
    """What the numbers say, in a sentence: a baseline is beaten if the margin is beyond chance of the clips."""
    beaten = [name for name in report.baselines if report.margin("psnr", name).low > 0]
    lost = [name for name in report.baselines if name not in beaten]
    parts = [f"beats {' and '.join(beaten)}"] if beaten else []
    parts += [f"does NOT beat {' and '.join(lost)}"] if lost else []
    return f"Mean PSNR over the {HORIZON} predicted frames: the model {', and '.join(parts)}."


def _horizon_curves(scores: dict[str, Report]) -> dict[str, Any]:
    curves = {}
    for name, report in scores.items():
        for method in report.scores:
            label = name if method == "model" else method
            points = report.curve(method, "psnr")
            curves[label] = (list(range(1, len(points) + 1)), [p.mean for p in points])
    return curves


@torch.no_grad()
def what_if(model: ComposedWorldModel, video: Tensor, *, shift: float = 0.35, cell: int = 160) -> Tensor:
    """A prediction beside the same prediction after one particle was moved.

    Args:
        model: A model with particle latents.
        video: One clip ``[1, T, C, H, W]``; the first frames are given.
        shift: How far, in image coordinates [-1, 1]; towards the image's middle.
        cell: Side of a picture, pixels.
    Returns:
        uint8 ``[horizon, 3, h, w]``.
    """
    z = model.encode(video[:, :CONTEXT])
    visible = (z.transparency * z.size.prod(-1, keepdim=True))[0, -1, :, 0]
    token = int(visible.argmax())
    towards = -torch.sign(z.position[0, -1, token]) * shift
    edited = type(z).cat([z[:, :-1], z[:, -1:].edit([token], delta_position=towards)])
    pictures = []
    for start in (z, edited):
        rollout = model.rollout(start, HORIZON, deterministic=True)
        latents = type(z).cat([start[:, -1:], rollout.latents])
        frames = torch.cat([model.decode(start).video[:, -1:], rollout.video], 1)[0].clamp(0, 1)
        large, factor = enlarge(to_uint8(frames), cell)
        side = frames.shape[-1] * factor
        boxes = boxes_from_particles(latents.position[0, :, token], latents.scale[0, :, token], side, side)
        pictures.append([draw_boxes(f, b[None]) for f, b in zip(large, boxes, strict=True)])
    return torch.stack([grid(torch.stack(pair), 2) for pair in zip(*pictures, strict=True)])
