"""PlaNet: no actor; every action is planned in the world model that it learned. Here untrained, to show the call.

    python examples/families/planet.py
"""

import torch

from worldkit.agents import ActionSpec, create_agent
from worldkit.distributions import Sampler

agent = create_agent("planet-mini", action=ActionSpec(low=(-1.0,), high=(1.0,)), frame_shape=(3, 32, 32),
                     agent={"horizon": 4, "planner_options": {"candidates": 32, "elites": 8, "iterations": 2}})
carry = agent.start(2)  # two environments at once
first = torch.tensor([True, True])
for _ in range(3):
    frame = torch.rand(2, 3, 32, 32)  # what is seen
    action, carry = agent.act(frame, carry, first=first, sampler=Sampler())
    first = torch.tensor([False, False])
    print("planned action of each:", action.flatten().tolist())
print("to learn: worldkit train-agent planet-mini --env Pendulum-v1 (docs/acting.md)")
