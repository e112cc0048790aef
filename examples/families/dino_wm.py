"""DINO-WM: frozen patches that carry proprioception and actions as channels. Small, and untrained, to show the call.

    python examples/families/dino_wm.py
"""

import torch

import worldkit as wk
from worldkit.planning import CEM, Continuous, LatentDistance, Shooting

obs = {"height": 32, "width": 32, "vectors": {"proprio": 4}}
patches = {"name": "jepa-vit", "patch_size": 8, "dim": 32, "num_layers": 1, "num_heads": 2, "frozen": True}
model = wk.create_model("dino-wm", obs=obs, encoder={"picture": patches}, conditioners={"action": {"dim": 2}},
                        dynamics={"num_layers": 1, "num_heads": 2, "head_dim": 16, "hidden": 32}).eval()
with torch.no_grad():
    seen = model.encode(wk.Batch(torch.rand(1, 2, 3, 32, 32), vectors={"proprio": torch.zeros(1, 2, 4)}))
    out = model.rollout(seen[:, :1], 3, conditions={"action": torch.zeros(1, 4, 2)}, decode=False)
print("three futures of", {name: tuple(x.shape[2:]) for (_, name), x in out.latents.values.items()})
far = LatentDistance(fields=("features",)) + LatentDistance(fields=("vectors",))
task = Shooting(model, seen[:, :1], far, goal=seen[:, 1:], space=Continuous((-1, -1), (1, 1)))
plan = CEM(candidates=16, iterations=2, elites=4).solve(task, horizon=3)
print("the plan:", [[f"{number:+.2f}" for number in row] for row in plan.actions[0].tolist()])
print("with DINOv2's patches: docs/jepa.md")
