"""Time and memory of DDLP at the shapes of OBJ3D and Balls, beside the official code; one JSON line per measurement.

Tasks: ``forward`` (loss without a graph), ``train`` (forward, backward, Adam), ``rollout-4-7`` (4 frames given, 7
predicted, which is what a window of ten holds; encoded, predicted and drawn), ``predict-4-7`` (the same between
latents: dynamics alone), and ``rollout-10-10``, most of it beyond the window. With ``--reference`` both sides have the
same weights, and before any pair losses and predictions are compared. See README.md and beside.py.

    python benchmarks/ddlp.py --repeat 5 --reference ../ddlp
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from beside import Benchmark, parse, run, train_step

SHAPES = ("obj3d", "balls")
ROLLOUTS = {"rollout-4-7": (4, 7), "predict-4-7": (4, 7), "rollout-10-10": (10, 10)}
TASKS = ("forward", "train", *ROLLOUTS)
TOLERANCE = 1e-4
"""Largest relative difference of losses, and difference of predicted positions; 32-bit numbers."""


def build_ours(shape: str, options: argparse.Namespace):
    """The preset's model, with the official weights where there are any."""
    import torch

    import worldkit
    from worldkit.assembly import build
    from worldkit.convert.ddlp import load_state

    torch.manual_seed(options.seed)
    model = build(worldkit.create_config(f"ddlp-{shape}", objective={"reconstruction": "mse"}))
    if options.weights:
        load_state(model, torch.load(options.weights))
    return model


def build_reference(shape: str, options: argparse.Namespace):
    """The official model and its hyper-parameters."""
    import reference_ddlp
    import torch

    h = reference_ddlp.hparams(options.reference, shape)
    torch.manual_seed(options.seed)
    model = reference_ddlp.build(options.reference, h)
    if Path(options.weights).exists():
        model.load_state_dict(torch.load(options.weights))
    return model, h


def run_ours(shape: str, task: str, options: argparse.Namespace) -> Callable[[], object]:
    """What to time, with worldkit; everything that is built once is built here."""
    import torch

    import worldkit
    from worldkit import Batch
    from worldkit.distributions import MEANS
    from worldkit.nn.checkpoint import set_checkpointing

    model = build_ours(shape, options).eval()
    if task == "train":
        video = make_video(shape, model.clip_length, options)
        model.train()
        set_checkpointing(model, options.checkpointing)
        train = worldkit.get_model_spec(f"ddlp-{shape}").train
        adam = torch.optim.Adam(model.parameters(), lr=train["lr"], eps=train["eps"], fused=options.fused or None)
        return lambda: train_step(lambda: model.loss(Batch(video)).total, adam)
    if task == "forward":
        video = make_video(shape, model.clip_length, options)
        return torch.no_grad()(lambda: model.loss(Batch(video), sampler=MEANS).total.item())
    context, horizon = ROLLOUTS[task]
    if task.startswith("predict"):
        z = make_latents(model, shape, context, options)
        return torch.no_grad()(lambda: model.rollout(z, horizon, deterministic=True, decode=False).latents.position)
    video = make_video(shape, context, options)
    return torch.no_grad()(lambda: model.rollout(video, horizon, deterministic=True))


def run_reference(shape: str, task: str, options: argparse.Namespace) -> Callable[[], object]:
    """The same thing with the official code."""
    import reference_ddlp as reference
    import torch

    model, h = build_reference(shape, options)
    model.eval()
    if task == "train":
        video = make_video(shape, h["timestep_horizon"] + 1, options)
        model.train()
        adam = torch.optim.Adam(model.get_parameters(), lr=h["lr"], betas=tuple(h["adam_betas"]), eps=h["adam_eps"],
                                weight_decay=h["weight_decay"])
        return lambda: train_step(lambda: reference.loss(model, video, h, deterministic=False), adam)
    if task == "forward":
        video = make_video(shape, h["timestep_horizon"] + 1, options)
        return torch.no_grad()(lambda: reference.loss(model, video, h, deterministic=True).item())
    context, horizon = ROLLOUTS[task]
    if task.startswith("predict"):
        z = make_latents(build_ours(shape, options), shape, context, options).values
        return torch.no_grad()(lambda: reference.predict(model, z, horizon)[:, context:])
    video = make_video(shape, context + horizon, options)
    return torch.no_grad()(lambda: reference.rollout(model, video, context, horizon))


def check(shape: str, options: argparse.Namespace) -> dict:
    """Write official weights for both sides, and compare a loss and predictions made with them."""
    import torch

    model, _ = build_reference(shape, options)
    torch.save(model.state_dict(), options.weights)
    del model
    options.batch = 2
    losses = [make(shape, "forward", options)() for make in (run_ours, run_reference)]
    positions = [make(shape, "predict-4-7", options)() for make in (run_ours, run_reference)]
    moved = (positions[0] - positions[1]).abs().max().item()
    differences = {"loss": abs(losses[0] / losses[1] - 1), "positions": moved}
    if not max(differences.values()) < TOLERANCE:
        raise SystemExit(f"{shape}: the two sides do not compute the same: {differences}")
    return {"who": "difference", **{name: f"{value:.1g}" for name, value in differences.items()}}


def make_video(shape: str, frames: int, options: argparse.Namespace):
    """Uniform noise, ``[B, frames, 3, 64, 64]``."""
    import torch

    import worldkit

    batch = options.batch or worldkit.get_model_spec(f"ddlp-{shape}").train["batch_size"]
    return torch.rand(batch, frames, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def make_latents(model, shape: str, frames: int, options: argparse.Namespace):
    """Described noise, as many clips as `make_video`."""
    from worldkit.testing import example_latent

    return example_latent(model.encoder.spec, len(make_video(shape, 1, options)), frames)


BENCHMARK = Benchmark(__file__, __doc__, SHAPES, TASKS, run_ours, run_reference, check)


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--batch", type=int, help="clips; default: the preset's")
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    options = parse(BENCHMARK, parser)
    if options.worker or not options.reference:
        run(BENCHMARK, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        for shape in options.shapes:
            weights = str(Path(folder) / f"{shape}.pth")
            run(BENCHMARK, argparse.Namespace(**{**vars(options), "shapes": [shape], "weights": weights}))


if __name__ == "__main__":
    main()
