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
from ..errors import WorldkitError
from ..factory import create_model, get_model_spec
from ..metrics import Report
from ..metrics.report import ARROWS
from ..model import ComposedWorldModel
from ..progress import track
from ..training import evaluate, film, mean_image, panel
from ..training.recipes import open_clips, train
from ..viz import HtmlReport
from ..viz.boxes import boxes_from_particles, draw_boxes
from ..viz.images import WHITE, enlarge, grid, labelled_rows, to_uint8

PRESET, DATA = "lpwm-balls-mini", "balls-32"
CONTEXT, HORIZON, CLIPS = 5, 5, 40


def demo(*, out: str | Path, seconds: float, seed: int = 0, device: str | None = None) -> Path:
    """Run the demo.

    Args:
        out: Folder for the run and the report.
        seconds: Training time.
        seed: Of weights, data order and noise.
        device: Where to train; None: the GPU if there is one. Everything else happens on the CPU.
    Returns:
        Path of ``report.html``.
    """
    out, console, started = Path(out), Console(), time.perf_counter()
    run = out / f"run-{seconds:g}s-seed{seed}"
    console.print(f"[bold]1/3[/] making {DATA} (synthetic) and training {PRESET} from scratch for {seconds:g} s")
    model, result = train(PRESET, DATA, run=run, train_overrides={
        "seconds": seconds, "seed": seed, "eval_every": 10**9, "eval_clips": 8, "log_every": 5, "device": device})
    model.to("cpu")
    console.print(f"[bold]2/3[/] predicting {CLIPS} test clips it never saw, and scoring the predictions")
    test = open_clips(model, DATA, split="test", num_frames=CONTEXT + HORIZON)
    training = mean_image(open_clips(model, DATA, split="train", num_frames=1))
    models = {f"this run ({result.step} steps, {result.seconds:.0f} s)": model}
    if get_model_spec(PRESET).weights is not None:
        facts = shipped_facts()
        models[f"shipped weights ({facts['steps']} steps, {facts['minutes']} min)"] = create_model(
            PRESET, pretrained=True
        )
    scores = {}
    for name, scored in models.items():
        scores[name] = _score(scored, test, training, seed)
        scores[name].print(title=name)
    console.print(f"[bold]3/3[/] drawing the report: curves, panels and films of {len(models)} model(s)")
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
        page.table(header, rows, caption=name)
        page.text(f"{_verdict(report)} Numbers: mean over {HORIZON} predicted frames and {report.protocol['n']} clips "
                  f"± half of the 95% interval over clips. {ARROWS}")
    page.curve(_horizon_curves(scores), x_label="predicted frame", y_label="PSNR (dB)")
    clip = collate([test[len(test) // 2]])
    for name, model in track(models.items(), "drawing", total=len(models)):
        page.heading(f"Taken apart: {name}")
        page.image(panel(model, clip.video[0], cell=96), caption="one column per frame")
        page.heading(f"Rolled out: {name}")
        for index in (0, len(test) // 2):
            generator = torch.Generator().manual_seed(seed)
            frames, still = film(model, collate([test[index]]), context_frames=CONTEXT, generator=generator)
            page.gif(frames, still=still, fps=4, caption="Red: the truth; blue: given frames, reconstructed; green: "
                     "predicted. The tables score the mean prediction.")
        page.heading(f"What if: {name}")
        try:
            frames, still = what_if(model, clip.video)
        except WorldkitError as error:  # a model that was hardly trained may see nothing
            page.text(f"Nothing to move: {error}")
            continue
        page.gif(frames, still=still, fps=2, caption=(
            "Left (above): the model's prediction. Right (below): its prediction after the largest thing, with all its "
            "particles, was moved by half of the image's half side towards the middle in every given frame. The box "
            "marks it in the last one."))
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
def what_if(model: ComposedWorldModel, video: Tensor, *, shift: float = 0.5, cell: int = 96) -> tuple[Tensor, Tensor]:
    """A prediction beside the prediction after a whole thing was moved in every given frame.

    Args:
        model: A model with particle latents.
        video: One clip ``[1, T, C, H, W]``; the first frames are given.
        shift: How far, in image coordinates [-1, 1]; towards the image's middle.
        cell: Height of a picture of the still strip, pixels.
    Returns:
        Animation ``[1 + horizon, 3, h, w]`` and strip ``[3, h', w']`` of the last given frame and the predicted ones,
        uint8; a box marks what was moved.
    Raises:
        WorldkitError: nothing is visible in a given frame.
    """
    z = model.encode(video[:, :CONTEXT])
    largest = z.objects()[:1] or [[z.nearest((0.0, 0.0))]]
    thing = z.follow(largest[0])
    towards = -torch.sign(z.position[0, -1, largest[0][0]]) * shift
    rows = {}
    for name, start in (("prediction", z), ("what if", z.edit(thing, delta_position=towards))):
        given = model.decode(start).video.clamp(0, 1)
        predicted = model.rollout(given, HORIZON, deterministic=True).video.clamp(0, 1)
        pictures = enlarge(to_uint8(torch.cat([given[0, -1:], predicted[0]])), cell)[0]
        box = boxes_from_particles(start.position[0, -1, largest[0][:1]], start.scale[0, -1, largest[0][:1]],
                                   *pictures.shape[-2:])
        pictures[0] = draw_boxes(pictures[0], box, colors=[WHITE])
        rows[name] = pictures
    strip = labelled_rows(rows, ["given", *(f"predicted {t}" for t in range(1, HORIZON + 1))])
    return torch.stack([grid(torch.stack(pair), 2) for pair in zip(*rows.values(), strict=True)]), strip
