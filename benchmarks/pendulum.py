"""Swing a pendulum up from pixels, by planning in a model that learned from random swinging.

    python benchmarks/pendulum.py collect pendulum            # 600 short episodes of random torques, 32 x 32 pixels
    worldkit train ...                                        # two commands: docs/from_pixels.md
    python benchmarks/pendulum.py plan runs/pendulum-0 runs/pendulum-1 runs/pendulum-2

Gymnasium's Pendulum-v1, the middle of its picture, every torque for two steps. The model sees the newest four pictures
and the torques between them, imagines what candidates lead to, and its head says what they earn; no state and no true
reward is seen while acting. Beside it: random torques, anew for every action, and the same planner with the true
dynamics and the true state in place of the model, which is as good as it could get. All play the same episodes, 100
torques of two steps each, from the same starts.

Printed are interquartile means with 95 % bootstrap intervals: of each model over its episodes, of all models over all
episodes within each model, and of the gains over random torques in the same episodes. Writes ``pendulum.png``, the
first episode of each, and a JSON file with all returns.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

import worldkit as wk
from worldkit.collecting import collect
from worldkit.metrics import bootstrap_interval
from worldkit.planning import ICEM, Continuous, FunctionObjective, PredictedReward, Shooting
from worldkit.viz import save_png
from worldkit.viz.images import labelled_rows

SIZE, SEEN, STEPS = 32, 4, 100
SPACE = Continuous((-2.0,), (2.0,))


class Pendulum(gymnasium.Wrapper):
    """Every action for two steps, and the middle of the picture, where the rod is."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        rewards = []
        for _ in range(2):
            observation, reward, terminated, truncated, info = self.env.step(action)
            rewards.append(float(reward))
        return observation, sum(rewards), terminated, truncated, info

    def render(self) -> np.ndarray:
        picture = self.env.render()
        margin = picture.shape[0] // 4
        return picture[margin:-margin, margin:-margin]


class Held:
    """Random torques that stay for a while, else they cancel out and nothing ever swings far."""

    def __init__(self) -> None:
        self._random, self._torque = np.random.default_rng(0), np.zeros(1, np.float32)

    def __call__(self, observation: Any, info: Any) -> np.ndarray:
        if self._random.random() < 0.3:
            whole = self._random.random() < 0.3
            torque = self._random.choice([-2.0, 2.0]) if whole else self._random.uniform(-2, 2)
            self._torque = np.array([torque], np.float32)
        return self._torque


def make() -> gymnasium.Env:
    """The environment, with pixels."""
    return wk.make_env(Pendulum(gymnasium.make("Pendulum-v1", render_mode="rgb_array", max_episode_steps=2 * STEPS)),
                       size=SIZE)


class Episodes:
    """Several environments in step: pictures uint8 ``[E, 3, H, W]``, true states ``[E, 2]``, returns."""

    def __init__(self, count: int, seed: int):
        self.envs = [make() for _ in range(count)]
        self._seen = [env.reset(seed=seed + i)[0] for i, env in enumerate(self.envs)]
        self.returns = torch.zeros(count, dtype=torch.float64)

    def step(self, actions: Tensor) -> None:
        for i, (env, action) in enumerate(zip(self.envs, actions.numpy(), strict=True)):
            self._seen[i], reward, *_ = env.step(action.astype(np.float32))
            self.returns[i] += reward

    @property
    def frames(self) -> Tensor:
        return torch.from_numpy(np.stack([seen["pixels"] for seen in self._seen])).movedim(-1, 1)

    @property
    def states(self) -> Tensor:
        """Angle and speed."""
        return torch.from_numpy(np.stack([env.unwrapped.state for env in self.envs]))


def true_cost(states: Tensor, actions: Tensor) -> Tensor:
    """Minus the true return of candidates ``[E, N, horizon, 1]``: Pendulum-v1's own equations."""
    angle, speed = (x[:, None].expand(actions.shape[:2]) for x in states.unbind(1))
    cost = torch.zeros_like(angle)
    for torque in actions[..., 0].double().unbind(2):
        for _ in range(2):
            cost = cost + ((angle + math.pi) % (2 * math.pi) - math.pi) ** 2 + 0.1 * speed**2 + 0.001 * torque**2
            speed = (speed + (15 * angle.sin() + 3 * torque) * 0.05).clamp(-8, 8)
            angle = angle + speed * 0.05
    return cost


def play(who: Any, episodes: int, seed: int, planner: ICEM, horizon: int) -> tuple[Tensor, Tensor]:
    """Returns ``[E]``, and frames ``[STEPS + 1, 3, H, W]`` of the first episode.

    ``who``: a model, ``"truth"`` or ``"random"``.
    """
    world, generator = Episodes(episodes, seed), torch.Generator().manual_seed(seed)
    frames, past, plan = [world.frames], [], None
    for _ in range(STEPS):
        if who == "random":
            actions = 4 * torch.rand(episodes, 1, generator=generator) - 2
        else:
            if who == "truth":
                states = world.states
                task: Any = FunctionObjective(lambda a, s=states: true_cost(s, a), episodes, SPACE)
            else:
                seen, told = torch.stack(frames[-SEEN:], 1), torch.stack([torch.zeros(episodes, 1), *past], 1)
                task = Shooting(who, seen, PredictedReward(), space=SPACE, rows=4096,
                                past=told[:, 1:][:, -(seen.shape[1] - 1):] if seen.shape[1] > 1 else None)
            plan = planner.solve(task, horizon, initial=None if plan is None else plan.after(), generator=generator)
            actions = plan.actions[:, 0]
        world.step(actions)
        past.append(actions.float())
        frames.append(world.frames)
    return world.returns, torch.stack(frames)[:, 0]


def summary(name: str, returns: list[Tensor], random: Tensor) -> str:
    """A line: returns of one or several models, and their gains over random torques in the same episodes."""
    whole, gain = (bootstrap_interval([x.numpy() for x in values])
                   for values in (returns, [x - random for x in returns]))
    return (f"{name}: return {whole.mean:.0f} [{whole.low:.0f}, {whole.high:.0f}], above random by {gain.mean:.0f} "
            f"[{gain.low:.0f}, {gain.high:.0f}], n = {whole.n}")


def act(options: argparse.Namespace) -> None:
    """``plan``."""
    planner = ICEM(candidates=options.candidates, iterations=options.iterations, elites=options.candidates // 8)
    names = ["random", "truth", *options.models]
    returns, films = {}, {}
    for name in names:
        who = name if name in ("random", "truth") else wk.create_model(f"dir:{name}").eval()
        began = time.process_time()
        returns[name], films[name] = play(who, options.episodes, options.seed, planner, options.horizon)
        seconds = time.process_time() - began
        print(f"{summary(name, [returns[name]], returns['random'])} ({seconds:.0f} CPU s)", flush=True)
    if len(options.models) > 1:
        print(summary(f"{len(options.models)} models", [returns[m] for m in options.models], returns["random"]))
    shown = torch.arange(0, STEPS + 1, 5)[:16]
    rows = {Path(name).name: film[shown].repeat_interleave(2, -1).repeat_interleave(2, -2)
            for name, film in films.items()}
    save_png(labelled_rows(rows, [str(2 * int(t)) for t in shown]), options.picture)
    told = {name: value.tolist() for name, value in returns.items()}
    Path(options.picture).with_suffix(".json").write_text(json.dumps({"options": vars(options) | {"run": None},
                                                                     "returns": told}, indent=2, default=str) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    p = commands.add_parser("collect", help="random torques")
    p.add_argument("out")
    p.add_argument("--episodes", type=int, default=600)
    p.set_defaults(run=lambda o: collect(make(), o.out, policy=Held(), episodes=o.episodes, max_steps=30, enabled=True))
    p = commands.add_parser("plan", help="act by planning, beside random torques and the true dynamics")
    p.add_argument("models", nargs="+", help="runs of worldkit train")
    p.add_argument("--episodes", type=int, default=10)
    p.add_argument("--seed", type=int, default=1000, help="of the starts and of the planner")
    p.add_argument("--horizon", type=int, default=12)
    p.add_argument("--candidates", type=int, default=64)
    p.add_argument("--iterations", type=int, default=3)
    p.add_argument("--picture", default="pendulum.png")
    p.set_defaults(run=act)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.run(options)


if __name__ == "__main__":
    main()
