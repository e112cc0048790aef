"""What transformers keep of past frames: written behind the earlier ones, never at the cost of a graph or a copy."""

import copy

import pytest
import torch

from worldkit.nn.joint_transformer import JointTransformer
from worldkit.nn.memory import Memory


@pytest.fixture
def net():
    torch.manual_seed(0)
    return JointTransformer(dim=8, num_layers=2, num_heads=2, max_frames=6, num_tokens=3, dropout=0.0).eval()


def steps(net, x, memory):
    return torch.cat([net(frame, memory=memory) for frame in x.split(1, 1)], 1)


@torch.no_grad()
def test_a_frame_does_not_copy_its_past(net):
    memory, x = Memory(), torch.rand(2, 6, 3, 8)
    net(x[:, :2], memory=memory)
    room = [(keys.data_ptr(), keys.shape) for keys in (*memory.keys, *memory.values)]
    rest = steps(net, x[:, 2:], memory)
    assert room == [(keys.data_ptr(), keys.shape) for keys in (*memory.keys, *memory.values)]
    torch.testing.assert_close(rest, net(x)[:, 2:])


def test_with_a_graph_gradients_reach_every_frame(net):
    x = torch.rand(2, 4, 3, 8)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    for grown, out in ((a, steps(net, a, Memory())), (b, net(b))):
        out.square().sum().backward()
        assert grown.grad.abs().sum((0, 2, 3)).min() > 0
    torch.testing.assert_close(a.grad, b.grad)


@torch.no_grad()
def test_a_copy_goes_its_own_way_and_is_no_larger_than_what_was_seen(net):
    memory, x, other = Memory(), torch.rand(2, 4, 3, 8), torch.rand(2, 2, 3, 8)
    steps(net, x[:, :2], memory)
    twin = copy.deepcopy(memory)
    assert twin.keys[0].shape[-2] == 2 * 3 < memory.keys[0].shape[-2]
    here, there = steps(net, x[:, 2:], memory), steps(net, other, twin)
    torch.testing.assert_close(here, net(x)[:, 2:])
    torch.testing.assert_close(there, net(torch.cat([x[:, :2], other], 1))[:, 2:])


def test_what_was_begun_without_a_graph_or_in_inference_mode_goes_on_with_one(net):
    x = torch.rand(1, 4, 3, 8)
    want = net(x)
    for begin in (torch.no_grad, torch.inference_mode):
        memory = Memory()
        with begin():
            steps(net, x[:, :2], memory)
        with torch.no_grad():
            torch.testing.assert_close(net(x[:, 2:3], memory=memory), want[:, 2:3])
        last = x[:, 3:].clone().requires_grad_()
        out = net(last, memory=memory)
        torch.testing.assert_close(out, want[:, 3:])
        out.sum().backward()
        assert last.grad.abs().sum() > 0
