"""Time and memory of LPWM: forward pass, training step and rollouts; one JSON line per measurement.

Every measurement runs in a fresh process (its peak memory is the process's), on a new model with random weights, and is
the FIRST call in that process. With ``--reference`` the official code, from a checkout of your own, runs the same thing
right before or after ours, under the same settings, and a line with the ratios follows. See README.md.

    python benchmarks/lpwm.py --shapes sketchy64 small --repeat 2 --reference ../lpwm
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

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


def train_step(loss: Callable, adam) -> float:
    """One optimiser step; the first one also creates Adam's state."""
    total = loss()
    adam.zero_grad()
    total.backward()
    adam.step()
    return total.item()


def peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def worker(options: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(options.threads)
    make = {"ours": run_ours, "reference": run_reference}[options.worker]
    function = make(options.shapes[0], options.tasks[0], options)
    for _ in range(options.warmup):
        function()
    before, cpu, wall = peak_mb(), time.process_time(), time.perf_counter()
    function()
    print(json.dumps({
        "cpu_s": round(time.process_time() - cpu, 3), "wall_s": round(time.perf_counter() - wall, 3),
        "peak_mb": round(peak_mb()), "before_mb": round(before),
    }))


def measure(who: str, shape: str, task: str, options: argparse.Namespace) -> dict:
    command = [sys.executable, __file__, "--worker", who, "--shapes", shape, "--tasks", task, "--threads",
               str(options.threads), "--seed", str(options.seed), "--checkpointing", options.checkpointing,
               "--warmup", str(options.warmup)]
    command += ["--fused"] if options.fused else []
    command += ["--reference", options.reference] if who == "reference" else []
    env = os.environ | {"OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
    if who == "reference" and options.reference_path:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [options.reference_path, env.get("PYTHONPATH", "")]))
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{who} {shape} {task} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(shape: str, task: str, options: argparse.Namespace) -> None:
    """Measure alternately, and print medians and the range of the paired ratios."""
    sides = ["ours", "reference"] if options.reference else ["ours"]
    results: dict[str, list[dict]] = {who: [] for who in sides}
    for turn in range(options.repeat):
        for who in sides if turn % 2 == 0 else sides[::-1]:
            results[who].append(measure(who, shape, task, options))
    name = task if task != "train" else f"train[{options.checkpointing}{', fused' if options.fused else ''}]"
    for who, runs in results.items():
        medians = {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}
        print(json.dumps({"who": who, "shape": shape, "task": name, "threads": options.threads, "n": len(runs),
                          **medians}), flush=True)
    if options.reference:
        ratios = {}
        for key in ("cpu_s", "wall_s", "peak_mb"):
            pairs = [r[key] / o[key] for o, r in zip(results["ours"], results["reference"], strict=True)]
            ratios[f"{key}_ratio"] = round(statistics.median(pairs), 2)
            ratios[f"{key}_range"] = [round(min(pairs), 2), round(max(pairs), 2)]
        print(json.dumps({"who": "reference / ours", "shape": shape, "task": name, **ratios}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1, help="measurements per side")
    parser.add_argument("--warmup", type=int, default=0, help="calls before the measured one, in the same process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpointing", choices=("off", "cnn", "all"), default="cnn", help="of our training step")
    parser.add_argument("--fused", action="store_true", help="fused Adam in our training step")
    parser.add_argument("--reference", help="checkout of the official code, to be measured alternately")
    parser.add_argument("--reference-path", help="put on PYTHONPATH for the official code (packages it imports)")
    parser.add_argument("--worker", choices=("ours", "reference"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options)
        return
    for shape in options.shapes:
        for task in options.tasks:
            compare(shape, task, options)


if __name__ == "__main__":
    main()
