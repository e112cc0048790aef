"""What the benchmarks beside official code share: fresh processes, alternating pairs, medians and ratios.

Every measurement is the FIRST call in a fresh process (its peak memory is the process's). With ``--reference`` the
official code, from a checkout of your own, runs the same thing right before or after ours, under the same settings.
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
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Measured = Callable[[], object]


@dataclass(frozen=True)
class Benchmark:
    """Two sides and what they do.

    Attributes:
        script: The script that calls `run`; it is started again for every measurement.
        doc: Its help text.
        shapes, tasks: Names, in the order of the output.
        ours, reference: (shape, task, options) -> what to time; everything that is built once is built before.
        check: (shape, options) -> what to print before any pair of a shape; raises SystemExit where the two sides do
            not compute the same thing. It may leave weights for both in the file ``options.weights``.
    """

    script: str
    doc: str
    shapes: Iterable[str]
    tasks: Iterable[str]
    ours: Callable[[str, str, Namespace], Measured]
    reference: Callable[[str, str, Namespace], Measured]
    check: Callable[[str, Namespace], dict] | None = None


def peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def train_step(loss: Callable, adam) -> float:
    """One optimiser step; the first one also creates Adam's state."""
    total = loss()
    adam.zero_grad()
    total.backward()
    adam.step()
    return total.item()


def ratios(pairs: list[tuple[dict, dict]]) -> dict[str, object]:
    """Pairs of (ours, reference) -> median and range of reference / ours."""
    result: dict[str, object] = {}
    for key in ("cpu_s", "wall_s", "peak_mb"):
        found = sorted(r[key] / o[key] for o, r in pairs)
        result[f"{key}_ratio"] = round(statistics.median(found), 2)
        result[f"{key}_range"] = [round(found[0], 2), round(found[-1], 2)]
    return result


def run(benchmark: Benchmark, options: Namespace) -> list[dict[str, list[dict]]]:
    """Measure everything that the options ask for, one JSON line each; or be one of the processes that do it.

    Returns:
        Of every pair of shape and task the measurements of each side.
    """
    found: list[dict[str, list[dict]]] = []
    if options.worker:
        _work(benchmark, options)
        return found
    for shape in options.shapes:
        if options.reference and benchmark.check is not None:
            print(json.dumps(_process(benchmark, "check", shape, options.tasks[0], options)), flush=True)
        for task in options.tasks:
            found.append(_compare(benchmark, shape, task, options))
    return found


def parse(benchmark: Benchmark, parser: argparse.ArgumentParser | None = None) -> Namespace:
    """The options of the command line, those of ``parser`` included."""
    parser = argparse.ArgumentParser(description=benchmark.doc, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     parents=[parser] if parser else [])
    parser.add_argument("--shapes", nargs="+", choices=list(benchmark.shapes), default=list(benchmark.shapes))
    parser.add_argument("--tasks", nargs="+", choices=list(benchmark.tasks), default=list(benchmark.tasks))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1, help="measurements per side")
    parser.add_argument("--warmup", type=int, default=0, help="calls before the measured one, in the same process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpointing", choices=("off", "cnn", "all"), default="cnn", help="of our training step")
    parser.add_argument("--fused", action="store_true", help="fused Adam in our training step")
    parser.add_argument("--reference", help="checkout of the official code, to be measured alternately")
    parser.add_argument("--reference-path", help="put on PYTHONPATH for the official code (packages it imports)")
    parser.add_argument("--worker", choices=("ours", "reference", "check"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _work(benchmark: Benchmark, options: Namespace) -> None:
    import torch

    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)  # as in training; for both sides
    shape, task = options.shapes[0], options.tasks[0]
    if options.worker == "check":
        print(json.dumps({"shape": shape, **benchmark.check(shape, options)}))
        return
    function = {"ours": benchmark.ours, "reference": benchmark.reference}[options.worker](shape, task, options)
    for _ in range(options.warmup):
        function()
    before, cpu, wall = peak_mb(), time.process_time(), time.perf_counter()
    function()
    print(json.dumps({
        "cpu_s": round(time.process_time() - cpu, 3), "wall_s": round(time.perf_counter() - wall, 3),
        "peak_mb": round(peak_mb()), "before_mb": round(before),
    }))


def _process(benchmark: Benchmark, who: str, shape: str, task: str, options: Namespace) -> dict:
    command = [sys.executable, benchmark.script, "--worker", who, "--shapes", shape, "--tasks", task]
    for key, value in vars(options).items():
        if key not in ("shapes", "tasks", "repeat", "worker", "reference_path") and value not in (None, False):
            command += [f"--{key.replace('_', '-')}"] + ([] if value is True else [str(value)])
    env = os.environ | {"OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
    if who != "ours" and options.reference_path:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [options.reference_path, env.get("PYTHONPATH", "")]))
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{who} {shape} {task} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _compare(benchmark: Benchmark, shape: str, task: str, options: Namespace) -> dict[str, list[dict]]:
    """Measure alternately, and print medians and the range of the paired ratios."""
    sides = ["ours", "reference"] if options.reference else ["ours"]
    results: dict[str, list[dict]] = {who: [] for who in sides}
    for turn in range(options.repeat):
        for who in sides if turn % 2 == 0 else sides[::-1]:
            results[who].append(_process(benchmark, who, shape, task, options))
    name = task if task != "train" else f"train[{options.checkpointing}{', fused' if options.fused else ''}]"
    for who, runs in results.items():
        medians = {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}
        print(json.dumps({"who": who, "shape": shape, "task": name, "threads": options.threads, "n": len(runs),
                          **medians}), flush=True)
    if options.reference:
        pairs = list(zip(results["ours"], results["reference"], strict=True))
        print(json.dumps({"who": "reference / ours", "shape": shape, "task": name, **ratios(pairs)}), flush=True)
    return results
