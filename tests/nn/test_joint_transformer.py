"""The joint transformer with relative bias against the plain formula, in float64: values, gradients, rollouts."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from worldkit.nn.checkpoint import LEVELS, set_checkpointing
from worldkit.nn.joint_transformer import JointTransformer
from worldkit.nn.memory import Memory
from worldkit.nn.rolling import Rolling

D = torch.float64


def make(**options):
    torch.manual_seed(0)
    net = JointTransformer(
        **({"dim": 8, "num_layers": 2, "num_heads": 2, "max_frames": 6, "num_tokens": 3, "dropout": 0.0} | options)
    ).to(D)
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    return net


def rand(*shape):
    return torch.randn(*shape, dtype=D)


def plain(net, x):
    """Logits pair by pair: the bias of distance in time plus that of distance in token number."""
    frames, tokens = x.shape[1:3]
    for block in net.blocks:
        q, k, v = block.attention.heads(rearrange(block.norm1(x), "b t n d -> b (t n) d"))
        logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        bias = torch.full_like(logits[0], -torch.inf)
        for t in range(frames):
            for s in range(t + 1):
                for n in range(tokens):
                    for m in range(tokens):
                        bias[:, t * tokens + n, s * tokens + m] = (
                            block.bias.time[net.max_frames - 1 + s - t] + block.bias.token[net.num_tokens - 1 + m - n]
                        )
        out = block.attention.proj(rearrange((logits + bias).softmax(-1) @ v, "b h l d -> b l (h d)"))
        x = x + rearrange(out, "b (t n) d -> b t n d", n=tokens)
        first, _, second, _ = block.feed_forward
        x = x + second(F.gelu(first(block.norm2(x))))
    return net.head(net.norm(x))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", [(2, 6, 3, 8), (2, 4, 2, 8)])
def test_against_the_plain_formula(shape, level, training):
    """A short history or fewer tokens read the middle of the same tables. Gradients reach every entry in use."""
    net, x = make().train(training), rand(*shape).requires_grad_()
    set_checkpointing(net, level)
    ours, theirs, weight = net(x), plain(net, x), rand(*shape)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    inputs = [x, *net.parameters()]
    for a, b in zip(*(torch.autograd.grad((y * weight).sum(), inputs) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_dropout_averages_out_and_repeats_when_recomputed():
    """On a CPU dropout has attention of its own, which must know the bias, too."""
    net, x, grads = make(dropout=0.3).train(), rand(2, 4, 3, 8).requires_grad_(), []
    for level in LEVELS:
        set_checkpointing(net, level)
        torch.manual_seed(5)
        grads.append(torch.autograd.grad(net(x).square().sum(), x)[0])
    torch.testing.assert_close(grads[0], grads[1])
    torch.testing.assert_close(grads[0], grads[2])
    block, x = make(dropout=0.2).blocks[0], rand(1, 3, 3, 8)
    heads = block.attention.heads(rearrange(x, "b t n d -> b (t n) d"))
    with torch.no_grad():
        mean = torch.stack([block.attention.train().attend(*heads, bias=block.bias(3, 3, 3)) for _ in range(4000)])
        exact = block.attention.eval().attend(*heads, bias=block.bias(3, 3, 3))
    torch.testing.assert_close(mean.mean(0), exact, atol=0.04, rtol=0)


@torch.no_grad()
def test_memory_equals_the_whole():
    net, x, memory = make().eval(), rand(2, 5, 3, 8), Memory()
    whole = net(x)
    parts = [net(x[:, part], memory=memory) for part in (slice(0, 2), slice(2, 3), slice(3, 5))]
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    torch.testing.assert_close(net(x, last_only=True), whole[:, -1:])
    with pytest.raises(ValueError, match="7 frames of 3 tokens do not fit the transformer's 6 of 3"):
        net(rand(2, 7, 3, 8))
    with pytest.raises(ValueError, match="1 frames of 4 tokens do not fit"):
        net(rand(2, 1, 4, 8))


@torch.no_grad()
def test_rolling():
    """Exact: the last frame of the window's full pass. Streaming: that of a shorter history, half a window at least."""
    net, x = make().eval(), rand(2, 12, 3, 8)
    exact, streaming = (Rolling(net, window=6, streaming=s) for s in (False, True))
    for t in range(12):
        torch.testing.assert_close(exact.append(x[:, t:t + 1])[:, -1:], net(x[:, max(0, t - 5):t + 1])[:, -1:])
        out = streaming.append(x[:, t:t + 1])[:, -1:]
        histories = [net(x[:, max(0, t + 1 - n):t + 1])[:, -1:] for n in range(3, 7)]
        assert min((out - h).abs().max() for h in histories) < 1e-10


@torch.no_grad()
def test_initialisation():
    net = JointTransformer(dim=64, num_layers=1, num_heads=2, max_frames=40, num_tokens=40, dropout=0.0)
    for weight in (net.head.weight, net.blocks[0].attention.qkv.weight, net.blocks[0].feed_forward[0].weight,
                   net.blocks[0].bias.time, net.blocks[0].bias.token):
        assert abs(weight.std() - 0.02) < 0.003
    assert not net.blocks[0].feed_forward[0].bias.any()


def test_heads_that_start_from_history_look_at_their_own_token_one_lag_each():
    torch.manual_seed(0)
    net = JointTransformer(dim=16, num_layers=2, num_heads=4, max_frames=5, num_tokens=3, dropout=0.0)
    net.start_from_history()
    for block in net.blocks:
        bias = block.bias(1, 5, 3).reshape(4, 3, 5, 3)  # [heads, token of the last frame, frame, token]
        for head in range(3):
            for token in range(3):
                assert bias[head, token].argmax().item() == (4 - head) * 3 + token
        assert bias[3].abs().max() < 0.5, "the last head is free"
    assert 0.2 < torch.cat([p.flatten() for n, p in net.named_parameters() if n.endswith("weight") and p.ndim == 2
                            and "bias" not in n]).std() < 0.3


@torch.no_grad()
def test_the_beginning_of_a_rollout_skips_what_nobody_asks_for():
    net = JointTransformer(dim=16, num_layers=1, num_heads=2, max_frames=6, num_tokens=3, dropout=0.0).eval()
    x, costs, answers = torch.randn(2, 5, 3, 16), [], []
    for begin in (Rolling.append, Rolling.begin):
        rolling = Rolling(net, window=6)
        with FlopCounterMode(display=False) as counter:
            begin(rolling, x[:, :4])
        costs.append(counter.get_total_flops())
        answers.append(rolling.append(x[:, 4:]))
    assert torch.equal(*answers) and costs[1] < 0.5 * costs[0]


@torch.no_grad()
def test_a_biased_attention_without_gradients_takes_the_fused_kernel():
    net, found = JointTransformer(dim=16, num_layers=1, num_heads=2, max_frames=6, num_tokens=3, dropout=0.0), []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found.append(func.__name__)
            return func(*args, **(kwargs or {}))

    with Watch():
        net(torch.randn(2, 5, 3, 16))
    assert any("flash_attention" in name for name in found) and not any("softmax" in name for name in found)
