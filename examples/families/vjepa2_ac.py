"""V-JEPA 2-AC: frozen patches, a pose, and a plan of a robot's hand. Small, and untrained, to show the call.

    python examples/families/vjepa2_ac.py
"""

import torch

import worldkit as wk
from worldkit.planning import ArmCEM, Continuous, LatentDistance, Shooting

obs = {"height": 32, "width": 32, "vectors": {"pose": 7}}  # place, turn, grip
picture = {"name": "jepa-vit", "patch_size": 8, "tubelet": 2, "dim": 32, "num_layers": 1, "num_heads": 2,
           "positions": "tiled-rotary", "normalize": True, "frozen": True}
model = wk.create_model("vjepa2-ac", obs=obs, encoder={"picture": picture},
                        dynamics={"dim": 48, "num_layers": 1, "num_heads": 2}).eval()
with torch.no_grad():
    seen = model.encode(wk.Batch(torch.rand(1, 2, 3, 32, 32), vectors={"pose": torch.zeros(1, 2, 7)}))
task = Shooting(model, seen[:, :1], LatentDistance(fields=("features",), norm="l1"), goal=seen[:, 1:],
                space=Continuous((-1,) * 7, (1,) * 7))
plan = ArmCEM(candidates=16, iterations=2, elites=4).solve(task, horizon=2)
for step in plan.actions[0]:
    print("move, turn, grip:", [f"{number:+.2f}" for number in step.tolist()])
print("with the published encoder: docs/jepa.md")
