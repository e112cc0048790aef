"""Blocks of DLPv2 / DDLP against the same written plainly: one particle at a time, from copies of the image."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from worldkit.nn.composite import blend, composite, particle_masks
from worldkit.nn.conv_relu import ConvReLU, DownStack, UpStack
from worldkit.nn.correlation import correlation_map
from worldkit.nn.fused import pad_border
from worldkit.nn.glimpse import box_mask, crop, paste


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def particles(frames=2, count=3, dtype=torch.float64):
    return torch.rand(frames, count, 2, dtype=dtype) * 2 - 1, torch.rand(frames, count, 2, dtype=dtype) * 0.5 + 0.1


def transform(position, scale, inverse=False):
    """Affine matrix (x first) of one particle."""
    (y, x), (sy, sx) = position, scale
    if inverse:
        sy, sx = sy + 1e-9, sx + 1e-9
        return torch.tensor([[[1 / sx, 0, -x / sx], [0, 1 / sy, -y / sy]]], dtype=position.dtype)
    return torch.tensor([[[sx, 0, x], [0, sy, y]]], dtype=position.dtype)


@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_crops_and_pastes(size):
    image, (position, scale) = torch.rand(2, 3, *size, dtype=torch.float64), particles()
    glimpses = crop(image, position, scale, 5, corners=True)
    canvases = paste(glimpses, position, scale, size, corners=True)
    for m in range(2):
        for k in range(3):
            grid = F.affine_grid(transform(position[m, k], scale[m, k]), (1, 3, 5, 5), align_corners=True)
            want = F.grid_sample(image[m : m + 1], grid, align_corners=True)[0]
            torch.testing.assert_close(glimpses[m, k], want)
            grid = F.affine_grid(transform(position[m, k], scale[m, k], True), (1, 3, *size), align_corners=True)
            want = F.grid_sample(glimpses[m, k : k + 1], grid, align_corners=True)[0]
            torch.testing.assert_close(canvases[m, k], want)


@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_square_masks(size):
    position, present = particles()[0], torch.rand(2, 3, dtype=torch.float64)
    side, want = 4, torch.zeros(2, 1, *size, dtype=torch.float64)
    for m in range(2):
        for k in range(3):
            pads = [(s - side) // 2 for s in size]
            square = F.pad(torch.ones(1, 1, side, side, dtype=torch.float64), (pads[1], pads[1], pads[0], pads[0]))
            grid = F.affine_grid(transform(-position[m, k], torch.ones(2)), (1, 1, *size), align_corners=True)
            want[m] += present[m, k] * F.grid_sample(square, grid, mode="nearest", align_corners=True)[0]
    torch.testing.assert_close(box_mask(position, present, side, size, corners=True), 1 - want.clamp(0, 1))


def test_blending_canvases_is_compositing():
    position, scale = particles()
    opacity, depth = torch.rand(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    glimpses = torch.rand(2, 3, 4, 8, 8, dtype=torch.float64)
    where = (glimpses, position, scale, opacity, depth, (16, 20))
    canvases = paste(*where[:3], where[-1], corners=True)
    for ours, theirs in zip(composite(*where, corners=True), blend(canvases, opacity, depth), strict=True):
        torch.testing.assert_close(ours, theirs)
    masks = particle_masks(*where, corners=True)
    torch.testing.assert_close(1 - masks.sum(1), composite(*where, corners=True)[1])


def plain_correlation(glimpse, template, energy):
    """All shifts of one template over one glimpse padded by its side, the middle of them, stretched."""
    side = glimpse.shape[-1]
    padded = F.pad(glimpse[None], [side] * 4, mode="replicate")
    match = F.conv2d(padded, template[None])[0, 0]
    window = F.conv2d(padded.square(), torch.ones_like(template[None]))[0, 0]
    fit = match / (torch.sqrt(energy * window + 1e-10) + 1e-5)
    keep = slice(side // 2 + 1, side // 2 + 1 + side)
    fit = fit[keep, keep]
    return (fit - fit.min()) / (fit.max() - fit.min() + 1e-5)


@pytest.mark.parametrize("norm", ["particle", "batch"])
@pytest.mark.parametrize("side", [7, 8])
def test_correlation(norm, side):
    glimpses, templates = torch.rand(2, 2, 3, 3, side, side, dtype=torch.float64)
    maps = correlation_map(glimpses, templates, norm)
    for m in range(2):
        for k in range(3):
            energy = (templates if norm == "batch" else templates[m, k]).square().sum()
            torch.testing.assert_close(maps[m, k, 0], plain_correlation(glimpses[m, k], templates[m, k], energy))


def test_correlation_of_a_clip_does_not_know_the_others_unless_asked_to():
    glimpses, templates = torch.rand(2, 2, 3, 3, 8, 8)
    other = templates.clone()
    other[1] *= 0.3
    same = [torch.equal(correlation_map(glimpses, templates, n)[0], correlation_map(glimpses, other, n)[0])
            for n in ("particle", "batch")]
    assert same == [True, False]


def test_correlation_of_nothing_is_finite():
    assert torch.isfinite(correlation_map(torch.zeros(1, 1, 3, 8, 8), torch.zeros(1, 1, 3, 8, 8))).all()


class PlainStack(nn.Module):
    """A stack's layers by PyTorch's own modules."""

    def __init__(self, stack):
        super().__init__()
        self.stack = stack

    def forward(self, x):
        for block in self.stack.blocks:
            pad = block.conv.kernel_size[0] // 2
            x = F.conv2d(F.pad(x, [pad] * 4, mode="replicate"), block.conv.weight, stride=block.conv.stride)
            if isinstance(block.norm, nn.GroupNorm):
                x = F.group_norm(x, block.norm.num_groups, block.norm.weight, block.norm.bias, block.norm.eps)
            x = x.relu()
            x = F.interpolate(x, scale_factor=2, mode="bilinear") if block.double else x
        return F.conv2d(x, self.stack.head.weight, self.stack.head.bias)


@pytest.mark.parametrize("stack", [
    DownStack(3, (8, 10, 16), 5, kernel=7),
    DownStack(3, (8, 16, 16, 16), 5, lost_layers=True),
    UpStack([ConvReLU(3, 8, double=True), ConvReLU(8, 10, norm=False, double=True), ConvReLU(10, 4)], 2),
], ids=["down", "lost", "up"])
def test_stacks(stack):
    stack, x = stack.double(), torch.rand(3, 3, 16, 20, dtype=torch.float64, requires_grad=True)
    ours, plain = stack(x), PlainStack(stack)(x)
    torch.testing.assert_close(ours, plain)
    given = (x, *stack.parameters())
    above = torch.randn_like(plain)
    for a, b in zip(torch.autograd.grad(ours, given, above), torch.autograd.grad(plain, given, above), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def one_by_one(stack, x):
    """As on other devices."""
    for block in stack.blocks:
        x = block(x)
    return stack.head(x)


def test_blocks_in_one_step_are_the_blocks():
    """On a CPU, with what is kept for the backward pass, in chunks or not; under autocast block by block."""
    blocks = [ConvReLU(3, 8, double=True), ConvReLU(8, 12, norm=False, double=True), ConvReLU(12, 4, double=True)]
    stack = UpStack(blocks, 2)
    x = torch.rand(5, 3, 6, 7, requires_grad=True)
    above = torch.randn(5, 2, 48, 56)
    given = (x, *stack.parameters())
    want = torch.autograd.grad(one_by_one(stack, x), given, above)
    for limit in (1, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("worldkit.nn.conv._CHUNK_BYTES", limit)
            ours = stack(x)
        torch.testing.assert_close(ours, one_by_one(stack, x), rtol=1e-4, atol=1e-5)
        for a, b in zip(torch.autograd.grad(ours, given, above), want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (stack(x).float() - ours).abs().mean() < 0.05


def test_borders_are_repeated():
    x = torch.rand(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    for pad in (1, 3):
        ours, plain = pad_border(x, pad), F.pad(x, [pad] * 4, mode="replicate")
        assert torch.equal(ours, plain)
        above = torch.rand_like(plain)
        pairs = zip(torch.autograd.grad(ours, x, above), torch.autograd.grad(plain, x, above), strict=True)
        torch.testing.assert_close(*next(pairs))


def test_lost_layers_are_those_of_repeated_widths():
    def count(channels, lost):
        return len(DownStack(3, channels, 1, lost_layers=lost).blocks)

    official = {(32, 64, 128): 0, (16, 32, 64, 64, 128): 1, (32, 64, 64, 128, 128): 2, (32, 32, 64, 64): 1}
    for channels, lost in official.items():
        assert count(channels, False) == 2 * len(channels)
        assert count(channels, True) == 2 * len(channels) - lost


def test_sides_that_do_not_halve():
    for side in range(4, 40):
        got = DownStack(1, (4, 4, 4), 1)(torch.zeros(1, 1, side, 8)).shape
        assert got == (1, 1, DownStack.side(side, 3), 2)
        assert DownStack.side(side, 3) == math.ceil(math.ceil(side / 2) / 2)
