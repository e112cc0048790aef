"""One RSSM, its memory by name: a GRU, an LSTM, a transformer over its own past. Untrained, to show the swap.

    python examples/families/modular_rssm.py
"""

import torch

import worldkit as wk

video, action = torch.rand(1, 4, 3, 32, 32), torch.zeros(1, 9, 3)
for cell in ("gru", "lstm", "transformer"):
    model = wk.create_model("modular-rssm", dynamics={"cell": cell}).eval()
    with torch.no_grad():
        dream = model.rollout(video, 5, conditions={"action": action},
                              generator=torch.Generator().manual_seed(0))
    state = {name: x.shape[-1] for (_, name), x in dream.latents.values.items()}
    size = sum(x.numel() for x in model.dynamics.parameters())
    print(f"{cell}: {size / 1e3:.0f} thousand weights, state {state}, {dream.video.shape[1]} frames dreamed")
print("to learn: worldkit train-agent modular-rssm --env games/catch -o dynamics.cell=transformer (docs/dreamer.md)")
