"""SAVi: a video taken apart into slots, each of which draws its own part of the picture; a slot can be left out.

    python examples/families/savi.py
"""

import torch

import worldkit as wk
from worldkit.viz import grid, save_png

model = wk.create_model("savi-balls-mini", pretrained=True)
video = wk.data.open_dataset("balls-32", split="test", num_frames=6, num_episodes=2)[0]["video"][None]
with torch.no_grad():
    z = model.encode(video)  # slots [1, 6, 4, 64], the same slot for the same thing in every frame
    drawn = model.decode(z, masks=True)
error = (drawn.video - video / 255).square().mean()
print(f"drawn again: {-10 * torch.log10(error):.1f} dB")
for slot, mask in enumerate(drawn.masks[0].unbind(1)):  # [6, 1, 32, 32]
    print(f"slot {slot} draws", " ".join(f"{share:5.1%}" for share in mask.mean((-1, -2, -3)).tolist()))
save_png(grid(torch.cat([video[0] / 255, drawn.video[0].clamp(0, 1)]), 6), "savi.png")
