"""semantic-wm: a causal DiT over frozen features. Here of a small I-JEPA; three stages.

    python examples/families/semantic_wm.py [STEPS]
"""

import sys

import torch

import worldkit as wk
from worldkit.training.recipes import train

steps, model, begin = int(sys.argv[1]) if len(sys.argv) > 1 else 300, None, {}
for stage in ("ijepa-mini", "semantic-wm-svae-mini", "semantic-wm-mini"):
    model, _ = train(stage, "push-32", run=f"runs/{stage}", train_overrides={"steps": steps, **begin})
    begin = {"init_from": f"runs/{stage}"}
clip = wk.data.open_dataset("push-32", split="test", num_frames=6, num_episodes=2)[0]
with torch.no_grad():
    future = model.rollout(clip["video"][None, :2], 4, conditions={"action": clip["action"][None]})
error = (future.video.clamp(0, 1) - clip["video"][None, 2:] / 255).square().mean()
print("latents of a frame:", {str(name): tuple(v.shape[2:]) for name, v in future.latents.values.items()})
print(f"predicted: {-10 * torch.log10(error):.1f} dB")
