"""Steps of imagination per CPU second: many dreams in one batch beside as many single ones.

    python benchmarks/imagination.py --model lpwm-push-mini --envs 64

Each pair steps the batch, then the single environments one after the other, each with caches of its own; an episode is
longer than a run, so nothing is reset inside it. Prints one JSON line: steps per second of both (of CPU time
of the process; of wall time on another device) and the medians of their ratio.
"""

import argparse
import json
import statistics
import time
import warnings

import numpy as np
import torch

import worldkit as wk

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="lpwm-push-mini")
parser.add_argument("--data", default="push-32")
parser.add_argument("--envs", type=int, default=64)
parser.add_argument("--singles", type=int, help="single environments that are stepped in turn (default: as many)")
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--pairs", type=int, default=5)
parser.add_argument("--observation", default="pixels", choices=("pixels", "latent"))
parser.add_argument("--window", default="exact", choices=("exact", "streaming"))
parser.add_argument("--device", default="cpu")
options = parser.parse_args()

warnings.simplefilter("ignore")
model = wk.create_model(options.model, pretrained=True).eval().to(options.device)
model.requires_grad_(False)
kind = {"observation": options.observation, "window": options.window, "horizon": 10 * options.steps}
batch = model.as_env(options.data, num_envs=options.envs, **kind)
singles = [model.as_env(options.data, **kind) for _ in range(options.singles or options.envs)]
clock = time.process_time if options.device == "cpu" else time.perf_counter
batch.action_space.seed(0)


def speed(envs, actions, count):
    """Steps of ``count`` environments per second, actions ``[steps, envs, ...]``.

    A step's answer is on the CPU, so nothing is still being computed.
    """
    for i, env in enumerate(envs):
        env.reset(seed=i)
    for k, action in enumerate(actions):
        if k == 8:  # the windows are full
            started = clock()
        for i, env in enumerate(envs):
            env.step(action if hasattr(env, "num_envs") else action[i])
    return count * (len(actions) - 8) / (clock() - started)


told = np.stack([batch.action_space.sample() for _ in range(options.steps + 8)])
pairs = [(speed([batch], told, options.envs), speed(singles, told, len(singles))) for _ in range(options.pairs)]
print(json.dumps({
    "model": options.model, **kind, "envs": options.envs, "singles": len(singles), "pairs": options.pairs,
    "device": torch.cuda.get_device_name() if options.device != "cpu" else f"cpu, {torch.get_num_threads()} thread(s)",
    "batched": round(statistics.median(b for b, _ in pairs), 1),
    "single": round(statistics.median(s for _, s in pairs), 1),
    "ratio": round(statistics.median(b / s for b, s in pairs), 1),
    "ratios": [round(float(x), 1) for x in np.sort([b / s for b, s in pairs])],
}))
