"""Every fast form against the plain formula, in float64: values and gradients."""

import math

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from worldkit.nn import transformer
from worldkit.nn.attention import Attention, FeedForward, RMSNorm, attention_weights
from worldkit.nn.checkpoint import LEVELS, Checkpointed, set_checkpointing
from worldkit.nn.composite import _PasteSums, composite, particle_masks
from worldkit.nn.conv import ConvConfig, ConvDecoder, ConvEncoder, Upsample
from worldkit.nn.dropout import Dropout, dropout, keep_mask
from worldkit.nn.glimpse import EPS_SCALE, EPS_WEIGHT, box_mask, crop, paste, paste_weights
from worldkit.nn.memory import Memory
from worldkit.nn.replicated import replicate
from worldkit.nn.rolling import Rolling
from worldkit.nn.transformer import SpatioTemporalTransformer

D = torch.float64


def rand(*shape, grad=True):
    return torch.randn(*shape, dtype=D).requires_grad_(grad)


def agree(ours, plain, inputs, tolerance=1e-10):
    """Same values, and same gradients of a random scalar."""
    torch.testing.assert_close(ours, plain, rtol=tolerance, atol=tolerance)
    weight = torch.randn_like(plain)
    grads = [torch.autograd.grad((x * weight).sum(), inputs, retain_graph=True) for x in (ours, plain)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 5, 8), (0, 8)])
def test_rms_norm(shape):
    x, norm = rand(*shape), RMSNorm(8).to(D)
    nn.init.normal_(norm.gain)
    agree(norm(x), F.normalize(x, dim=-1) * math.sqrt(8) * norm.gain, (x, norm.gain))


def test_rms_norm_of_nothing_and_of_half_precision():
    norm, zeros = RMSNorm(8), torch.zeros(2, 8, requires_grad=True)
    norm(zeros).sum().backward()
    assert not norm(zeros).any() and zeros.grad.isfinite().all() and not norm.gain.grad.any()
    x = torch.randn(4, 8)
    torch.testing.assert_close(norm(x.bfloat16()).float(), norm(x), rtol=0.02, atol=0.02)


def plain_attention(q, k, v, causal):
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        late = torch.arange(k.shape[-2]) > torch.arange(q.shape[-2])[:, None] + k.shape[-2] - q.shape[-2]
        scores = scores.masked_fill(late, -torch.inf)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize(("queries", "causal"), [(5, False), (5, True), (2, True), (1, True)])
def test_attention(queries, causal):
    """Both paths: the fused kernel, and the explicit one that training on a CPU takes."""
    attention = Attention(6, 3).to(D)
    q, k, v = rand(2, 4, 3, queries, 2), rand(2, 4, 3, 5, 2), rand(2, 4, 3, 5, 2)
    plain = attention.proj(rearrange(plain_attention(q, k, v, causal), "... h l d -> ... l (h d)"))
    agree(attention.attend(q, k, v, causal=causal), plain, (q, k, v))
    weights = attention_weights(q.flatten(0, 2), k.flatten(0, 2), causal)
    agree((weights @ v.flatten(0, 2)).view(q.shape), plain_attention(q, k, v, causal), (q, k, v))


def test_attention_without_and_with_dropout_agree_on_average():
    attention = Attention(8, 2, dropout=0.2).to(D)
    x = rand(1, 3, 8, grad=False)
    with torch.no_grad():
        mean = torch.stack([attention.train()(x) for _ in range(4000)]).mean(0)
        torch.testing.assert_close(mean, attention.eval()(x), atol=0.02, rtol=0)


def test_dropout():
    mask, scale = keep_mask(torch.Size([1001, 999]), 0.1)
    assert mask.dtype == torch.bool and mask.shape == (1001, 999)
    assert abs(mask.double().mean() - 0.9) < 1e-3 and abs(scale - 1 / 0.9) < 1e-4
    lanes = mask.flatten()[:999_996].view(-1, 4).double().mean(0)
    assert (lanes - 0.9).abs().max() < 3e-3
    x = rand(50, 40)
    torch.manual_seed(1)
    out = dropout(x, 0.25)
    kept = out != 0
    torch.testing.assert_close(out, torch.where(kept, x / 0.75, 0), rtol=1e-4, atol=1e-4)
    (grad,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(grad, kept.double() / 0.75, rtol=1e-4, atol=1e-4)
    assert dropout(x, 0.0) is x
    layer = Dropout(0.5).eval()
    assert layer(x) is x


def test_dropout_repeats_under_a_seed():
    x = rand(7, 5, grad=False)
    first, second = (torch.manual_seed(3) and dropout(x, 0.5) for _ in range(2))
    assert torch.equal(first, second)


def plain_upsample(layer, x):
    x = F.interpolate(x, scale_factor=2, mode="nearest")
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), layer.conv.weight, layer.conv.bias)


@pytest.mark.parametrize("before, after", [(1, 1), (0, 1)])
def test_replicate_padding_for_the_compiler(monkeypatch, before, after):
    x = rand(2, 3, 4, 5)
    plain = replicate(x, before, after)
    assert torch.equal(plain, F.pad(x, (before, after, before, after), mode="replicate"))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    agree(replicate(x, before, after), plain, [x])


@pytest.mark.parametrize("size", [1, 2, 5])
def test_upsample(size):
    layer, x = Upsample(3).to(D), rand(2, 3, size, size)
    agree(layer(x), plain_upsample(layer, x), (x, *layer.parameters()))


@pytest.mark.parametrize("block", ["conv", "resnet"])
@pytest.mark.parametrize("level", LEVELS)
def test_conv_chunks_change_nothing(monkeypatch, block, level):
    config = ConvConfig(base_channels=4, channel_multipliers=(1, 2), latent_channels=3, block=block, mid_blocks=True)
    for net, x in ((ConvEncoder(config), rand(7, 3, 8, 8)), (ConvDecoder(config, inputs=3, outputs=2, ups=1),
                                                           rand(7, 3, 4, 4))):
        net = net.to(D)
        whole = net._layers(x)
        monkeypatch.setattr(net, "_chunk", lambda x: 3)
        set_checkpointing(net, level)
        agree(net(x), whole, (x, *net.parameters()))


def test_no_activation_exceeds_its_chunk():
    """The widest activation, one pixel of padding all around included, stays below 16 MiB."""
    config = ConvConfig(base_channels=32, channel_multipliers=(1, 4, 8))
    for net, x in ((ConvEncoder(config), torch.zeros(1, 3, 16, 16)),
                   (ConvDecoder(config, inputs=32, outputs=4, ups=2), torch.zeros(1, 32, 4, 4))):
        seen = []

        def note(module, inputs, output, seen=seen):
            seen.append(output.shape[1] * (output.shape[2] + 2) * (output.shape[3] + 2) * 4)

        for part in net.modules():
            part.register_forward_hook(note)
        with torch.no_grad():
            net(x)
        assert net._chunk(x) * max(seen) < 2**24, (net._chunk(x), max(seen))


def paste_inputs(frames=2, count=3, side=4):
    glimpses = torch.rand(frames, count, 4, side, side, dtype=D).requires_grad_()
    position = (torch.rand(frames, count, 2, dtype=D) - 0.5).requires_grad_()
    scale = (0.3 + 0.3 * torch.rand(frames, count, 2, dtype=D)).requires_grad_()
    opacity = torch.rand(frames, count, dtype=D).requires_grad_()
    return glimpses, position, scale, opacity, rand(frames, count)


def grid_paste(glimpses, position, scale, size):
    """One canvas per particle by `grid_sample`."""
    axes = [(torch.arange(side, dtype=D) * 2 + 1) / side - 1 for side in size]
    y, x = ((u - position[..., i, None]) / (scale[..., i, None] + EPS_SCALE) for i, u in enumerate(axes))
    grid = torch.stack([x[:, :, None].expand(-1, -1, size[0], -1), y[..., None].expand(-1, -1, -1, size[1])], -1)
    out = F.grid_sample(glimpses.flatten(0, 1), grid.flatten(0, 1), align_corners=False)
    return out.unflatten(0, glimpses.shape[:2])


def plain_composite(glimpses, position, scale, opacity, depth, size):
    canvas = grid_paste(glimpses, position, scale, size)
    alpha = opacity[..., None, None, None] * canvas[:, :, :1]
    weight = alpha * torch.sigmoid(-depth)[..., None, None, None]
    share = weight / (weight.sum(1, keepdim=True) + EPS_WEIGHT)
    return (share * alpha * canvas[:, :, 1:]).sum(1), 1 - (share * alpha).sum(1), share * alpha


@pytest.mark.parametrize("size", [(9, 9), (7, 12)])
def test_paste_and_composite(size):
    inputs = paste_inputs()
    agree(paste(*inputs[:3], size), grid_paste(*inputs[:3], size), inputs[:3], 1e-8)
    foreground, rest, masks = plain_composite(*inputs, size)
    ours = composite(*inputs, size)
    # S + eps: ours adds it to sums of k A, and so does the plain form
    agree(ours[0], foreground, inputs, 1e-6)
    agree(ours[1], rest, inputs, 1e-6)
    torch.testing.assert_close(particle_masks(*inputs, size), masks)


def test_paste_sums_gradcheck():
    glimpses, position, scale, opacity, _ = paste_inputs(side=3)
    rows = paste_weights(position[..., 0], scale[..., 0], 3, 5).detach().requires_grad_()
    columns = paste_weights(position[..., 1], scale[..., 1], 3, 7).detach().requires_grad_()
    k, r = opacity, rand(*opacity.shape)
    assert torch.autograd.gradcheck(_PasteSums.apply, (glimpses, rows, columns, k, r))


def test_crop_is_one_grid_sample_per_glimpse():
    image, position, scale = rand(2, 3, 10, 10), rand(2, 4, 2), torch.rand(2, 4, 2, dtype=D).requires_grad_()
    u = (torch.arange(6, dtype=D) * 2 + 1) / 6 - 1
    parts = []
    for n in range(4):
        y, x = ((position[:, n, i, None] + scale[:, n, i, None] * u) for i in (0, 1))
        grid = torch.stack([x[:, None].expand(-1, 6, -1), y[..., None].expand(-1, -1, 6)], -1)
        parts.append(F.grid_sample(image, grid, padding_mode="border", align_corners=False))
    agree(crop(image, position, scale, 6), torch.stack(parts, 1), (image, position, scale), 1e-9)


def test_box_mask_counts_present_particles_only():
    position = torch.tensor([[[0.0, 0.0], [0.9, 0.9]]])
    both, one = (box_mask(position, torch.tensor([[1.0, p]]), 4, (16, 24))[0, 0] for p in (1.0, 0.0))
    assert one.sum() == 16 * 24 - 16 and both.sum() < one.sum()
    assert one[6:10, 10:14].sum() == 0


# -- the spatio-temporal transformer


def make_transformer(**options):
    net = SpatioTemporalTransformer(
        **({"dim": 8, "num_layers": 2, "num_heads": 2, "max_frames": 6, "num_tokens": 3, "dropout": 0.0} | options)
    ).to(D)
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    return net


def plain_transformer(net, x, cond):
    """AdaLN of every token computed from the full condition; no tables, no chunks."""
    c = net.token_embedding + net.time_embedding[: x.shape[1], None]
    c = c.expand(x.shape) if cond is None else c + cond.expand(x.shape)

    def attend(attention, h, causal):
        q, k, v = attention.heads(h)
        return attention.proj(rearrange(plain_attention(q, k, v, causal), "... h l d -> ... l (h d)"))

    def modulated(norm, x, scale, shift):
        return F.normalize(x, dim=-1) * math.sqrt(x.shape[-1]) * norm.gain * (1 + scale) + shift

    for spatial, temporal in zip(net.spatial, net.temporal, strict=True):
        for half, causal in ((spatial, False), (temporal, True)):
            scale_a, scale_m, shift_a, shift_m, gate_a, gate_m = half.modulation(c).chunk(6, -1)
            h = modulated(half.norm1, x, scale_a, shift_a)
            h = h.transpose(1, 2) if causal else h
            out = attend(half.attention, h, causal)
            x = x + gate_a * (out.transpose(1, 2) if causal else out)
            first, _, second, _ = half.feed_forward
            x = x + gate_m * second(F.gelu(first(modulated(half.norm2, x, scale_m, shift_m))))
    scale, shift = net.head_modulation(c).chunk(2, -1)
    return net.head(modulated(net.norm_out, x, scale, shift))


CONDITIONS = {"none": None, "frame": (2, 5, 1, 8), "token": (2, 5, 3, 8)}


@pytest.mark.parametrize("kind", CONDITIONS)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("chunk", [2**24, 6 * 8 * 8 * 2 * 3])  # everything at once; about one frame or token
def test_transformer(monkeypatch, kind, level, chunk):
    monkeypatch.setattr(transformer, "_CHUNK_BYTES", chunk)
    net, x, shape = make_transformer(), rand(2, 5, 3, 8), CONDITIONS[kind]
    cond = None if shape is None else rand(*shape)
    set_checkpointing(net, level)
    plain = plain_transformer(net, x, cond)
    inputs = [x, *([] if cond is None else [cond]), *net.parameters()]
    inputs = [p for p in inputs if p is not net.time_embedding]  # its last row is not used
    agree(net(x, cond), plain, inputs, 1e-8)


@pytest.mark.parametrize("level", LEVELS)
def test_recomputed_dropout_is_the_same_dropout(level):
    net, x = make_transformer(dropout=0.3).train(), rand(2, 5, 3, 8)
    grads = []
    for active in ("off", level):
        set_checkpointing(net, active)
        torch.manual_seed(5)
        grads.append(torch.autograd.grad(net(x).square().sum(), x)[0])
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("kind", CONDITIONS)
def test_memory_equals_the_whole(kind):
    net, x, shape = make_transformer().eval(), rand(2, 5, 3, 8, grad=False), CONDITIONS[kind]
    cond = None if shape is None else rand(*shape, grad=False)
    whole, memory, parts = net(x, cond), Memory(), []
    for part in (slice(0, 2), slice(2, 3), slice(3, 5)):
        parts.append(net(x[:, part], None if cond is None else cond[:, part], memory=memory))
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    torch.testing.assert_close(net(x, cond, last_only=True), whole[:, -1:])
    if cond is not None:
        torch.testing.assert_close(net(x, cond, projected=net.project_condition(cond)), whole)
    with pytest.raises(ValueError, match="7 frames do not fit"):
        net(rand(2, 7, 3, 8))


@pytest.mark.parametrize("kind", CONDITIONS)
def test_rolling(kind):
    """Exact: the last frame of the window's full pass. Streaming: that of a shorter history, half a window at least."""
    net, x, shape = make_transformer().eval(), rand(2, 12, 3, 8, grad=False), CONDITIONS[kind]
    cond = None if shape is None else rand(2, 12, *shape[2:], grad=False)

    def part(s):
        return x[:, s], None if cond is None else cond[:, s]

    exact, streaming = (Rolling(net, window=6, streaming=s) for s in (False, True))
    for t in range(12):
        now, window = slice(t, t + 1), slice(max(0, t - 5), t + 1)
        torch.testing.assert_close(exact.append(*part(now)), net(*part(window))[:, -1:])
        out = streaming.append(*part(now))
        histories = [net(*part(slice(max(0, t + 1 - n), t + 1)))[:, -1:] for n in range(3, 7)]
        assert min((out - h).abs().max() for h in histories) < 1e-10


def test_levels():
    net = nn.ModuleList([ConvEncoder(ConvConfig()), make_transformer(), FeedForward(4)])
    active = {}
    for level in LEVELS:
        set_checkpointing(net, level)
        active[level] = {type(m).__name__ for m in net.modules() if isinstance(m, Checkpointed) and m.active}
    assert active == {
        "off": set(), "cnn": {"ConvEncoder", "Attention", "FeedForward"},
        "all": {"ConvEncoder", "SpatialBlock", "TemporalBlock"},
    }
    with pytest.raises(ValueError, match="off, cnn, all"):
        set_checkpointing(net, "some")
