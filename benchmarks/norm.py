"""GroupNorm and GELU as convolution stacks have them (channels-last): ours beside PyTorch's, alternating.

    python benchmarks/norm.py --threads 2

Prints wall time new / old (below 1: ours is faster), the median of seven alternating runs, forward, and forward and
backward together, at maps like those of the encoders at 32 to 128 pixels.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

from worldkit.nn.norm import GroupNormGELU

SHAPES = ((80, 32, 64, 64), (80, 64, 32, 32), (320, 32, 16, 16), (40, 64, 64, 64))


class Plain(nn.GroupNorm):
    """PyTorch's GroupNorm, then GELU."""

    def forward(self, x):
        return F.gelu(super().forward(x))


def seconds(layer, x):
    """Wall seconds of the forward pass, and of both."""
    started = time.perf_counter()
    y = layer(x)
    forward = time.perf_counter() - started
    y.sum().backward()
    return forward, time.perf_counter() - started


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for shape in SHAPES:
        x = torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_()
        layers = [kind(8, shape[1]) for kind in (Plain, GroupNormGELU)]
        for layer in layers:
            seconds(layer, x)
        rounds = [[seconds(layer, x) for layer in layers] for _ in range(options.repeat)]
        forward, both = (statistics.median(new[i] for _, new in rounds) / statistics.median(old[i] for old, _ in rounds)
                         for i in (0, 1))
        print(f"{list(shape)}, {options.threads} thread(s): forward {forward:.2f}, forward and backward {both:.2f}")
