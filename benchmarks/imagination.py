"""Steps of imagination per CPU second: many dreams in one batch beside as many single ones.

    python benchmarks/imagination.py --model lpwm-push-mini --envs 64

Each pair steps the batch, then the single environments one after the other, each with caches of its own; an episode is
longer than a run, so nothing is reset inside it. Prints one JSON line: steps per second of both (of CPU time
of the process; of wall time on another device) and the medians of their ratio; and what arithmetic allows: the
operations of products, convolutions and attention in a step of the batch, how many of them a second this machine makes
in one large product (measured beside every pair), and the ratio if the step took no longer than they do at that speed.
"""

import argparse
import json
import statistics
import time
import warnings

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import worldkit as wk
from worldkit.nn.products import linear

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


def operations(env, action):
    """Multiplications and additions of a step, in thousand millions; PyTorch itself does not count these two."""
    def attention(q, k, v, *rest, out_shape=None, **more):
        *many, queries, width = q
        return 4 * int(np.prod(many)) * queries * k[-2] * width

    def product(x, weight, *rest, out_shape=None, **more):
        return 2 * int(np.prod(x)) * weight[0]

    known = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        known[torch.ops.mkldnn._linear_pointwise] = product
    with FlopCounterMode(display=False, custom_mapping=known) as counted:
        env.step(action)
    return counted.get_total_flops() / 1e9


def peak(size=2048):
    """Such operations a second in one large product, likewise."""
    x = torch.randn(size, size, device=options.device)
    with torch.no_grad():
        float(linear(x, x)[0, 0])
        started = clock()
        float(linear(x, x)[0, 0])
    return 2 * size**3 / (clock() - started) / 1e9


told = np.stack([batch.action_space.sample() for _ in range(options.steps + 8)])
pairs = [(speed([batch], told, options.envs), speed(singles, told, len(singles)), peak()) for _ in range(options.pairs)]
work = operations(batch, told[0])
print(json.dumps({
    "model": options.model, **kind, "envs": options.envs, "singles": len(singles), "pairs": options.pairs,
    "device": torch.cuda.get_device_name() if options.device != "cpu" else f"cpu, {torch.get_num_threads()} thread(s)",
    "batched": round(statistics.median(b for b, _, _ in pairs), 1),
    "single": round(statistics.median(s for _, s, _ in pairs), 1),
    "ratio": round(statistics.median(b / s for b, s, _ in pairs), 1),
    "gflop_per_step_of_the_batch": round(work, 2),
    "gflop_per_second_of_a_product": round(statistics.median(p for *_, p in pairs), 1),
    "ratio_of_arithmetic_alone": round(statistics.median(options.envs * p / work / s for _, s, p in pairs), 1),
    "ratios": [round(float(x), 1) for x in np.sort([b / s for b, s, _ in pairs])],
}))
