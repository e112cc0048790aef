"""G-SWM: objects are discovered, followed and predicted by a prior of several modes.

    python examples/families/g_swm.py
"""

import torch

import worldkit as wk

model = wk.create_model("g-swm-balls-mini", pretrained=True)
video = wk.data.open_dataset("balls-32", split="test", num_frames=10, num_episodes=2)[0]["video"][None]
with torch.no_grad():
    tracks = model.perceive(video[:, :5]).aux  # objects with their numbers, which stay the same over time
    future = model.rollout(video[:, :5], 5, deterministic=True)
    drawn = [model.rollout(video[:, :5], 5, generator=torch.Generator().manual_seed(s)).video for s in range(4)]
print("numbers of objects:", tuple(tracks.objects.ids.shape))
print("predicted positions:", tuple(future.latents.position.shape))
error, spread = (future.video - video[:, 5:] / 255).square().mean(), torch.stack(drawn).std(0).mean()
print(f"predicted: {-10 * torch.log10(error):.1f} dB; four drawn futures differ by {spread:.3f} a pixel")
