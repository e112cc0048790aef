"""Which models follow their balls, after equal CPU time: DDLP, its parts left out or swapped, and LPWM.

    python benchmarks/equal_time.py --out runs/equal-time          # 5 models x 2 seeds x 30 CPU minutes: 5 CPU hours
    python benchmarks/equal_time.py --out runs/equal-time --only ddlp,lpwm --seeds 0 --minutes 10

Every model trains in a process of its own on one thread; they take turns, a slice of CPU time each, so that whatever
else the machine does meets all alike. Training counts, with the frozen encoder's look at all clips (again after every
start); neither opening data nor scoring does. The same command goes on where it was stopped, at the last slice of each.
When all have had their time, the moving averages of their weights are scored on the test split: PSNR, and MED10 of what
they paint (`worldkit eval --protocol balls-med10 --metrics psnr,med10_painted`). Prints the table, and writes it as
``table.md`` and ``table.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PERCEPTION = {"frames_first": 10**6, "weights": {"features": 0.05}}
ONE_STEP = {"name": "one-step", "transparency_weight": 0.1, "remember": 20000}
ALONE = {"optimizer": "muon", "lr": 2e-3, "batch_size": 16, "clips": "tile", "ema": 0.999, "warmup_steps": 50,
         "early_steps": 0, "init_parts": ["encoder", "decoder"]}
DDLP = ((0.4, PERCEPTION, {}), (0.6, ONE_STEP, ALONE))
"""Stages: share of the time, and what the objective and the training have else than the preset. Perception alone (every
frame of a clip counts as given, and looks are held to their prior, or no dynamics could predict them so sharply); then
the dynamics anew, one step at a time on frozen latents, as one that learns while its latents form stays at copying."""
LPWM = ((0.6, {}, {}), (0.4, ONE_STEP | {"kl_weight": 10}, ALONE))
"""Its first stage is the preset as it is, as that of the shipped weights was."""
MODELS: dict[str, tuple[str, str, dict[str, Any], tuple[tuple[float, dict, dict], ...]]] = {
    "ddlp": ("DDLP", "ddlp-balls-mini", {}, DDLP),
    "untracked": ("DDLP, particles not tracked", "ddlp-balls-mini", {"encoder": {"tracking": False}}, DDLP),
    "lpwm": ("LPWM", "lpwm-balls-mini", {}, LPWM),
    "gru": ("DDLP, dynamics `gru`", "ddlp-balls-mini", {"dynamics": "gru"}, DDLP),
    "slot": ("DDLP, encoder and decoder `slot`", "ddlp-balls-mini", {"encoder": "slot", "decoder": "slot"}, DDLP),
}
"""Short name -> how the table calls it, preset, what is changed, stages."""
SPENT, RESULT = "spent.json", "result.json"
HORIZONS = (1, 5, 10)
NEVER = 10**9


def spent(folder: Path) -> float:
    """CPU seconds that a model has been trained for."""
    return json.loads((folder / SPENT).read_text())["cpu"] if (folder / SPENT).exists() else 0.0


def begun(folder: Path) -> int:
    """Stages of a model that have been trained, for one step at least."""
    return len(json.loads((folder / SPENT).read_text())["steps"]) if (folder / SPENT).exists() else 0


def stage_at(seconds: float, begun: int, name: str, options: argparse.Namespace) -> tuple[int, float]:
    """Number of the stage that a model is in, and when it ends, in CPU seconds; none is skipped, however short."""
    end, stages = 0.0, MODELS[name][3]
    for number, (share, _, _) in enumerate(stages):
        end += 60 * options.minutes * share
        if seconds < end - 1 or number == min(begun, len(stages) - 1):
            return number, end
    raise AssertionError("a model without stages")


def ready(folder: Path, name: str, options: argparse.Namespace) -> bool:
    """Whether a model has had its time, in all of its stages."""
    return spent(folder) >= 60 * options.minutes - 1 and begun(folder) == len(MODELS[name][3])


def train(options: argparse.Namespace) -> None:
    """Train one model for a slice; its folder then holds the moving average of its weights, too."""
    import torch

    from worldkit.training.recipes import make_trainer

    torch.set_num_threads(1)
    out, before = options.out, spent(options.out)
    _, preset, changes, stages = MODELS[options.train]
    number, end = stage_at(before, begun(options.out), options.train, options)
    _, objective, more = stages[number]
    begin = {"init_from": str(out / f"model-{number - 1}")} if number else {}
    goal = min(before + options.slice, end)
    trainer = make_trainer(
        preset, options.data, run=out / f"run-{number}", overrides={**changes, "objective": objective},
        data_options={"num_episodes": options.train_episodes},
        train_overrides={"steps": NEVER, "eval_every": NEVER, "save_every": 0, "keep": 1, "seed": int(options.seeds),
                         **more, **begin}, show_progress=False,
    )
    began = time.process_time()

    def count(trainer: Any, bar: Any) -> None:
        if before + time.process_time() - began >= goal:
            trainer.stop()

    trainer.after_step = count
    trainer.fit()
    cpu = before + time.process_time() - began
    with trainer.looking() as model:
        model.save_pretrained(out / f"model-{number}")
    steps = json.loads((out / SPENT).read_text())["steps"] if begun(out) else []
    (out / SPENT).write_text(json.dumps({"cpu": round(cpu, 2), "steps": [*steps[:number], trainer.progress.step]}))


def score(options: argparse.Namespace) -> None:
    """Predict the test split with what one model has learned."""
    import worldkit as wk
    from worldkit.training import compare, find_protocol

    protocol, changed = find_protocol("balls-med10").changed(metrics=("psnr", "med10_painted"))
    last = len(MODELS[options.score][3]) - 1
    model = wk.WorldModel.from_pretrained(options.out / f"model-{last}")
    found = compare({"it": model}, options.data, protocol, changed=changed, pictures=0,
                    data_options={"num_episodes": options.episodes})
    results = found.reports["prior"]["it"].to_dict()["results"]
    (options.out / RESULT).write_text(json.dumps(json.loads((options.out / SPENT).read_text()) | {
        name: {"psnr": [frame["mean"] for frame in results[name]["psnr"]["per_frame"]],
               "med10": results[name]["med10_painted"]["total"]}
        for name in ("model", "copy last frame", "mean training frame") if "med10_painted" in results[name]}))


def start(word: str, name: str, folder: Path, seed: int, options: argparse.Namespace) -> None:
    """Train or score in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, word, name, "--seeds", str(seed), "--out", str(folder), "--data", options.data,
               "--minutes", str(options.minutes), "--slice", str(options.slice), "--episodes", str(options.episodes),
               "--train-episodes", str(options.train_episodes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if subprocess.run(command, env=environment).returncode:
        raise SystemExit(f"{name}, seed {seed}: stopped; its error is above. The same command goes on where all were")


def table(cells: dict[tuple[str, int], dict[str, Any]], options: argparse.Namespace) -> list[str]:
    """Lines of Markdown: a row a model, a number a seed."""
    def numbers(values: list[float], digits: int) -> str:
        each = ", ".join(f"{value:.{digits}f}" for value in values)
        return f"{statistics.mean(values):.{digits}f} ({each})" if len(values) > 1 else each

    def row(label: str, scores: list[dict[str, Any]], steps: str) -> str:
        curve = [numbers([s["psnr"][frames - 1] for s in scores], 1) for frames in HORIZONS]
        return f"| {label} | {numbers([s['med10'] for s in scores], 2)} | {' | '.join(curve)} | {steps} |"

    lines = [f"| after {options.minutes:g} CPU minutes | MED10 ↓ | "
             + " | ".join(f"PSNR of frame {frames} (dB)" for frames in HORIZONS) + " | steps |",
             "|---|---|" + "---|" * len(HORIZONS) + "---|"]
    for name in dict.fromkeys(name for name, _ in cells):
        mine = [cell for (other, _), cell in cells.items() if other == name]
        lines.append(row(MODELS[name][0], [cell["model"] for cell in mine],
                         ", ".join(f"{sum(cell['steps']):,}" for cell in mine)))
    still = [row("standing still (the last frame)", [cell["copy last frame"]], "") for cell in cells.values()]
    return [*lines, still[0]]


def main() -> None:
    """Take turns, score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(MODELS), help=f"models, of {', '.join(MODELS)} (default: all)")
    parser.add_argument("--seeds", default="0,1", help="default: 0,1")
    parser.add_argument("--minutes", type=float, default=30, help="CPU minutes for each (default: 30)")
    parser.add_argument("--slice", type=float, default=1200, help="CPU seconds of a turn (default: 1200)")
    parser.add_argument("--data", default="balls-32")
    parser.add_argument("--train-episodes", type=int, default=600, help="to learn from (default: 600)")
    parser.add_argument("--episodes", type=int, default=100, help="test episodes to predict (default: 100)")
    parser.add_argument("--out", type=Path, default=Path("runs/equal-time"), help="default: runs/equal-time")
    parser.add_argument("--train", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--score", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train or options.score:
        (train if options.train else score)(options)
        return
    runs = {(name, seed): options.out / f"{name}-{seed}"
            for seed in map(int, options.seeds.split(",")) for name in options.only.split(",")}
    while behind := [cell for cell in runs if not ready(runs[cell], cell[0], options)]:
        least = min(spent(runs[cell]) for cell in behind)
        for cell in behind:
            if spent(runs[cell]) < least + options.slice:
                start("--train", cell[0], runs[cell], cell[1], options)
                print(f"{cell[0]}, seed {cell[1]}: {spent(runs[cell]):.0f} CPU s", flush=True)
    for (name, seed), folder in runs.items():
        start("--score", name, folder, seed, options)
    cells = {cell: json.loads((folder / RESULT).read_text()) for cell, folder in runs.items()}
    lines = table(cells, options)
    (options.out / "table.md").write_text("\n".join(lines) + "\n")
    (options.out / "table.json").write_text(json.dumps({f"{name}, seed {seed}": cell
                                                        for (name, seed), cell in cells.items()}, indent=1))
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
