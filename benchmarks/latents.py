"""Which latent space is good for what: worlds of `push-32` in meaning and in pixels, in one table.

    python benchmarks/latents.py --out runs/latents                  # 7 models x 3 seeds x 8 CPU minutes, and one more
    python benchmarks/latents.py --out runs/latents --seeds 0 --minutes 1 --only lewm,pldm

Every model has the same CPU time for training, what it stands on included (I-JEPA's features and what is made of them,
trained once for all that stand on them); as many steps as go into it are found by trying a few. `lpwm-shipped` comes as
it was shipped, and is scored once. Columns:

* ``position, linear`` and ``MLP``: R2 of the discs' places, read off the frozen latents (`worldkit probe`).
* ``reached``: share of problems in which the white disc is within 0.1 of its goal after a plan of 5 actions was done
  in the world itself (the picture is 2 wide). All are planned by the same CEM, by as many rounds as go into the same
  CPU time per plan, at least one and at most 30; ``off``: how far it is from its goal; ``s per plan``: what it took.
* ``cost``: what plans are compared by. Latents where token n is the same in every picture; things, paired; pixels.
* ``PSNR``: of 5 frames after 5, of models that draw.

Training and scoring of every cell are processes of their own, one after the other. The same command goes on where it
was stopped; a cell that fails says so in the table and is tried again by the same command. Intervals are 95 %: with one
seed over episodes, with several over the means of seeds (Student's t).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

DATA, SIZE, HORIZON, NEAR = "push-32", 32, 5, 0.1
SEEN = 5
"""Frames given where pictures are predicted; plans see one."""
CANDIDATES, MOST_ROUNDS = 64, 30
DENOISING_STEPS = 2
"""Of models that denoise, in plans; pictures are drawn with as many as the preset has."""
STEPS, RESULT, FAILED = "steps.json", "result.json", "failed.txt"
TRIED = 12
"""Steps that are tried, of which the second half is timed."""


@dataclass(frozen=True)
class Stage:
    """One training.

    Attributes:
        preset: Of which model.
        share: Of the time.
        after: Stage whose weights it begins with.
        changes: Other than the preset.
        train: Other options of training.
    """

    preset: str
    share: float
    after: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One model of the table.

    Attributes:
        label: What the table calls it.
        stage: Its last one; None: the preset ``shipped``, as it comes.
        cost: What its plans are compared by, as of `worldkit plan`.
        draws: It predicts pictures.
    """

    label: str
    stage: str | None
    cost: str = "latent"
    draws: bool = False
    shipped: str | None = None


IJEPA = {"name": "jepa-vit", "patch_size": 4, "dim": 96, "num_layers": 4, "num_heads": 4, "mean": [0.5], "std": [0.5]}
CNN = {"base_channels": 32, "channel_multipliers": [1, 2, 2], "latent_channels": 32}
VAE = {"encoder": {"name": "patch", "patch_size": 4, "feature_dim": 16, "hidden_dim": 64, "cnn": CNN},
       "decoder": {"name": "patch", "hidden_dim": 64, "cnn": CNN}}
DINO = {"encoder": {"name": "adapted", "picture": IJEPA, "adapter": {"name": "identity"}}, "decoder": None,
        "dynamics": {"name": "causal-patches", "num_layers": 3, "num_heads": 4, "head_dim": 32, "hidden": 256,
                     "dropout": 0.0},
        "conditioners": {"action": {"name": "transition-action", "dim": 2, "bound": False, "norm": "none",
                                    "activation": "none"}},
        "objective": {"name": "frozen-jepa", "num_frames": 4, "target": "detached"}}
FRAMES = {"dynamics": None, "conditioners": {"action": None}, "timestep_horizon": 1,
          "objective": {"name": "elbo", "weights": {"kl": 0.02, "transparency": 0.0}}}
STAGES = {
    "lewm": Stage("lewm-mini", 1.0),
    "pldm": Stage("pldm-mini", 1.0),
    "ijepa": Stage("ijepa-mini", 0.4),
    "dino": Stage("lewm-mini", 0.6, "ijepa", DINO, {"batch_size": 16}),
    "svae": Stage("semantic-wm-svae-mini", 0.2, "ijepa"),
    "semantic-ijepa": Stage("semantic-wm-mini", 0.4, "svae"),
    "vae": Stage("semantic-wm-svae-mini", 0.3, None, {**VAE, "objective": {"name": "elbo"}}),
    "semantic-vae": Stage("semantic-wm-mini", 0.7, "vae", VAE),
    "rssm": Stage("rssm-push-mini", 1.0),
    "lpwm-frames": Stage("lpwm-push-mini", 0.5, None, FRAMES, {"batch_size": 16, "lr": 6e-4}),
    "lpwm": Stage("lpwm-push-mini", 0.5, "lpwm-frames",
                  {"objective": {"name": "one-step", "kl_weight": 10.0, "transparency_weight": 0.1, "remember": 20000}},
                  {"optimizer": "muon", "lr": 2e-3, "batch_size": 16, "clips": "tile"}),
}
MODELS = {
    "lewm": Row("LeWM (`lewm-mini`)", "lewm"),
    "pldm": Row("PLDM (`pldm-mini`)", "pldm"),
    "dino": Row("DINO-WM on our I-JEPA", "dino"),
    "semantic-vae": Row("semantic-wm, small DiT on our VAE", "semantic-vae", draws=True),
    "semantic-ijepa": Row("semantic-wm, small DiT on our I-JEPA, S-VAE", "semantic-ijepa", draws=True),
    "lpwm": Row("LPWM (`lpwm-push-mini`)", "lpwm", "nearest-objects", True),
    "lpwm-shipped": Row("LPWM (`lpwm-push-mini`, as shipped)", None, "nearest-objects", True, "lpwm-push-mini"),
    "rssm": Row("Dreamer's RSSM (`rssm-push-mini`)", "rssm", "pixels", True),
}


def lineage(stage: str | None) -> list[str]:
    """A stage and those it stands on, the first one first.

    Example:
        >>> lineage("semantic-ijepa")
        ['ijepa', 'svae', 'semantic-ijepa']
    """
    return [] if stage is None else [*lineage(STAGES[stage].after), stage]


def cell(kind: str, name: str, seed: int, options: argparse.Namespace) -> Path:
    """Folder of a stage (``"train"``) or a model's scores."""
    return options.out / f"{kind}-{name}-{seed}"


# -- training


def trainer_of(name: str, folder: Path, steps: int, options: argparse.Namespace) -> Any:
    """One stage's trainer, that stops after so many steps."""
    from worldkit.training.recipes import make_trainer

    stage, seed = STAGES[name], int(options.seeds)
    begin = {} if stage.after is None else {"init_from": str(cell("train", stage.after, seed, options) / "model")}
    return make_trainer(
        stage.preset, options.data, run=folder, overrides=stage.changes, show_progress=False,
        train_overrides={"steps": steps, "eval_every": steps, "eval_clips": 16, "save_every": max(TRIED, steps // 8),
                         "keep": 1, "seed": seed, "select_by": "loss", **stage.train, **begin},
    )


def train(name: str, options: argparse.Namespace) -> None:
    """Train one stage for its share of the time, and keep what it came to (averaged weights, where it has them)."""
    torch.set_num_threads(1)
    folder = cell("train", name, int(options.seeds), options)
    folder.mkdir(parents=True, exist_ok=True)
    known = json.loads((folder / STEPS).read_text()) if (folder / STEPS).exists() else None
    if known is None:
        times: list[float] = []
        trial = trainer_of(name, folder / "trial", TRIED, options)
        trial.after_step = lambda *_: times.append(time.process_time())
        trial.fit()
        each = (times[-2] - times[TRIED // 2 - 1]) / (TRIED - 1 - TRIED // 2)  # the last one evaluates as well
        known = {"steps": max(TRIED, int(60 * options.minutes * STAGES[name].share / each)), "cpu": 0.0}
        (folder / STEPS).write_text(json.dumps(known))
    trainer = trainer_of(name, folder / "run", known["steps"], options)
    times: list[float] = []
    trainer.after_step = lambda *_: times.append(time.process_time())
    trainer.fit()
    with trainer.looking() as model:
        model.save_pretrained(folder / "model")
    if len(times) > 2:  # the first and last step do more than a step
        known["cpu"] = round((times[-2] - times[0]) / (len(times) - 2) * known["steps"], 1)
    (folder / STEPS).write_text(json.dumps(known | {"done": True}))


# -- scores


def load(name: str, options: argparse.Namespace) -> Any:
    """A model of the table."""
    import worldkit as wk

    row = MODELS[name]
    if row.stage is None:
        return wk.create_model(row.shipped, pretrained=True).eval()
    return wk.WorldModel.from_pretrained(cell("train", row.stage, int(options.seeds), options) / "model").eval()


def probed(model: Any, options: argparse.Namespace) -> dict[str, Any]:
    """R2 of positions, by probe: value and interval."""
    from worldkit.training.probe import probe

    found = probe(model, options.data, "position", max_clips=options.clips)
    return {f"{s.features} {s.probe}": [s.r2, s.low, s.high] for s in found.scores}


def problems(count: int) -> dict[str, Any]:
    """Frames, goals and states of so many test episodes, one problem each."""
    from worldkit.data import generate_push

    test = generate_push("test", num_episodes=count, image_size=SIZE)
    episode, start = np.arange(count), np.arange(count) % 4 * 8
    frames, goals = (torch.from_numpy(test.video[episode, start + t]) for t in (0, HORIZON))
    return {"frames": frames[:, None], "goals": goals, "position": test.position[episode, start],
            "velocity": test.velocity[episode, start], "wanted": test.position[episode, start + HORIZON, 0]}


def reached(asked: dict[str, Any], actions: np.ndarray) -> np.ndarray:
    """How far the white disc is from its goal once actions ``[P, HORIZON, 2]`` were done in the world, ``[P]``."""
    from worldkit.data.formats.push import rollout

    position, _, _ = rollout(asked["position"], asked["velocity"], actions)
    return np.linalg.norm(position[:, -1, 0] - asked["wanted"], axis=-1)


def rounds_of(seconds: float, one: float) -> int:
    """Rounds that go into so many seconds, where one takes ``one``.

    Example:
        >>> rounds_of(4, 0.5), rounds_of(4, 100), rounds_of(4, 1e-3)
        (8, 1, 30)
    """
    return max(1, min(MOST_ROUNDS, int(seconds / one)))


def planned(model: Any, cost: str, options: argparse.Namespace) -> dict[str, Any]:
    """What plans come to; every problem is planned for by itself."""
    from worldkit.planning import CEM, Continuous, Shooting, make_cost

    asked = problems(options.problems)
    made, spent = [], []
    if sampling := getattr(model.dynamics, "sampling", None):
        model.dynamics.sampling = replace(sampling, steps=DENOISING_STEPS)

    def solve(number: int, rounds: int) -> tuple[np.ndarray, float]:
        begun = time.process_time()
        task = Shooting(model, asked["frames"][number : number + 1], make_cost(cost),
                        goal=asked["goals"][number : number + 1], space=Continuous((-1, -1), (1, 1)))
        planner = CEM(candidates=options.candidates, iterations=rounds, elites=max(2, options.candidates // 8))
        plan = planner.solve(task, HORIZON, generator=torch.Generator().manual_seed(number))
        return plan.actions.numpy()[0], time.process_time() - begun

    solve(0, 1)
    once, twice = (solve(0, count)[1] for count in (1, 3))
    rounds = rounds_of(options.seconds, max(1e-4, (twice - once) / 2))
    for number in range(options.problems):
        actions, seconds = solve(number, rounds)
        made.append(actions)
        spent.append(seconds)
    off = reached(asked, np.stack(made))
    return {"off": off.tolist(), "rounds": rounds, "seconds": float(np.median(spent))}


def episodes(options: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """Videos and actions of the test episodes that are drawn."""
    from worldkit.data import generate_push

    test = generate_push("test", num_episodes=options.problems, image_size=SIZE)
    return torch.from_numpy(test.video).float() / 255, torch.from_numpy(test.action)


def likeness(made: torch.Tensor, video: torch.Tensor) -> list[float]:
    """PSNR of frames behind the given ones ``[B, HORIZON, C, H, W]``, of every episode."""
    from worldkit.metrics import psnr

    each = psnr(made.flatten(0, 1), video[:, SEEN : SEEN + HORIZON].flatten(0, 1))
    return each.unflatten(0, (len(video), -1)).mean(1).tolist()


@torch.no_grad()
def drawn(model: Any, options: argparse.Namespace) -> list[float]:
    """PSNR of predicted frames, an episode each: of means, where the dynamics has them, else of one draw."""
    found = []
    for v, a in zip(*(x.split(8) for x in episodes(options)), strict=True):
        ahead = model.rollout(v[:, :SEEN], HORIZON, conditions={"action": a[:, : SEEN + HORIZON]},
                              deterministic=model.dynamics.explicit_prior,
                              generator=torch.Generator().manual_seed(0)).video.clamp(0, 1)
        found += likeness(ahead, v)
    return found


def score(name: str, options: argparse.Namespace) -> None:
    """Everything the table says of one model."""
    torch.set_num_threads(1)
    torch.manual_seed(int(options.seeds))
    model, row = load(name, options), MODELS[name]
    found: dict[str, Any] = {"probe": probed(model, options)}
    if row.draws:
        found["psnr"] = drawn(model, options)
    found["plan"] = planned(model, row.cost, options)
    folder = cell("score", name, int(options.seeds), options)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT).write_text(json.dumps(found))


# -- the table


def start(word: str, name: str, folder: Path, seed: int, options: argparse.Namespace) -> bool:
    """Train or score in a process of its own; whether it went well. A failure leaves its last words."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, word, name, "--seeds", str(seed)]
    for key in ("out", "data", "minutes", "clips", "problems", "candidates", "seconds"):
        command += [f"--{key}", str(getattr(options, key))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    (folder / FAILED).unlink(missing_ok=True)
    if done.returncode:
        (folder / FAILED).write_text(done.stderr)
        print(f"{word[2:]} {name}, seed {seed}: failed: {done.stderr.strip().splitlines()[-1:]}; see {folder / FAILED}",
              flush=True)
    return not done.returncode


def trained(name: str, seed: int, options: argparse.Namespace) -> bool:
    """Whether a stage is through."""
    file = cell("train", name, seed, options) / STEPS
    return file.exists() and json.loads(file.read_text()).get("done", False)


def number(values: list[float], digits: int, *, share: bool = False) -> str:
    """Mean and half of its 95 % interval.

    Example:
        >>> number([1.0, 3.0], 1), number([0.0, 1.0, 1.0, 1.0], 0, share=True), number([1.0], 1)
        ('2.0 ± 12.7', '75 % ± 80', '1.0')
    """
    from scipy import stats

    scale = 100 if share else 1
    mean = scale * float(np.mean(values))
    text = f"{mean:.{digits}f}" + (" %" if share else "")
    if len(values) == 1:
        return text
    half = scale * float(stats.t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return f"{text} ± {half:.{digits}f}"


def line(row: Row, seeds: list[dict[str, Any] | None], cpu: list[float]) -> str:
    """A row: of every seed what was found, or None where the cell failed."""
    good = [found for found in seeds if found is not None]
    if not good:
        return f"| {row.label} | failed |" + " |" * 8
    def across(one: Any, digits: int, *, share: bool = False) -> str:
        values = [[*one(found)] for found in good]
        return number(values[0] if len(values) == 1 else [float(np.mean(each)) for each in values], digits, share=share)

    def r2(probe: str) -> str:
        if len(good) > 1:
            return number([found["probe"][probe][0] for found in good], 2)
        mean, low, high = good[0]["probe"][probe]
        return f"{mean:.2f} [{low:.2f}, {high:.2f}]"

    offs = [np.array(found["plan"]["off"]) for found in good]
    cells = [
        f"{np.mean(cpu) / 60:.1f}" if cpu else "-", r2("latent linear"), r2("latent mlp"),
        across(lambda found: [float(x < NEAR) for x in found["plan"]["off"]], 0, share=True),
        across(lambda found: found["plan"]["off"], 3) if offs else "-", row.cost,
        f"{np.mean([found['plan']['seconds'] for found in good]):.1f}",
        ", ".join(str(found["plan"]["rounds"]) for found in good),
        across(lambda found: found["psnr"], 1) if row.draws else "-",
    ]
    lost = len(seeds) - len(good)
    return f"| {row.label}{f', {lost} of {len(seeds)} seeds failed' if lost else ''} | " + " | ".join(cells) + " |"


def table(found: dict[str, list[dict[str, Any] | None]], cpu: dict[str, list[float]], options: Any) -> list[str]:
    """Lines of Markdown."""
    head = ["model", "CPU min", "position, linear (R2)", "MLP (R2)", "reached", "off", "cost", "s per plan", "rounds",
            "PSNR (dB)"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += [line(MODELS[name], seeds, cpu[name]) for name, seeds in found.items()]
    pixels = next((one["probe"] for seeds in found.values() for one in seeds if one), None)
    if pixels:
        linear, mlp = (f"{pixels[f'pixels {kind}'][0]:.2f}" for kind in ("linear", "mlp"))
        lines.append(f"| 16 x 16 pixels, no model | - | {linear} | {mlp} | | | | | | |")
    video = episodes(options)[0]
    still = likeness(video[:, SEEN - 1 : SEEN].expand(-1, HORIZON, -1, -1, -1), video)
    lines.append(f"| the last frame, repeated | | | | | | | | | {number(still, 1)} |")
    asked = problems(options.problems)
    chance = np.random.default_rng(0).uniform(-1, 1, (options.problems, HORIZON, 2)).astype(np.float32)
    for label, actions in (("random actions", chance), ("no action", np.zeros_like(chance))):
        off = reached(asked, actions)
        lines.append(f"| {label} | | | | {number((off < NEAR).astype(float).tolist(), 0, share=True)} | "
                     f"{number(off.tolist(), 3)} | | | | |")
    return lines


def main() -> None:
    """Train what is not trained, score what is not scored, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(MODELS), help="models, joined by commas (default: all)")
    parser.add_argument("--seeds", default="0,1,2", help="default: 0,1,2")
    parser.add_argument("--minutes", type=float, default=8, help="CPU minutes of training for each (default: 8)")
    parser.add_argument("--seconds", type=float, default=4, help="CPU seconds of a plan (default: 4)")
    parser.add_argument("--problems", type=int, default=24, help="to plan for, and episodes to draw (default: 24)")
    parser.add_argument("--candidates", type=int, default=CANDIDATES, help=f"of a round (default: {CANDIDATES})")
    parser.add_argument("--clips", type=int, default=400, help="that probes learn from (default: 400)")
    parser.add_argument("--data", default=DATA, help=f"default: {DATA}")
    parser.add_argument("--out", type=Path, default=Path("runs/latents"), help="default: runs/latents")
    parser.add_argument("--train", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--score", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train or options.score:
        train(options.train, options) if options.train else score(options.score, options)
        return
    names, seeds = options.only.split(","), [int(seed) for seed in options.seeds.split(",")]
    if unknown := [name for name in names if name not in MODELS]:
        raise SystemExit(f"there is no model {', '.join(unknown)}; there are: {', '.join(MODELS)}")
    found: dict[str, list[dict[str, Any] | None]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    for seed in seeds:
        for name in names:
            if MODELS[name].stage is None and seed != seeds[0]:  # the same weights
                continue
            stages, folder = lineage(MODELS[name].stage), cell("score", name, seed, options)
            fine = all(trained(stage, seed, options)
                       or start("--train", stage, cell("train", stage, seed, options), seed, options)
                       for stage in stages)
            fine = fine and ((folder / RESULT).exists() or start("--score", name, folder, seed, options))
            found[name].append(json.loads((folder / RESULT).read_text()) if fine else None)
            if fine and stages:
                cpu[name].append(sum(json.loads((cell("train", stage, seed, options) / STEPS).read_text())["cpu"]
                                     for stage in stages))
            print(f"{name}, seed {seed}: {'done' if fine else 'failed'}", flush=True)
    lines = table(found, cpu, options)
    (options.out / "table.md").write_text("\n".join(lines) + "\n")
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
