"""How fast a preset learns: this checkout against another commit, by CPU seconds of training.

    python benchmarks/learning.py --against 3b665fa
    python benchmarks/learning.py --against HEAD -o train.batch_size=8        # one lever alone

Both sides train the same preset on the same data with the same seed, each in a process of its own on one thread, taking
turns: every turn is a slice of CPU time, so that whatever else the machine does meets both alike. After every turn a
model predicts validation clips with the mean of its policy (5 frames given, 5 predicted); neither that nor making the
data counts as training. The other side stops at the last threshold, ours at ``--cpu-seconds``; either at ``--until``
dB, where that is all one asks. ``-o`` changes this checkout's side only. The time to a threshold is the end of the
first turn at or above it.

Writes a JSON file with every curve, and prints seconds, steps and ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CONTEXT, HORIZON, THRESHOLDS = 5, 5, (12.8, 13.5, 15.0)


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """The tree of a commit, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", commit, "worldkit"], cwd=ROOT, check=True, capture_output=True)
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        yield Path(folder)


class Side:
    """One code base at work on one seed."""

    def __init__(self, tree: Path, seed: int, options: argparse.Namespace, changes: list[str]):
        command = [sys.executable, __file__, "--worker", "--preset", options.preset, "--data", options.data,
                   "--slice", str(options.slice), "--clips", str(options.clips), "--seeds", str(seed)]
        command += [word for change in changes for word in ("-o", change)]
        environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        self.curve: list[dict[str, Any]] = []

    def turn(self) -> dict[str, Any]:
        """Train one slice further."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a side stopped; its error is above")
        self.curve.append(json.loads(line))
        return self.curve[-1]

    def reached(self, threshold: float) -> dict[str, Any] | None:
        """The first point at or above a threshold."""
        return next((point for point in self.curve if point["psnr"] >= threshold), None)


def compare(trees: dict[str, Path], seed: int, options: argparse.Namespace) -> dict[str, Side]:
    """Both sides of one seed, turn by turn, until each is through."""
    sides = {name: Side(tree, seed, options, options.option if name == "ours" else []) for name, tree in trees.items()}
    running = dict(sides)
    while running:
        for name, side in list(running.items()):
            point = side.turn()
            print(f"seed {seed}  {name:>8}  {point['cpu']:7.1f} s  step {point['step']:6}  {point['psnr']:6.2f} dB",
                  flush=True)
            beyond = side.reached(options.until or (max(THRESHOLDS) if name != "ours" else float("inf"))) is not None
            if beyond or point["cpu"] >= options.cpu_seconds:
                running.pop(name).process.kill()
    return sides


def summary(seeds: dict[int, dict[str, Side]], against: str) -> list[str]:
    """Lines of text: CPU seconds to each threshold, one number a seed, and their ratios."""
    lines = []
    for threshold in THRESHOLDS:
        times = {name: [side[name].reached(threshold) for side in seeds.values()] for name in ("ours", against)}
        words = {name: ", ".join(f"{p['cpu']:.0f} s ({p['step']} steps)" if p else "not reached" for p in points)
                 for name, points in times.items()}
        ratios = []
        for side in seeds.values():
            mine, other = side["ours"].reached(threshold), side[against].reached(threshold)
            if mine is not None:
                other_cpu = (other or side[against].curve[-1])["cpu"]
                ratios.append((other_cpu / mine["cpu"], other is None))
        text = ", ".join(f"{'> ' if bound else ''}{ratio:.1f}" for ratio, bound in ratios) or "-"
        median = f" (median {statistics.median(r for r, _ in ratios):.1f})" if len(ratios) > 1 else ""
        lines.append(f"{threshold} dB: ours {words['ours']}; {against} {words[against]}; times faster: {text}{median}")
    for name in ("ours", against):
        best = ", ".join(f"{max(p['psnr'] for p in side[name].curve):.2f} dB" for side in seeds.values())
        lines.append(f"best of {name}: {best}")
    return lines


def worker(options: argparse.Namespace) -> None:
    """Train one side; one JSON line after every slice, when told to go on. Runs on the code of either commit."""
    import time

    import torch

    from worldkit.training import recipes
    from worldkit.training import trainer as training

    try:
        from worldkit.training.evaluation import evaluate
    except ImportError:  # its name before
        from worldkit.training.evaluate import evaluate

    def wait() -> None:
        if not sys.stdin.readline():
            sys.exit("nobody is waiting for this side any more")

    class Sliced(training.Trainer):
        """Measures its CPU time and waits at the end of every slice."""

        def _loop(self):
            self._clips = recipes.open_clips(self.model, options.data, split="val", num_frames=CONTEXT + HORIZON)
            wait()
            self._spent, self._since = 0.0, time.process_time()
            super()._loop()

        def _after_step(self, terms, bar, *, ended):
            spent = self._spent + time.process_time() - self._since
            if spent < options.slice * (1 + self._spent // options.slice):
                return
            with contextlib.nullcontext() if self.ema is None else self.ema.weights_in(self.model):
                self.model.eval()
                report = evaluate(self.model, self._clips, context_frames=CONTEXT, max_clips=options.clips)["prior"]
                self.model.train()
            frames = [round(point.mean, 3) for point in report.curve("model", "psnr")]
            print(json.dumps({"cpu": round(spent, 2), "step": self.progress.step, "frames": frames,
                              "psnr": round(report.summary("model", "psnr").mean, 3)}), flush=True)
            wait()
            self._spent, self._since = spent, time.process_time()

    torch.set_num_threads(1)
    recipes.Trainer = Sliced
    model, train = nested(options.option)
    with tempfile.TemporaryDirectory() as folder:
        never = {"steps": 10**8, "eval_every": 10**8, "log_every": 10**8, "seed": int(options.seeds)}
        recipes.make_trainer(options.preset, options.data, run=Path(folder) / "run", overrides=model,
                             train_overrides=never | train, show_progress=False).fit()


def nested(changes: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """``["train.lr=1e-3", "dynamics.dim=96"]`` as overrides of the model and of training."""
    top: dict[str, Any] = {}
    for change in changes:
        path, _, text = change.partition("=")
        place = top
        *parents, last = path.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
        try:
            place[last] = json.loads(text)
        except json.JSONDecodeError:
            place[last] = text
    train = top.pop("train", {})
    return top, train


def main() -> None:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", default="3b665fa", help="commit to compare with (default: 3b665fa)")
    parser.add_argument("--preset", default="lpwm-balls-mini")
    parser.add_argument("--data", default="balls-32")
    parser.add_argument("--seeds", default="0,1,2", help="one comparison each (default: 0,1,2)")
    parser.add_argument("--cpu-seconds", type=float, default=1800, help="most that a side may train (default: 1800)")
    parser.add_argument("--until", type=float, help="dB at which either side may stop (default: ours goes on)")
    parser.add_argument("--slice", type=float, default=20, help="CPU seconds of a turn (default: 20)")
    parser.add_argument("--clips", type=int, default=60, help="validation clips that are predicted (default: 60)")
    parser.add_argument("-o", "--option", action="append", default=[], metavar="KEY=VALUE", help="change our side")
    parser.add_argument("--out", default="learning.json", help="file to write (default: learning.json)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options)
        return
    seeds: dict[int, dict[str, Side]] = {}
    with checkout(options.against) as other:
        for seed in map(int, options.seeds.split(",")):
            seeds[seed] = compare({"ours": ROOT, options.against: other}, seed, options)
            curves = {s: {name: side.curve for name, side in sides.items()} for s, sides in seeds.items()}
            Path(options.out).write_text(json.dumps({"options": vars(options), "curves": curves}, indent=1))
    print(*summary(seeds, options.against), sep="\n")


if __name__ == "__main__":
    main()
