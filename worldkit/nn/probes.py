"""What reads latents of whole clips in semantic-wm's evaluation: did it succeed, how far is it, which actions led on.

All take maps ``[B, T, H, W, C]`` of patches.

- `LinearProbe`, `TemporalProbe`, `SpaceTimeProbe`: one number a clip, a logit; `ProgressProbe`: one a frame.
- `TextProbe`: a logit, told by text what success is.
- `InverseDynamics`: the actions between the frames.

Source: semantic-wm (arXiv:2605.06388), written from a description of the facts; the last two are of its later code.
Unusual, as there: `TextProbe` carries a class token that is never read (so it gets no gradient).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from .vit import ViTAttention

EPS = 1e-6


def pooled(maps: Tensor, rows: int) -> Tensor:
    """Maps ``[B, T, H, W, C]``, averaged to at most ``rows`` x ``rows`` patches.

    Example:
        >>> pooled(torch.rand(1, 2, 8, 8, 3), 4).shape, pooled(torch.rand(1, 2, 3, 5, 3), 4).shape
        (torch.Size([1, 2, 4, 4, 3]), torch.Size([1, 2, 3, 4, 3]))
    """
    size = [min(side, rows) for side in maps.shape[2:4]]
    small = F.adaptive_avg_pool2d(rearrange(maps, "b t h w c -> (b t) c h w"), size)
    return rearrange(small, "(b t) c h w -> b t h w c", b=len(maps))


def _norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=EPS)


class LinearProbe(nn.Module):
    """All frames side by side, each averaged to 4 x 4 patches, through one linear layer: ``[B]``."""

    def __init__(self, width: int, frames: int, *, places: int = 16):
        super().__init__()
        self.linear = nn.Linear(frames * places * width, 1)

    def forward(self, maps: Tensor) -> Tensor:
        return self.linear(pooled(maps, 4).flatten(1))[:, 0]


def _layers(dim: int, heads: int, count: int) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(dim, heads, dim_feedforward=4 * dim, batch_first=True, dropout=0.1)
    return nn.TransformerEncoder(layer, count, enable_nested_tensor=False)


class TemporalProbe(nn.Module):
    """A class token reads the frames, each averaged to 4 x 4 patches and one vector: ``[B]``."""

    def __init__(self, width: int, frames: int, *, num_heads: int = 8, num_layers: int = 1, places: int = 16):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, frames + 1, width))
        self.frames = nn.Linear(places * width, width)
        self.layers, self.head = _layers(width, num_heads, num_layers), nn.Linear(width, 1)

    def forward(self, maps: Tensor) -> Tensor:
        x = self.frames(pooled(maps, 4).flatten(2))
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places[:, : x.shape[1] + 1]
        return self.head(self.layers(x)[:, 0])[:, 0]


class SpaceTimeProbe(nn.Module):
    """A class token reads the patches of all frames, 4 x 4 each: ``[B]``."""

    def __init__(self, width: int, frames: int, *, num_heads: int = 8, num_layers: int = 2, places: int = 16):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.time = nn.Parameter(0.02 * torch.randn(1, frames, 1, width))
        self.space = nn.Parameter(0.02 * torch.randn(1, 1, places, width))
        self.layers, self.head = _layers(width, num_heads, num_layers), nn.Linear(width, 1)

    def forward(self, maps: Tensor) -> Tensor:
        x = pooled(maps, 4).flatten(2, 3)
        x = (x + self.time[:, : x.shape[1]] + self.space[:, :, : x.shape[2]]).flatten(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        return self.head(self.layers(x)[:, 0])[:, 0]


class ProgressProbe(nn.Module):
    """How far a frame is, from 0 to 1, off its mean patch: ``[B, T]``."""

    def __init__(self, width: int):
        super().__init__()
        self.head = nn.Linear(width, 1)

    def forward(self, maps: Tensor) -> Tensor:
        return self.head(reduce(maps, "b t h w c -> b t c", "mean"))[..., 0]


class _Mix(nn.Module):
    """Attention of rows of tokens to others, after norms without gains; added to the former."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))

    def forward(self, x: Tensor, of: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """``mask``: bool ``[M, S]``, True where a token is there."""
        normed = _norm(x)
        of = normed if of is None else of
        q, k, v = (rearrange(y, "m l (h d) -> m h l d", h=self.num_heads) for y in (
            self.q(normed), self.k(of), self.v(of)))
        q, k = (F.rms_norm(y, y.shape[-1:]) for y in (q, k))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None, None])
        return x + self.out(rearrange(mixed, "m h l d -> m l (h d)"))


class _TextBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.space, self.time, self.text = (_Mix(dim, num_heads) for _ in range(3))
        hidden = int(8 * dim / 3)
        self.inputs, self.outputs = nn.Linear(dim, 2 * hidden), nn.Linear(hidden, dim)


class TextProbe(nn.Module):
    """Did a clip do what a text says: ``[B]``; patches read one another in space, in time, and the text."""

    def __init__(self, width: int, frames: int, *, text_width: int, dim: int = 384, num_heads: int = 6,
                 num_layers: int = 6, places: int = 16):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.time = nn.Parameter(0.02 * torch.randn(1, frames, 1, dim))
        self.space = nn.Parameter(0.02 * torch.randn(1, 1, places, dim))
        self.inputs, self.text = nn.Linear(width, dim), nn.Linear(text_width, dim)
        self.blocks = nn.ModuleList(_TextBlock(dim, num_heads) for _ in range(num_layers))
        self.head = nn.Linear(dim, 1)

    def forward(self, maps: Tensor, text: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Args:
            maps: ``[B, T, H, W, C]``.
            text: Tokens ``[B, L, text_width]``; None: none.
            mask: Bool ``[B, L]``, True where a token is there.
        """
        x = self.inputs(_norm(pooled(maps, 4).flatten(2, 3)))
        x = x + self.time[:, : x.shape[1]] + self.space[:, :, : x.shape[2]]
        shape = x.shape
        told, seen = None, None
        if text is not None:
            told = _norm(self.text(text))
            if mask is not None:  # where no token is there, zeros are read
                empty = ~mask.any(1)
                told = torch.where(empty[:, None, None], 0.0, told)
                seen = torch.cat([mask[:, :1] | empty[:, None], mask[:, 1:]], 1)
        for block in self.blocks:
            x = block.space(x.flatten(0, 1)).view(shape)
            x = block.time(rearrange(x, "b t n d -> (b n) t d"))
            x = rearrange(x, "(b n) t d -> b (t n) d", b=shape[0])
            if told is not None:
                x = block.text(x, told, seen)
            a, b = block.inputs(_norm(x)).chunk(2, -1)
            x = (x + block.outputs(F.silu(a) * b)).view(shape)
        return self.head(_norm(x).mean((1, 2)))[:, 0]


class _Block(nn.Module):
    """Pre-norm attention and MLP over ``[M, L, D]``."""

    def __init__(self, dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(dim), ViTAttention(dim, num_heads), nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * dim, dim))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class InverseDynamics(nn.Module):
    """Which actions led from frame to frame: ``[B, k, actions]`` of maps of k + 1 frames.

    Args:
        width: Channels of the maps.
        places: Of a map, after patches were put together.
        actions: Numbers of an action.
        steps: k.
        patch_size: So many patches to a side become one.
        dim, num_layers, num_heads, dropout: Of the transformer.
    Example:
        >>> net = InverseDynamics(4, 4, 7, steps=2, patch_size=2, dim=8, num_layers=1, num_heads=2)
        >>> net(torch.randn(3, 3, 4, 4, 4)).shape
        torch.Size([3, 2, 7])
    """

    def __init__(self, width: int, places: int, actions: int, *, steps: int = 1, patch_size: int = 1, dim: int = 512,
                 num_layers: int = 6, num_heads: int = 8, dropout: float = 0.1):
        super().__init__()
        self.patch_size, self.steps = patch_size, steps
        self.inputs = nn.Linear(patch_size**2 * width, dim)
        self.time = nn.Parameter(0.02 * torch.randn(steps + 1, dim))
        self.space = nn.Parameter(0.02 * torch.randn(places, dim))
        self.queries = nn.Parameter(0.02 * torch.randn(steps, dim))
        self.blocks = nn.Sequential(*(_Block(dim, num_heads, dropout) for _ in range(num_layers)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, actions))

    def forward(self, maps: Tensor) -> Tensor:
        x = rearrange(maps, "b t (h p) (w q) c -> b t (h w) (p q c)", p=self.patch_size, q=self.patch_size)
        x = self.inputs(_norm(x)) + self.time[:, None] + self.space
        x = torch.cat([self.queries.expand(x.shape[0], -1, -1), x.flatten(1, 2)], 1)
        return self.head(self.norm(self.blocks(x)[:, : self.steps]))
