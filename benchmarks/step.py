"""CPU seconds of whole training steps (forward, backward, clipping, Adam): this checkout, and another commit's code.

    python benchmarks/step.py --batches 4 16 --against 3b665fa
    python benchmarks/step.py --batches 4 --compile            # this checkout, and itself by torch.compile

Both sides keep a process of their own and take turns of some steps each, so that a busy machine slows both; the ratio
is the median over pairs of turns. Both train the architecture that the preset has in the other commit, from the same
seed on the same noise, each with its own preset's ``train.checkpointing`` and, unless ``--memory malloc``, the
memory of its own training (`worldkit.memory`, where it has that).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from learning import checkout

ROOT = Path(__file__).resolve().parents[1]


class Side:
    """A process that trains with the worldkit in a folder."""

    def __init__(self, folder: Path, preset: str, batch: int, threads: int, config: str, memory: str, how: str):
        env = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen([sys.executable, __file__, "--worker", preset, str(batch), memory, how],
                                        env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.config = self.ask(config)

    def ask(self, line: str) -> str:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit("a side stopped; its message stands above")
        return answer.strip()

    def seconds(self, steps: int) -> float:
        """CPU seconds per step."""
        return float(self.ask(str(steps))) / steps

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def worker(preset: str, batch: int, memory: bool, compiled: bool, inside: ExitStack) -> None:
    """Build the model of the given configuration (empty: the preset's), answer with it, then time steps as told."""
    import torch

    import worldkit
    from worldkit import Batch
    from worldkit.config import WorldModelConfig
    from worldkit.distributions import ClipSampler
    from worldkit.model import ComposedWorldModel
    from worldkit.nn.checkpoint import set_checkpointing

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.set_flush_denormal(True)  # as in training
    if memory and (found := importlib.util.find_spec("worldkit.memory")):  # a side's own training does it, too
        inside.enter_context(importlib.import_module(found.name).keep_memory())
    torch.manual_seed(0)
    config, train = sys.stdin.readline().strip(), worldkit.get_model_spec(preset).train
    if config:
        model = ComposedWorldModel.from_config(WorldModelConfig.model_validate_json(config))
    else:
        model = worldkit.create_model(preset)
    print(model.config.model_dump_json(), flush=True)
    set_checkpointing(model.train(), "off" if compiled else train.get("checkpointing", "cnn"))
    adam = torch.optim.Adam(model.parameters(), lr=train["lr"], eps=1e-6, fused=True)
    step, obs = torch.compile(model) if compiled else model, model.config.obs
    video = torch.rand(batch, model.clip_length, obs.channels, obs.height, obs.width)
    number = 0
    for line in sys.stdin:
        started = time.process_time()
        for _ in range(int(line)):
            adam.zero_grad(set_to_none=True)
            step(Batch(video), number, sampler=ClipSampler(0, number, range(batch))).total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), train.get("max_grad_norm", 100.0))
            adam.step()
            number += 1
        print(time.process_time() - started, flush=True)


def compare(options: argparse.Namespace, batch: int, other: Path | None) -> dict[str, object]:
    """CPU seconds per step of both sides in turns, and how many times faster this checkout is."""
    beside, sides, times = [other] if other else [ROOT] if options.compile else [], [], []
    ways = [(folder, "plain") for folder in beside] + [(ROOT, "compiled" if options.compile else "plain")]
    with ExitStack() as stack:
        for folder, how in ways:
            sides.append(Side(folder, options.preset, batch, options.threads, sides[0].config if sides else "",
                              options.memory, how))
            stack.callback(sides[-1].close)
            sides[-1].seconds(3)
        for turn in range(options.pairs):
            order = sides if turn % 2 else sides[::-1]
            took = {id(side): side.seconds(options.steps) for side in order}
            times.append([took[id(side)] for side in sides])
    ours = [t[-1] for t in times]
    result = {"preset": options.preset, "batch": batch, "threads": options.threads, "pairs": options.pairs,
              "steps": options.steps, "ours_cpu_s": round(statistics.median(ours), 4)}
    if beside:
        against = options.against or "plain"
        ratios = sorted(t[0] / t[1] for t in times)
        result |= {f"{against}_cpu_s": round(statistics.median(t[0] for t in times), 4),
                   "faster": round(statistics.median(ratios), 2), "range": [round(ratios[0], 2), round(ratios[-1], 2)]}
    return result


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        with ExitStack() as inside:
            worker(sys.argv[2], int(sys.argv[3]), sys.argv[4] == "keep", sys.argv[5] == "compiled", inside)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="lpwm-balls-mini")
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--against", help="commit to compare with, for example 3b665fa")
    parser.add_argument("--compile", action="store_true", help="this checkout by torch.compile, not counted itself")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=8, help="per turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", choices=("keep", "malloc"), default="keep",
                        help="malloc: no side keeps its memory, as its training may")
    options = parser.parse_args()
    with ExitStack() as stack:
        other = stack.enter_context(checkout(options.against)) if options.against else None
        for batch in options.batches:
            print(json.dumps(compare(options, batch, other)), flush=True)


if __name__ == "__main__":
    main()
