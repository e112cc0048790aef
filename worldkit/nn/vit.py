"""The plain vision transformer of the JEPA papers: patches of pictures or clips, pre-norm blocks, and a narrow one that
predicts hidden tokens from seen ones.

One class serves I-JEPA (pictures), V-JEPA (clips, tables) and V-JEPA 2 (clips, rotations); LeWM's blocks are these,
too. Tokens are row-major, time outermost; there is no class token.

Unusual: the initial weights of I-JEPA and V-JEPA are drawn twice, which undoes the smaller ones of deep layers; V-JEPA
2 draws them once (``rescaled``). V-JEPA 2's predictor sorts its tokens, which changes nothing but rounding; ours does
not.

Source: I-JEPA (arXiv:2301.08243), V-JEPA (arXiv:2404.08471), V-JEPA 2 (arXiv:2506.09985; facebookresearch/vjepa2 @
c2963a4), written from their description.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .heads_fit import check_heads
from .memory import Remember
from .positions import Rotation, places, sincos_2d, sincos_3d, tiled_rotation
from .products import Linear

Positions = Literal["sincos-2d", "sincos-3d", "sincos-3d-uniform", "tiled-rotary"]
Activation = Literal["gelu", "swiglu"]


class ViTAttention(nn.Module):
    """Multi-head attention with biases over ``[M, L, D]``."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        check_heads(dim, num_heads)
        self.num_heads = num_heads
        self.qkv, self.proj = Linear(dim, 3 * dim), Linear(dim, dim)

    def forward(
        self, x: Tensor, *, rotation: Rotation | None = None, mask: Tensor | None = None,
        remember: Remember | None = None,
    ) -> Tensor:
        """Args:
            x: ``[M, L, D]``.
            rotation: Turns queries and keys by where they are.
            mask: Bool ``[L, S]``, True where a query (first axis) sees a key.
            remember: Adds keys and values to earlier ones.
        """
        q, k, v = rearrange(self.qkv(x), "m l (three h d) -> three m h l d", three=3, h=self.num_heads)
        if rotation is not None:
            q, k = rotation(q), rotation(k)
        if remember is not None:
            k, v = remember(k, v)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(rearrange(out, "m h l d -> m l (h d)"))


class MLP(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = Linear(dim, hidden), Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    """``fc3(silu(fc1(x)) * fc2(x))``, two thirds as wide as an MLP, rounded up to a multiple of 8."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        hidden = -(-int(2 * hidden / 3) // 8) * 8
        self.fc1, self.fc2, self.fc3 = Linear(dim, hidden), Linear(dim, hidden), Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.silu(self.fc1(x)) * self.fc2(x))


class ViTBlock(nn.Module):
    """Pre-norm block over ``[M, L, D]``.

    Example:
        >>> ViTBlock(12, 2, hidden=48)(torch.randn(1, 5, 12)).shape
        torch.Size([1, 5, 12])
    """

    def __init__(self, dim: int, num_heads: int, *, hidden: int, activation: Activation = "gelu", eps: float = 1e-6):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim, eps), ViTAttention(dim, num_heads)
        self.norm2, self.mlp = nn.LayerNorm(dim, eps), (MLP if activation == "gelu" else SwiGLU)(dim, hidden)

    def forward(
        self, x: Tensor, *, rotation: Rotation | None = None, mask: Tensor | None = None,
        remember: Remember | None = None,
    ) -> Tensor:
        x = x + self.attention(self.norm1(x), rotation=rotation, mask=mask, remember=remember)
        return x + self.mlp(self.norm2(x))


def draw_weights_(module: nn.Module, *, rescaled: bool) -> None:
    """Initial weights of all layers of a ViT: normal with deviation 0.02, biases 0.

    Args:
        module: Changed in place.
        rescaled: What a block adds begins smaller by ``sqrt(2 * its number)``, from 1.
    """
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    blocks = [part for part in module.modules() if isinstance(part, ViTBlock)] if rescaled else []
    with torch.no_grad():
        for number, block in enumerate(blocks, 1):
            last = block.mlp.fc3 if isinstance(block.mlp, SwiGLU) else block.mlp.fc2
            for layer in (block.attention.proj, last):
                layer.weight.div_((2 * number) ** 0.5)


class Where(nn.Module):
    """What tells tokens of a grid (frames, height, width) where they are: a table to add, or a rotation."""

    def __init__(self, kind: Positions, dim: int, head_dim: int, grid: tuple[int, int, int]):
        super().__init__()
        self.kind, self.grid, self.head_dim = kind, grid, head_dim
        if kind == "sincos-2d":
            table = sincos_2d(dim, *grid[1:], first="column")
        elif kind != "tiled-rotary":
            table = sincos_3d(dim, *grid, uniform=kind == "sincos-3d-uniform")
        else:
            table = None
        self.register_buffer("table", None if table is None else table.float(), persistent=False)

    def rows(self, grid: tuple[int, int, int]) -> Tensor | None:
        """The table ``[N, D]`` for a grid, stretched if it is another than it was made for."""
        if self.table is None or grid == self.grid:
            return self.table
        if self.kind == "sincos-2d":
            return sincos_2d(self.table.shape[1], *grid[1:], first="column").to(self.table)
        t, h, w = self.grid
        cube = rearrange(self.table, "(t h w) d -> 1 d t h w", t=t, h=h, w=w)
        scale = tuple(new / old for new, old in zip(grid, self.grid, strict=True))
        return rearrange(F.interpolate(cube, scale_factor=scale, mode="trilinear"), "1 d t h w -> (t h w) d")

    def rotation(self, indices: Tensor, grid: tuple[int, int, int], like: Tensor) -> Rotation | None:
        """Of tokens with these numbers, ``[L]`` or ``[M, L]``."""
        if self.kind != "tiled-rotary":
            return None
        where = places(indices, grid[1:])
        return tiled_rotation(where if indices.ndim == 1 else where[:, :, None], self.head_dim, like=like)


def take(tokens: Tensor, indices: Tensor) -> Tensor:
    """Tokens ``[M, N, D]`` with these numbers ``[M, K]``: ``[M, K, D]``."""
    return tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[-1]))


class ViT(nn.Module):
    """Clips ``[M, C, T, H, W]`` -> tokens ``[M, N, D]``.

    Args:
        grid: (tubelets, rows, columns) of tokens that tables are made for; clips may have others.
        patch_size, tubelet: Side and duration of a patch.
        channels: Of the pictures.
        dim, num_layers, num_heads, hidden, activation: Of the blocks.
        positions: How tokens know where they are.
        rescaled: See `draw_weights_`.
    Example:
        >>> vit = ViT((2, 4, 4), patch_size=8, tubelet=2, dim=24, num_layers=1, num_heads=2, hidden=48,
        ...           positions="tiled-rotary")
        >>> vit(torch.rand(1, 3, 4, 32, 32), keep=torch.tensor([[0, 17, 31]])).shape
        torch.Size([1, 3, 24])
    """

    def __init__(
        self, grid: tuple[int, int, int], *, patch_size: int, tubelet: int = 1, channels: int = 3, dim: int,
        num_layers: int, num_heads: int, hidden: int, positions: Positions, activation: Activation = "gelu",
        rescaled: bool = False,
    ):
        super().__init__()
        self.patch_size, self.tubelet = patch_size, tubelet
        if tubelet == 1:
            self.patches: nn.Module = nn.Conv2d(channels, dim, patch_size, stride=patch_size)
        else:
            size = (tubelet, patch_size, patch_size)
            self.patches = nn.Conv3d(channels, dim, size, stride=size)
        self.where = Where(positions, dim, dim // num_heads, grid)
        self.blocks = nn.ModuleList(
            ViTBlock(dim, num_heads, hidden=hidden, activation=activation) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        draw_weights_(self, rescaled=rescaled)

    def embed(self, clips: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """Tokens ``[M, N, D]`` before the blocks, without positions, and their grid."""
        if self.tubelet == 1:
            maps = self.patches(rearrange(clips, "m c t h w -> (m t) c h w"))
            maps = rearrange(maps, "(m t) d h w -> m d t h w", m=clips.shape[0])
        else:
            maps = self.patches(clips)
        return rearrange(maps, "m d t h w -> m (t h w) d"), tuple(maps.shape[2:])

    def forward(self, clips: Tensor, keep: Tensor | None = None) -> Tensor:
        """Args:
            clips: ``[M, C, T, H, W]``, with as many frames as whole tubelets have.
            keep: Numbers of the tokens that are seen, ``[M, K]``; None: all.
        """
        x, grid = self.embed(clips)
        rows = self.where.rows(grid)
        if rows is not None:
            x = x + rows
        indices = torch.arange(x.shape[1], device=x.device) if keep is None else keep
        if keep is not None:
            x = take(x, keep)
        rotation = self.where.rotation(indices, grid, x)
        for block in self.blocks:
            x = block(x, rotation=rotation)
        return self.norm(x)


class MaskedPredictor(nn.Module):
    """Tokens that were seen, and where hidden ones are -> what the hidden ones would be.

    Args:
        width: Of the tokens that come and go.
        grid: (tubelets, rows, columns) of the tokens.
        dim, num_layers, num_heads, hidden, activation: Of the blocks.
        positions: How tokens know where they are.
        mask_tokens: What stands for a hidden token, so many kinds of it.
        zeros: Mask tokens begin at 0 (V-JEPA), and not as all other weights.
        rescaled: See `draw_weights_`.
    Example:
        >>> predictor = MaskedPredictor(24, (1, 4, 4), dim=16, num_layers=1, num_heads=2, hidden=64,
        ...                             positions="sincos-2d")
        >>> seen, hidden = torch.tensor([[0, 1, 2]]), torch.tensor([[9, 10]])
        >>> predictor(torch.randn(1, 3, 24), seen, hidden).shape
        torch.Size([1, 2, 24])
    """

    def __init__(
        self, width: int, grid: tuple[int, int, int], *, dim: int, num_layers: int, num_heads: int, hidden: int,
        positions: Positions, activation: Activation = "gelu", mask_tokens: int = 1, zeros: bool = False,
        rescaled: bool = False,
    ):
        super().__init__()
        self.grid = grid
        self.inputs = Linear(width, dim)
        self.where = Where(positions, dim, dim // num_heads, grid)
        self.blocks = nn.ModuleList(
            ViTBlock(dim, num_heads, hidden=hidden, activation=activation) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.outputs = Linear(dim, width)
        draw_weights_(self, rescaled=rescaled)
        self.mask_tokens = nn.ParameterList(
            nn.Parameter(torch.zeros(1, 1, dim) if zeros else nn.init.trunc_normal_(torch.empty(1, 1, dim), std=0.02))
            for _ in range(mask_tokens)
        )

    def forward(self, seen: Tensor, keep: Tensor, hidden: Tensor, *, kind: int = 0) -> Tensor:
        """Args:
            seen: Tokens ``[M, K, width]``.
            keep: Their numbers, ``[M, K]``.
            hidden: Numbers of the hidden ones, ``[M, J]``.
            kind: Which mask token stands for them.
        """
        x, rows = self.inputs(seen), self.where.rows(self.grid)
        blank = self.mask_tokens[kind % len(self.mask_tokens)].expand(*hidden.shape, -1)
        if rows is not None:
            x, blank = x + rows[keep], blank + rows[hidden]
        x, indices = torch.cat([x, blank], 1), torch.cat([keep, hidden], 1)
        rotation = self.where.rotation(indices, self.grid, x)
        for block in self.blocks:
            x = block(x, rotation=rotation)
        return self.outputs(self.norm(x)[:, keep.shape[1] :])


def frames_mask(frames: int, count: int, before: int, device: torch.device) -> Tensor | None:
    """Which tokens see which, bool ``[frames * count, (before + frames) * count]``; None: all see all.

    A token sees all tokens of its own frame and of those before it.

    Example:
        >>> frames_mask(2, 1, 0, torch.device("cpu")).tolist()
        [[True, False], [True, True]]
    """
    if frames == 1:
        return None
    whole = torch.ones(frames, before + frames, dtype=torch.bool, device=device).tril(before)
    return whole.repeat_interleave(count, 0).repeat_interleave(count, 1)
