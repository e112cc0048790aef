"""Frames per CPU second of environments at 64 pixels, beside what their packages do by default; one JSON line each.

    python benchmarks/envs.py
    python benchmarks/envs.py --envs dmc/cheetah-run cube-single-v0 --pairs 5 --frames 60

A frame is a step with a random action and its picture. Ours is `worldkit.make_env(ID)`; the default is the package by
itself, asked for 64 x 64: dm_control's ``physics.render``, OGBench's and Gymnasium's ``render()``. Both sides run in
turns, each in a process of its own (renderers of one spoil the other's), and every one renders once before time counts.
CPU time of the process, all threads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable

ENVS = ("dmc/reacher-easy", "dmc/cartpole-swingup", "dmc/cheetah-run", "cube-single-v0", "visual-cube-single-v0",
        "scene-v0", "HalfCheetah-v5")
SIZE = 64


def ours(env_id: str) -> Callable[[], object]:
    """A step and its picture through worldkit."""
    import worldkit as wk

    env = wk.make_env(env_id, size=SIZE)
    env.reset(seed=0)
    env.action_space.seed(0)

    def step() -> object:
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
        return observation["pixels"]

    return step


def default(env_id: str) -> Callable[[], object]:
    """A step and its picture through the package alone."""
    if env_id.startswith("dmc/"):
        return _dmc(*env_id.removeprefix("dmc/").split("-"))
    import gymnasium

    if "cube" in env_id or "scene" in env_id:
        import ogbench  # noqa: F401  # its environments are registered then

    size = {} if env_id.startswith("visual-") else {"width": SIZE, "height": SIZE}
    env = gymnasium.make(env_id, render_mode="rgb_array", **size)
    env.reset(seed=0)
    env.action_space.seed(0)

    def step() -> object:
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
        return observation if env_id.startswith("visual-") else env.render()

    return step


def _dmc(domain: str, task: str) -> Callable[[], object]:
    import numpy as np
    from dm_control import suite

    env = suite.load(domain, task, task_kwargs={"random": 0})
    spec, random = env.action_spec(), np.random.default_rng(0)
    env.reset()

    def step() -> object:
        if env.step(random.uniform(spec.minimum, spec.maximum)).last():
            env.reset()
        return env.physics.render(SIZE, SIZE, camera_id=0)

    return step


def measure(side: str, env_id: str, frames: int) -> float:
    """Frames per CPU second, in this process."""
    warnings.simplefilter("ignore")
    step = {"ours": ours, "default": default}[side](env_id)
    assert step().shape == (SIZE, SIZE, 3)
    start = time.process_time()
    for _ in range(frames):
        step()
    return frames / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=list(ENVS), metavar="ID")
    parser.add_argument("--pairs", type=int, default=3, help="alternating pairs of measurements (default: 3)")
    parser.add_argument("--frames", type=int, default=100, help="frames of ours; a fifth of the default (default: 100)")
    parser.add_argument("--side", choices=("ours", "default"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("MUJOCO_GL", "egl")
    if options.side:
        print(measure(options.side, options.envs[0], options.frames), flush=True)
        os._exit(0)  # the packages' own renderers complain at length when Python ends
    for env_id in options.envs:
        found: dict[str, list[float]] = {"ours": [], "default": []}
        for number in range(options.pairs):
            for side in ("ours", "default") if number % 2 == 0 else ("default", "ours"):
                frames = options.frames if side == "ours" else max(5, options.frames // 5)
                script = os.path.abspath(__file__)
                command = [sys.executable, script, "--envs", env_id, "--frames", str(frames), "--side", side]
                with tempfile.TemporaryDirectory() as folder:  # MuJoCo logs where the process is
                    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
                found[side].append(float(done.stdout.split()[-1]))
        ratios = [a / b for a, b in zip(found["ours"], found["default"], strict=True)]
        row = {f"{side}, frames per CPU s": round(statistics.median(rates), 1) for side, rates in found.items()}
        print(json.dumps({"env": env_id, **row, "times": round(statistics.median(ratios), 2),
                          "range": [round(min(ratios), 2), round(max(ratios), 2)], "pairs": options.pairs}), flush=True)


if __name__ == "__main__":
    main()
