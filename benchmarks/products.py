"""CPU seconds with large products by oneDNN (`worldkit.nn.products`) and by PyTorch's own, in turns; a process a case.

On processors where oneDNN is not asked (all but AMD's with AVX-512) both are the same. Cases: ``iris-forward``,
``iris-step`` and ``iris-learn`` (see tokens_pixels.py: `forward`, `step-322`, `learn-world`), ``lpwm-small`` and
``lpwm-sketchy64`` (training steps, see lpwm.py), ``lpwm-mini`` (of `lpwm-balls-mini`, 16 clips), ``lewm`` (2 clips of
224 x 224) and ``lewm-mini`` (64 clips), ``pint`` (the transformer of LPWM's dynamics at sketchy64 alone, 21 frames of
32 tokens, forwards and backwards), ``plan`` (see planning.py: `lpwm`, 3 iterations).

    python benchmarks/products.py --repeat 3
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

CASES = ("iris-forward", "iris-step", "iris-learn", "lewm", "lewm-mini", "pint", "lpwm-mini", "lpwm-sketchy64", "plan",
         "lpwm-small")


def train(preset: str, clips: int, **swap: object) -> Callable[[], object]:
    """Training steps of a preset on noise."""
    import torch
    from beside import train_step

    import worldkit
    from worldkit import Batch

    model = worldkit.create_model(preset, **swap).train()
    obs, adam = model.config.obs, torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    told = {name: torch.randn(clips, model.clip_length, config.dim)
            for name, config in model.config.conditioners.items()}
    batch = Batch(torch.rand(clips, model.clip_length, obs.channels, obs.height, obs.width), told)
    return lambda: train_step(lambda: model.loss(batch).total, adam)


def pint() -> Callable[[], object]:
    """The transformer of LPWM's dynamics: a pass and its gradients."""
    import torch

    from worldkit.nn.transformer import SpatioTemporalTransformer

    torch.manual_seed(0)
    net = SpatioTemporalTransformer(dim=512, num_layers=6, num_heads=8, max_frames=21, num_tokens=32, dropout=0.1)
    x, cond = torch.randn(2, 1, 21, 32, 512)
    return lambda: net(x, cond).square().mean().backward()


def make(case: str) -> Callable[[], object]:
    """What to time."""
    import lpwm
    import planning
    import tokens_pixels
    import torch

    family, _, task = case.partition("-")
    if family == "iris":
        return tokens_pixels.iris({"forward": "forward", "step": "step-322", "learn": "learn-world"}[task], 0)
    if case == "plan":
        return planning.plan_ours("lpwm", 0, planning.SIZES | {"iterations": 3})
    if case == "pint":
        return pint()
    if case in ("lpwm-small", "lpwm-sketchy64"):
        return lpwm.run_ours(task, "train", SimpleNamespace(seed=0, checkpointing="cnn", fused=True))
    torch.manual_seed(0)
    return train("lpwm-balls-mini", 16) if case == "lpwm-mini" else train(case, 2 if case == "lewm" else 64)


def measure(case: str, repeat: int) -> dict[str, object]:
    """Medians of both, and how many times faster oneDNN makes it (median and range over pairs)."""
    import torch

    from worldkit.nn import products

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as in training
    call, large, pairs = make(case), products.LARGE, []
    grad = torch.no_grad() if case in ("iris-forward", "iris-step") else torch.enable_grad()

    def seconds(least: float) -> float:
        products.LARGE, started, calls = least, time.process_time(), 0
        while calls == 0 or time.process_time() - started < 0.5:
            call()
            calls += 1
        return (time.process_time() - started) / calls

    with grad:
        seconds(large)
        for turn in range(repeat):
            took = {least: seconds(least) for least in ((large, float("inf")) if turn % 2 else (float("inf"), large))}
            pairs.append((took[large], took[float("inf")]))
    ratios = sorted(own / onednn for onednn, own in pairs)
    return {"case": case, "onednn_asked": products.halved(), "n": repeat,
            "onednn_cpu_s": round(statistics.median(pair[0] for pair in pairs), 4),
            "own_cpu_s": round(statistics.median(pair[1] for pair in pairs), 4),
            "faster": round(statistics.median(ratios), 2), "range": [round(ratios[0], 2), round(ratios[-1], 2)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--repeat", type=int, default=3, help="pairs")
    parser.add_argument("--worker", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.worker, options.repeat)), flush=True)
        return
    for case in options.cases:
        subprocess.run([sys.executable, __file__, "--worker", case, "--repeat", str(options.repeat)], check=True)


if __name__ == "__main__":
    main()
