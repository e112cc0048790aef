"""Time and memory of IRIS and DIAMOND at their real sizes, beside the official code; one JSON line each.

Shape ``iris`` (64 x 64, 16 of 512 codes a frame, 10 layers): ``encode`` and ``decode`` of 16 frames; ``forward`` (4
clips of 20 frames and actions, 340 tokens, teacher-forced); ``step-16`` and ``step-322`` (one imagined frame of 16
dreams with reward and end, drawn code by code and decoded, when the memory holds that many tokens; ours holds 33
where it says 16); ``start`` (16 dreams: encode, read 16 tokens, decode); ``learn-world`` (one step of the transformer,
4 clips of 20 frames, codes included).

Shape ``diamond`` (64 x 64, four frames given): ``denoise-1`` and ``-8`` (one call of the denoiser, batch of 1 or 8);
``sample-1`` and ``-8`` (3 steps of Euler); ``heun-1`` (3 of Heun, 5 calls); ``step-8`` (``sample-8``, reward and end);
``learn-denoiser`` (one step, 4 clips of 6 frames, 2 levels of noise each); ``learn-outcomes`` (of rewards and ends, 4
clips of 19 frames).

``--reference`` takes a checkout of github.com/eloialonso/diamond (MIT), which is then measured alternately. The
official IRIS is under the GPL, and nothing here knows its code: ``--adapter FILE.py`` names a file of your own, whose
``measured(task)`` gives what to time; without it our side is measured alone.

``--numbers FILE.json`` prints ratios to CPU seconds that were measured before
(``{"iris": {task: {"cpu_min_s": seconds}}, "diamond": ...}``, any words behind the task's); they are not of one run.

    python benchmarks/tokens_pixels.py --shapes diamond --repeat 5 --warmup 1 --reference ../diamond
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from beside import Benchmark, parse, run

ACTIONS = 4
TASKS = {
    "iris": ("encode", "decode", "forward", "step-16", "step-322", "start", "learn-world"),
    "diamond": ("denoise-1", "sample-1", "heun-1", "denoise-8", "sample-8", "step-8", "learn-denoiser",
                "learn-outcomes"),
}
SAID = {
    "encode": "tokenizer encode", "decode": "tokenizer decode", "forward": "transformer teacher-forced",
    "step-16": "imagined step B=16, KV cache holding 16", "step-322": "imagined step B=16, KV cache holding 322",
    "start": "imagination start", "learn-world": "world-model update", "denoise-1": "denoiser call B=1",
    "sample-1": "3-step Euler sample B=1", "heun-1": "3-step Heun sample B=1", "denoise-8": "denoiser call B=8",
    "sample-8": "3-step Euler sample B=8", "step-8": "imagined step B=8", "learn-denoiser": "denoiser training step",
    "learn-outcomes": "reward/end training step",
}
"""How `--numbers` call the tasks."""


def clips(clips: int, frames: int) -> Any:
    """A batch of made-up play, the same every time."""
    import torch

    from worldkit.batch import Batch

    draw = torch.Generator().manual_seed(0)
    return Batch(
        torch.randint(256, (clips, frames, 3, 64, 64), dtype=torch.uint8, generator=draw),
        {"action": torch.randint(ACTIONS, (clips, frames), generator=draw)},
        done_mask=torch.ones(clips, frames),
        targets={"reward": torch.randint(-1, 2, (clips, frames), generator=draw).float(),
                 "terminated": torch.zeros(clips, frames, dtype=torch.bool)},
    )


def told(batch: Any, transitions: int) -> Any:
    """The condition of its first transitions: actions as they are."""
    import torch.nn.functional as F

    from worldkit.conditions import Condition

    return Condition(frame=F.one_hot(batch.conditions["action"][:, :transitions], ACTIONS).float())


def learn(model: Any, part: str, batch: Any, longest: float) -> Callable[[], object]:
    """One step of AdamW of one of the objective's turns."""
    import torch

    from worldkit.samplers import Sampler

    parameters = [p for p in model.objective.turn_parameters(model, part) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=1e-2)
    model.train()

    def step() -> float:
        loss = model.objective.turn_loss(model, batch, part, sampler=Sampler()).total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, longest)
        optimizer.step()
        return loss.item()

    return step


def dream(model: Any, batch: Any, given: int, steps: int, *, outcomes: bool) -> Callable[[], object]:
    """One imagined step after ``steps`` others that began with ``given`` frames."""
    from worldkit.samplers import Sampler

    dynamics, sampler, z = model.dynamics, Sampler(), model.encode(batch)[:, :given]
    carry, cond = dynamics.start(z, told(batch, given - 1)), told(batch, 1)

    def step() -> Any:
        z = dynamics.predict(carry, cond, sampler, mean=False)
        if outcomes:
            features = dynamics.step_features(carry, carry_last, z, cond)
            for name, head in model.heads.items():
                head.sample(features, sampler, name)
        model.decode(z)
        return z

    carry_last = z[:, -1:]
    for _ in range(steps):
        carry_next = step()
        dynamics.observe(carry, carry_next)
        carry_last = carry_next
    return step


def iris(task: str, seed: int) -> Callable[[], object]:
    import torch

    import worldkit

    torch.manual_seed(seed)
    model = worldkit.create_model("iris", conditioners={"action": {"num_actions": ACTIONS}}).eval()
    if task == "learn-world":
        return learn(model, "dynamics", clips(4, 20), 10.0)
    with torch.no_grad():
        if task.startswith("step"):
            return dream(model, clips(16, 19), 1 if task == "step-16" else 18, 1, outcomes=True)
        frames, batch = clips(16, 1), clips(4, 20)
        codes, z = model.encode(frames), model.encode(batch)
        if task == "forward":
            def forward() -> Any:
                hidden = model.dynamics.hidden(z, told(batch, 20))
                features = model.dynamics.behind_actions(hidden)
                return model.dynamics.logits(hidden), [head(features) for head in model.heads.values()]

            return forward

        def start() -> Any:
            found = model.encode(frames)
            return model.dynamics.hidden(found, told(frames, 0)), model.decode(found)

        return {"encode": lambda: model.encode(frames), "decode": lambda: model.decode(codes), "start": start}[task]


def diamond(task: str, seed: int) -> Callable[[], object]:
    import torch

    import worldkit
    from worldkit.nn.edm import SamplingConfig

    torch.manual_seed(seed)
    model = worldkit.create_model("diamond", conditioners={"action": {"num_actions": ACTIONS}}).eval()
    if task == "learn-denoiser":
        return learn(model, "denoiser", clips(4, 6), 1.0)
    if task == "learn-outcomes":
        return learn(model, "outcomes", clips(4, 19), 100.0)
    kind, count = task.split("-")
    if kind in ("heun", "denoise"):
        steps, order = (3, 2) if kind == "heun" else (1, 1)
        model.dynamics.sampling = SamplingConfig.parse(
            {**model.dynamics.sampling.to_dict(), "steps": steps, "order": order})
    with torch.no_grad():
        return dream(model, clips(int(count), 4), 4, 1 if kind == "step" else 0, outcomes=kind == "step")


def run_ours(shape: str, task: str, options: argparse.Namespace) -> Callable[[], object]:
    """What to time, with worldkit; everything that is built once is built here."""
    import torch

    made = {"iris": iris, "diamond": diamond}[shape](task, options.seed)
    return made if task.startswith("learn") else torch.no_grad()(made)


def run_reference(shape: str, task: str, options: argparse.Namespace) -> Callable[[], object]:
    """The same thing with the official code."""
    if shape == "diamond":
        from reference_diamond import Reference

        return Reference(options.reference, ACTIONS).measured(task, clips)
    spec = importlib.util.spec_from_file_location("adapter", options.adapter)
    assert spec is not None and spec.loader is not None  # a path to a file
    adapter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(adapter)
    return adapter.measured(task)


def beside_numbers(numbers: Mapping[str, Any], shape: str, task: str, cpu_s: float) -> dict[str, Any]:
    """CPU seconds measured before, over ours."""
    found = [row["cpu_min_s"] for said, row in numbers[shape].items() if said.startswith(SAID[task])]
    return {"who": "earlier numbers / ours", "shape": shape, "task": task, "cpu_s": found[0] if found else None,
            "cpu_s_ratio": round(found[0] / cpu_s, 2) if found else None}


BENCHMARK = Benchmark(__file__, __doc__, TASKS, dict.fromkeys(task for tasks in TASKS.values() for task in tasks),
                      run_ours, run_reference)


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--adapter", help="file that calls the official IRIS, with --reference")
    parser.add_argument("--numbers", help="CPU seconds of the official code, measured before")
    options = parse(BENCHMARK, parser)
    if options.worker:
        run(BENCHMARK, options)
        return
    numbers = json.loads(Path(options.numbers).read_text()) if options.numbers else None
    for shape in options.shapes:
        reference = (options.adapter and "adapter") if shape == "iris" else options.reference
        for task in (task for task in options.tasks if task in TASKS[shape]):
            part = {"shapes": [shape], "tasks": [task], "reference": reference, "numbers": None}
            (found,) = run(BENCHMARK, argparse.Namespace(**vars(options) | part))
            if numbers is not None:
                ours = statistics.median(row["cpu_s"] for row in found["ours"])
                print(json.dumps(beside_numbers(numbers, shape, task, ours)), flush=True)


if __name__ == "__main__":
    main()
