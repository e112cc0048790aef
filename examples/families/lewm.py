"""LeWM, a JEPA: futures of latents, no pictures; plans lead to where a goal's latent lies.

    python examples/families/lewm.py [STEPS]
"""

import sys

import worldkit as wk
from worldkit.planning import CEM, Continuous, LatentDistance, Shooting
from worldkit.training.recipes import train

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 300  # 3,000 is what the preset asks for
model, trained = train("lewm-mini", "push-32", run="runs/lewm", train_overrides={"steps": steps})
clip = wk.data.open_dataset("push-32", split="test", num_frames=6, num_episodes=2)[0]
now, goal = clip["video"][None, :1] / 255, clip["video"][None, 5] / 255
task = Shooting(model, now, LatentDistance(), goal=goal, space=Continuous((-1, -1), (1, 1)))
plan = CEM(candidates=32, iterations=3, elites=4).solve(task, horizon=5)
print(f"{trained.step} steps; the plan:", [[f"{number:+.2f}" for number in row] for row in plan.actions[0].tolist()])
