"""TD-MPC2: a latent that knows rewards and values and draws nothing; actions are searched for in it. Untrained here.

    python examples/families/tdmpc2.py
"""

import torch

import worldkit as wk
from worldkit.agents import ActionSpec, create_agent
from worldkit.distributions import Sampler

model = wk.create_model("tdmpc2-mini").eval()
seen = wk.Batch.of_vectors({"observation": torch.randn(2, 1, 3)})
with torch.no_grad():
    out = model.rollout(seen, 5, conditions={"action": torch.zeros(2, 6, 1)}, decode=False)
print("rewards of five steps:", tuple(out.predictions["reward"].shape))

agent = create_agent("tdmpc2-mini", action=ActionSpec((-1.0,), (1.0,)))
action, carry = agent.act(torch.zeros(2, 3, 0, 0), agent.start(2), first=torch.tensor([True, True]),
                          sampler=Sampler(), vectors={"observation": torch.randn(2, 3)})
print("actions of two environments:", action.flatten().tolist())
print("to learn: worldkit train-agent tdmpc2-mini --env Pendulum-v1 (docs/tdmpc2.md)")
