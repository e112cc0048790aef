"""Time and memory of LPWM: forward pass, training step and rollouts; one JSON line per measurement.

Every measurement runs in a fresh process (its peak memory is the process's), on a new model with random weights, and is
the FIRST call in that process. With ``--reference`` the official code, from a checkout of your own, runs the same thing
right before or after ours, under the same settings, and a line with the ratios follows. See README.md and beside.py.

    python benchmarks/lpwm.py --shapes sketchy64 small --repeat 2 --reference ../lpwm
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from beside import Benchmark, parse, run, train_step

HERE = Path(__file__).resolve().parent
SHAPES = json.loads((HERE / "shapes.json").read_text(encoding="utf-8"))
ROLLOUTS = {
    "rollout-10-10": (10, "exact"), "rollout-10-20": (20, "exact"), "rollout-10-20-streaming": (20, "streaming"),
}
TASKS = ("forward", "train", *ROLLOUTS)
CONTEXT = 10


def run_ours(shape: str, task: str, options: argparse.Namespace) -> Callable[[], object]:
    """What to time, with worldkit; everything that is built once is built here."""
    import torch

    from worldkit import Batch
    from worldkit.assembly import build
    from worldkit.convert.lpwm import config_from_hparams
    from worldkit.distributions import MEANS
    from worldkit.nn.checkpoint import set_checkpointing

    h = SHAPES[shape]["hparams"]
    torch.manual_seed(options.seed)
    model = build(config_from_hparams(h))
    video = make_video(shape, task)
    if task == "forward":
        model.eval()
        return torch.no_grad()(lambda: model.loss(Batch(video), sampler=MEANS).total.item())
    if task == "train":
        model.train()
        set_checkpointing(model, options.checkpointing)
        adam = make_adam(model, h, fused=options.fused)
        return lambda: train_step(lambda: model.loss(Batch(video)).total, adam)
    horizon, window = ROLLOUTS[task]
    return torch.no_grad()(lambda: model.rollout(video[:, :CONTEXT], horizon, deterministic=True, window=window))


def run_reference(shape: str, task: str, options: argparse.Namespace) -> Callable[[], object]:
    """The same thing with the official code."""
    import reference
    import torch

    h = SHAPES[shape]["hparams"]
    torch.manual_seed(options.seed)
    model = reference.build(options.reference, h)
    video = make_video(shape, task)
    if task == "forward":
        model.eval()
        return torch.no_grad()(lambda: reference.loss(model, video, h, deterministic=True).item())
    if task == "train":
        model.train()
        adam = make_adam(model, h, fused=False)
        return lambda: train_step(lambda: reference.loss(model, video, h, deterministic=False), adam)
    model.eval()
    return torch.no_grad()(lambda: reference.rollout(model, video, CONTEXT, ROLLOUTS[task][0]))


def make_video(shape: str, task: str):
    """Uniform noise, ``[B, T, 3, H, W]``: the training clip, or context and horizon."""
    import torch

    h = SHAPES[shape]["hparams"]
    frames = CONTEXT + ROLLOUTS[task][0] if task in ROLLOUTS else h["timestep_horizon"] + 1
    size = h["image_size"]
    return torch.rand(SHAPES[shape]["batch"], frames, 3, size, size, generator=torch.Generator().manual_seed(0))


def make_adam(model, h: dict, *, fused: bool):
    import torch

    return torch.optim.Adam(model.parameters(), lr=h["lr"], betas=tuple(h["adam_betas"]), eps=h["adam_eps"],
                            weight_decay=h["weight_decay"], fused=fused or None)


BENCHMARK = Benchmark(__file__, __doc__, SHAPES, TASKS, run_ours, run_reference)

if __name__ == "__main__":
    run(BENCHMARK, parse(BENCHMARK))
