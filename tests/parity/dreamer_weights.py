"""Golden numbers of the official PlaNet and Dreamer code: where they lie, and how their weights get into our modules.

Names and layouts are those of ``reference/dreamer-keys.md``; `Weights.copy` knows the layers, not the models, so that
every test says which of its parts is called what.
"""

import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

from worldkit.nn.conv_tower import Doubled
from worldkit.nn.dense import BlockLinear, RMSNorm

ROOT = Path(os.environ.get("WORLDKIT_PARITY", Path(__file__).parents[2].parent / "shared" / "parity")) / "dreamer"
D = torch.float64
MISSING = f"golden files not found at {ROOT}; set WORLDKIT_PARITY"


def folders(*needs):
    """Folders with these files."""
    found = sorted(f.parent for f in ROOT.glob(f"*/{needs[0]}")) if ROOT.exists() else []
    return [f for f in found if all((f / name).exists() for name in needs)]


def files(pattern):
    """Files by a pattern under the root: ``files("v2/*conv*.npz")``."""
    return sorted(ROOT.glob(pattern)) if ROOT.exists() else []


def name_of(path):
    return str(path.relative_to(ROOT))


def arrays(path):
    """Tensors of a file, floats in float64."""
    with np.load(path) as stored:
        tensors = {key: torch.from_numpy(stored[key]) for key in stored.files}
    return {key: x.to(D) if x.is_floating_point() else x for key, x in tensors.items()}


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def close(ours, theirs, what, rtol=1e-9):
    """Relative to the largest number."""
    ours, theirs = torch.as_tensor(ours).detach(), torch.as_tensor(theirs)
    assert ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)} != {tuple(theirs.shape)}"
    error = (ours.to(D) - theirs.to(D)).abs().max().item()
    assert error <= rtol * max(1e-3, theirs.to(D).abs().max().item()), f"{what}: off by {error:.3g}"


class Weights:
    """Stored parameters by their official names; `left` are those that nobody has taken."""

    def __init__(self, stored, prefix=""):
        self.values = {key[len(prefix):]: x for key, x in stored.items() if key.startswith(prefix)}
        self.left = set(self.values)

    def take(self, key):
        self.left.discard(key)
        return self.values[key]

    @torch.no_grad()
    def copy(self, layer, name):
        """Into one layer from ``name/kernel`` and ``name/bias``, or ``name/scale`` (``name/gamma``, ``name/beta``)."""
        if isinstance(layer, RMSNorm):
            layer.scale.copy_(self.take(f"{name}/scale"))
            return
        if isinstance(layer, nn.LayerNorm):
            scale = "scale" if f"{name}/scale" in self.values else "gamma"
            layer.weight.copy_(self.take(f"{name}/{scale}"))
            layer.bias.copy_(self.take(f"{name}/{'bias' if scale == 'scale' else 'beta'}"))
            return
        kernel = self.take(f"{name}/kernel")
        if isinstance(layer, nn.Linear):
            kernel = kernel.T
        elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, Doubled)):  # Keras' transposed kernels: [h, w, out, in]
            kernel = kernel.permute(3, 2, 0, 1)
        else:
            assert isinstance(layer, BlockLinear), type(layer)
        assert layer.weight.shape == kernel.shape, f"{name}: {tuple(layer.weight.shape)} != {tuple(kernel.shape)}"
        layer.weight.copy_(kernel)
        if layer.bias is not None:
            layer.bias.copy_(self.take(f"{name}/bias"))

    def stack(self, stack, linear, norm):
        """Into a `DenseStack`; names with ``{}`` for the number of the layer: ``"mlp/linear{}", "mlp/norm{}"``."""
        for index, layer in enumerate(stack):
            self.copy(layer.linear, linear.format(index))
            if not isinstance(layer.norm, nn.Identity):
                self.copy(layer.norm, norm.format(index))


def load_encoder_v3(weights, encoder):
    """Into encoder ``conv``, ``mlp`` or ``multi``."""
    if (picture := getattr(encoder, "picture", None)) is not None:
        for index, layer in enumerate(picture.tower.layers):
            weights.copy(layer.conv, f"enc/cnn{index}")
            weights.copy(layer.after.norm, f"enc/cnn{index}norm")
    if (vectors := getattr(encoder, "vectors", None)) is not None:
        weights.stack(vectors.stack, "enc/mlp{}", "enc/mlp{}norm")


def load_decoder_v3(weights, decoder):
    """Into decoder ``conv``, ``mlp`` or ``multi``."""
    if (painter := getattr(decoder, "painter", None)) is not None:
        weights.copy(painter.remembered, "dec/sp0")
        weights.copy(painter.hidden.linear, "dec/sp1")
        weights.copy(painter.hidden.norm, "dec/sp1norm")
        weights.copy(painter.drawn, "dec/sp2")
        weights.copy(painter.after.norm, "dec/spnorm")
        for index, layer in enumerate(reversed(painter.layers)):
            weights.copy(layer.conv, f"dec/conv{index}")
            weights.copy(layer.norm, f"dec/conv{index}norm")
        weights.copy(painter.out, "dec/imgout")
    if (readout := getattr(decoder, "readout", None)) is not None:
        weights.stack(readout.stack, "dec/mlp/linear{}", "dec/mlp/norm{}")
        for name, layer in readout.outputs.items():
            pred = f"dec/vec/{name}/pred"
            weights.copy(layer, pred if f"{pred}/kernel" in weights.values else f"dec/vec/{name}/logits")
