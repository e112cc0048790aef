"""Pairs of objects in G-SWM: first layers per object, as here, beside every pair through the network, alternating.

    python benchmarks/gswm_pairs.py

Prints CPU time pair by pair / per object of forward and backward together (above 1: ours is faster), the median of
alternating runs, for the cells of discovery and for known objects at the official sizes.
"""

import argparse
import statistics
import time

import torch

from worldkit.gswm.config import MotionConfig
from worldkit.gswm.interaction import Interaction
from worldkit.gswm.objects import CENTRE

WIDTH = 6 + 64 + 128 + 128  # presence, depth, box; features, motion; the state of an LSTM
SHAPES = {"maze, discovery": (16, 64), "maze, known": (16, 16), "balls, discovery": (16, 16), "balls, known": (16, 10)}


class PairByPair(Interaction):
    """The same sums, as the paper writes them."""

    @staticmethod
    def _of_pairs(net, objects, centre, others):
        count = objects.shape[1]
        other = objects[:, None].repeat(1, count, 1, 1)
        other[..., CENTRE] = centre[:, :, None] - centre[:, None]
        return net(torch.cat([objects[:, :, None].expand(-1, -1, count, -1), other], -1))


def seconds(layer, x):
    """CPU seconds of forward and backward pass."""
    started = time.process_time()
    layer(x).sum().backward()
    return time.process_time() - started


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name, (batch, objects) in SHAPES.items():
        x = torch.rand(batch, objects, WIDTH, requires_grad=True)
        ours, plain = (kind(MotionConfig(), inputs=WIDTH) for kind in (Interaction, PairByPair))
        plain.load_state_dict(ours.state_dict())
        assert torch.allclose(ours(x), plain(x), atol=1e-5)
        rounds = [(seconds(plain, x), seconds(ours, x)) for _ in range(options.repeat + 1)][1:]
        slow, fast = (statistics.median(times) for times in zip(*rounds, strict=True))
        print(f"{name}, {batch} x {objects}: pair by pair {slow:.3f} s, here {fast:.3f} s, {slow / fast:.2f} times")
