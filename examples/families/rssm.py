"""The state-space models of PlaNet and Dreamer: what was seen is a state; futures follow actions from there.

    python examples/families/rssm.py [STEPS]
"""

import sys

import torch

import worldkit as wk
from worldkit.training.recipes import train

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 300  # half a minute; the preset asks for 5,000
model, trained = train("rssm-push-mini", "push-32", run="runs/rssm", train_overrides={"steps": steps})
clip = wk.data.open_dataset("push-32", split="test", num_frames=10, num_episodes=2)[0]
video, action = clip["video"][None], clip["action"][None]
with torch.no_grad():
    told, still = ({"action": a} for a in (action, torch.cat([action[:, :4], 0 * action[:, 4:]], 1)))
    pushed, unpushed = (model.rollout(video[:, :5], 5, conditions=led, deterministic=True).video
                        for led in (told, still))
change = (pushed - unpushed).abs().mean()
print(f"{trained.step} steps; what the actions change in the prediction: {change:.4f} a pixel")
