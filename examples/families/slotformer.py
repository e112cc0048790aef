"""SlotFormer: SAVi's slots take a video apart, a transformer moves them.

    python examples/families/slotformer.py
"""

import torch

import worldkit as wk
from worldkit.viz import grid, save_png

model = wk.create_model("slotformer-balls-mini", pretrained=True)
video = wk.data.open_dataset("balls-32", split="test", num_frames=11, num_episodes=2)[0]["video"][None]
with torch.no_grad():
    seen = model.encode(video[:, :6])
    masks = model.decode(seen, masks=True).masks  # [1, 6, slots, 1, 32, 32]: which pixels a slot draws
    future = model.rollout(video[:, :6], 5, deterministic=True)
shares = masks[0, -1].mean((-1, -2)).flatten()
print("share of the picture that each slot draws:", [f"{share:.2f}" for share in shares.tolist()])
error = (future.video - video[:, 6:] / 255).square().mean()
print(f"predicted: {-10 * torch.log10(error):.1f} dB")
save_png(grid(torch.cat([video[0, 6:] / 255, future.video[0].clamp(0, 1)]), 5), "slotformer.png")
