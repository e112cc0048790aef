"""Time and memory of G-SWM's training step at the shapes of Balls and of the maze, beside the official code.

Tasks: ``first`` (forward, backward, clipped gradients, Adam; new objects looked for in the first frame only) and
``every`` (in every frame). Training leaves out each frame but the first with a probability of a half, so that its steps
lie between these two. With ``--reference`` both sides have the same weights, and before any pair losses without noise
are compared. See README.md and beside.py.

    python benchmarks/gswm.py --frames 10 --repeat 3 --warmup 1 --reference ../G-SWM
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from beside import Benchmark, parse, run

SHAPES = {"balls": "balls_interaction", "maze": "maze"}
"""Our presets "g-swm-*", and upstream's names of their configurations."""
TASKS = {"first": 1 - 1e-9, "every": 0.0}
"""How often no new objects are looked for."""
STEP = 100000
"""Nothing is annealed any more, and backgrounds no longer learn alone."""
TOLERANCE = 1e-4
"""Largest relative difference of losses; 32-bit numbers."""


def build_ours(shape: str, task: str, options: argparse.Namespace):
    """The preset's model, with the official weights where there are any."""
    import torch

    import worldkit
    from worldkit.assembly import build
    from worldkit.convert.gswm import model_of

    torch.manual_seed(options.seed)
    config = worldkit.create_config(f"g-swm-{shape}", encoder={"discovery_dropout": TASKS[task]},
                                    objective={"lengths": [options.frames], "milestones": []})
    return model_of(torch.load(options.weights), config) if options.weights else build(config)


def build_reference(shape: str, task: str, options: argparse.Namespace):
    """The official model."""
    import reference_gswm
    import torch

    arch = reference_gswm.arch(options.reference, SHAPES[shape]) | {
        "T": [options.frames], "T_MILESTONES": [], "DISCOVERY_DROPOUT": TASKS[task]}
    torch.manual_seed(options.seed)
    model = reference_gswm.build(options.reference, arch)
    if Path(options.weights).exists():
        model.load_state_dict(torch.load(options.weights))
    return model


def training(model, loss: Callable, options: argparse.Namespace) -> Callable[[], float]:
    """One step as both train: gradients cut to a norm of 1, Adam as PyTorch has it."""
    import torch

    model.train()
    adam = torch.optim.Adam(model.parameters(), lr=1e-4, fused=options.fused or None)

    def step() -> float:
        total = loss()
        adam.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        return total.item()

    return step


def run_ours(shape: str, task: str, options: argparse.Namespace) -> Callable[[], object]:
    """What to time, with worldkit; everything that is built once is built here."""
    from worldkit import Batch
    from worldkit.nn.checkpoint import set_checkpointing

    model, video = build_ours(shape, task, options), make_video(options)
    set_checkpointing(model, options.checkpointing)
    return training(model, lambda: model.loss(Batch(video), step=STEP).total, options)


def run_reference(shape: str, task: str, options: argparse.Namespace) -> Callable[[], object]:
    """The same thing with the official code."""
    import reference_gswm

    model, video = build_reference(shape, task, options), make_video(options)
    plain = argparse.Namespace(**{**vars(options), "fused": False})
    return training(model, lambda: reference_gswm.loss(model, video, STEP), plain)


def check(shape: str, options: argparse.Namespace) -> dict:
    """Write official weights for both sides, and compare a loss without noise."""
    import reference_gswm
    import torch

    from worldkit import Batch
    from worldkit.distributions import MEANS

    options.batch, task = 2, "every"
    theirs, video = build_reference(shape, task, options), make_video(options)
    torch.save(theirs.state_dict(), options.weights)
    ours = build_ours(shape, task, options)
    reference_gswm.without_noise()
    with torch.no_grad():
        loss = ours.eval().loss(Batch(video), step=STEP, sampler=MEANS).total.item()
        off = abs(loss / reference_gswm.loss(theirs.eval(), video, STEP).item() - 1)
    if not off < TOLERANCE:
        raise SystemExit(f"{shape}: the two sides do not compute the same: losses differ by {off:.1g} of their size")
    return {"who": "difference", "loss": f"{off:.1g}"}


def make_video(options: argparse.Namespace):
    """Balls, ``[B, frames, 3, 64, 64]``, float in [0, 1]."""
    import torch

    from worldkit.data import generate_balls

    video = generate_balls("val", num_episodes=options.batch, num_frames=options.frames).video
    return torch.as_tensor(video).float() / 255


BENCHMARK = Benchmark(__file__, __doc__, SHAPES, TASKS, run_ours, run_reference, check)


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--batch", type=int, default=16, help="clips")
    parser.add_argument("--frames", type=int, default=10, help="of a clip")
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
