"""Plan, then act: what do plans made in a learned model reach in the world itself?

    python examples/06_plan.py [--problems 40] [--cost pixels] [--planner cem]

In `push-32` a white disc goes where its action says. A model that only ever saw its pictures plans how to get from one
frame to a picture of what happened five frames later, and the world then says where its plan really leads. Two minutes
on a CPU.
"""

import argparse

import numpy as np
import torch

import worldkit as wk
from worldkit.data import generate_push
from worldkit.data.formats.push import draw, rollout
from worldkit.metrics import confidence_interval
from worldkit.planning import Continuous, Shooting, make_cost, make_planner, plan_strip
from worldkit.planning.pictures import imagined_frames
from worldkit.viz import save_png

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--problems", type=int, default=40, help="one of each of so many test episodes")
parser.add_argument("--cost", default="pixels", help="as of worldkit plan")
parser.add_argument("--planner", default="cem", help="as of worldkit plan")
parser.add_argument("--candidates", type=int, default=150, help="plans tried in each of 8 rounds")
parser.add_argument("--model", default="lpwm-push-mini", help="a preset with weights, or dir:RUN for a run of your own")
options = parser.parse_args()
HORIZON = 5

model = wk.create_model(options.model, pretrained=True).eval()
test = generate_push("test", num_episodes=options.problems, image_size=32)
episode, start = np.arange(options.problems), np.arange(options.problems) % 4 * 8
frames, goals = (torch.from_numpy(test.video[episode, start + t]) for t in (0, HORIZON))
taken = test.action[episode[:, None], start[:, None] + np.arange(HORIZON)]

task = Shooting(model, frames[:, None], make_cost(options.cost), goal=goals, space=Continuous((-1, -1), (1, 1)))
rounds = {"candidates": options.candidates, "iterations": 8, "elites": max(2, options.candidates // 10)}
planner = make_planner(options.planner, **{} if options.planner == "gradient" else rounds)
plan = planner.solve(task, HORIZON, generator=torch.Generator().manual_seed(0))
chance = np.random.default_rng(0).uniform(-1, 1, taken.shape).astype(np.float32)
acted = {"the plan": plan.actions.numpy(), "random actions": chance, "no action": np.zeros_like(taken),
         "as in the data": taken}
wanted, reached = test.position[episode, start + HORIZON], {}
print(f"n = {options.problems}, {planner}, cost {options.cost}: distance to the goal {HORIZON} frames later, the "
      "picture being 2 wide, mean and 95 % interval")
for name, actions in acted.items():
    position, _, _ = rollout(test.position[episode, start], test.velocity[episode, start], actions)
    reached[name] = position
    apart = np.linalg.norm(position[:, -1] - wanted, axis=-1)
    near = apart[:, 0] < 0.1
    print(f"{name}: pusher {confidence_interval(torch.from_numpy(apart[:, 0]))}, within 0.1 in {near.mean():.0%}; the "
          f"other discs {confidence_interval(torch.from_numpy(apart[:, 1:].mean(1)))}")

imagined, shown = imagined_frames(task, plan.actions), np.linalg.norm(
    test.position[episode, start, 0] - wanted[:, 0], axis=-1).argsort()[-3:].tolist()
rows = []
for i in shown:
    real = torch.from_numpy(draw(reached["the plan"][i : i + 1], test.colors[i : i + 1], 32))[0] / 255
    rows.append(plan_strip(frames[i], {"as imagined": imagined[i], "as it went": real}, goals[i]))
save_png(torch.cat(rows, 1), "plan.png")
print("three of the longest ways: plan.png")
