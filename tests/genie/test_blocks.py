"""The blocks of Genie: axes, causality, counts, positions, and what is remembered."""

import copy

import pytest
import torch

from worldkit.nn.memory import Memory
from worldkit.nn.space_time import SpaceTimeBlock, SpaceTimeTransformer, parameter_count
from worldkit.testing.report import shake

B, T, N, D = 2, 5, 6, 12
SIZES = {"dim": D, "num_layers": 2, "num_heads": 4, "head_dim": 5, "num_tokens": N, "max_frames": T}


def tokens(frames=T):
    return torch.rand(B, frames, N, D, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_an_axis_is_mixed_by_its_own_attention_alone():
    whole, x = shake(SpaceTimeBlock(D, 4, head_dim=5)).eval(), tokens()
    other = x.clone()
    other[0, 2, 3] = torch.linspace(0, 1, D)
    for silent, moved in (("time", (0, 2, slice(None))), ("space", (0, slice(2, None), 3))):
        block = copy.deepcopy(whole)
        getattr(block, silent).proj.weight.zero_()
        changed = (block(other) - block(x)).abs().amax(-1) > 1e-7
        expected = torch.zeros(B, T, N, dtype=torch.bool)
        expected[moved] = True
        assert torch.equal(changed, expected), silent


def test_heads_have_a_width_of_their_own_and_parameters_are_counted():
    for qk_norm in (False, True):
        transformer = SpaceTimeTransformer(**SIZES, qk_norm=qk_norm)
        x = tokens()
        torch.testing.assert_close(transformer.blocks[0](x), x)  # begins by changing nothing
        shake(transformer)
        assert sum(p.numel() for p in transformer.parameters()) == parameter_count(**SIZES, qk_norm=qk_norm)
        transformer(tokens()).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in transformer.parameters())
    block = transformer.blocks[0]
    products = [p for p in block.parameters() if p.ndim == 2]
    assert len(products) == 2 * 2 + 2  # two attentions (queries, keys and values in one), two layers of a feed-forward


@torch.no_grad()
def test_the_past_is_remembered_and_what_was_tried_is_written_over():
    transformer, x, memory = shake(SpaceTimeTransformer(**SIZES, qk_norm=True)).eval(), tokens(), Memory()
    whole = transformer(x)
    torch.testing.assert_close(transformer(x[:, :2], memory=memory), whole[:, :2])
    for _ in range(2):
        transformer(torch.rand_like(x[:, 2:3]), memory=memory)
        memory.length = 2
    torch.testing.assert_close(transformer(x[:, 2:3], memory=memory), whole[:, 2:3])
    with pytest.raises(ValueError, match="6 frames do not fit the transformer's 5"):
        transformer(tokens(3), memory=memory)


@torch.no_grad()
def test_a_frame_beyond_the_window_is_read_in_the_window_that_ends_with_it():
    transformer, x = shake(SpaceTimeTransformer(**SIZES)).eval(), tokens(T + 2)
    found = transformer.slide(x)
    torch.testing.assert_close(found[:, :T], transformer(x[:, :T]))
    torch.testing.assert_close(found[:, -1], transformer(x[:, -T:])[:, -1])
    assert found.shape == x.shape
