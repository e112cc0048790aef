"""Blocks of factored models: states that see one another, and actions that reach nobody but their own factor.

A factor is a token that stays the same thing over time: a slot, a particle. `Factorizer` makes slots of patches,
`InverseFactors` says what happened to every factor between two frames, `ForwardFactors` what becomes of it, and
`Aggregator` tells patches about it. No block has weights that depend on how many factors there are (but the
factorizer's learned starts), none loops over them, and permuted factors give permuted answers.

Source: FLAM (arXiv:2602.16229), which has no public code. Known of it are the modules, who attends to whom, and the
loss; widths, heads, layers, norms, the inside of the attention blocks and where positions enter are ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from .attention import Attention, FeedForward
from .heads_fit import check_heads
from .slots import SlotAttention


class CrossAttention(nn.Module):
    """Tokens ``[..., L, D]`` look at others ``[..., S, D]``; ``causal``: token l at those up to l (S = L).

    Example:
        >>> CrossAttention(8, 2)(torch.rand(2, 5, 3, 8), torch.rand(2, 5, 4, 8)).shape
        torch.Size([2, 5, 3, 8])
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        check_heads(dim, num_heads)
        self.num_heads = num_heads
        self.to_query, self.to_key_value = nn.Linear(dim, dim, bias=False), nn.Linear(dim, 2 * dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, others: Tensor, *, causal: bool = False) -> Tensor:
        lead = x.shape[:-2]
        q = rearrange(self.to_query(x).flatten(0, -3), "m l (h d) -> m h l d", h=self.num_heads)
        k, v = rearrange(self.to_key_value(others).flatten(0, -3), "m s (two h d) -> two m h s d", two=2,
                         h=self.num_heads)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.proj(rearrange(mixed, "m h l d -> m l (h d)")).unflatten(0, lead)


class Places(nn.Module):
    """Where tokens of a grid lie, ``[views * height * width, D]``: a layer of waves over rows and over columns.

    Of waves a step to the next place is a rotation, the same everywhere: what is learned about one place holds for all,
    which a table of places would have to learn for each.

    Example:
        >>> Places(8, grid=(3, 4), views=2)().shape
        torch.Size([24, 8])
    """

    def __init__(self, dim: int, *, grid: tuple[int, int], views: int = 1, waves: int = 8):
        super().__init__()
        axes = [torch.pi * (torch.arange(side) + 0.5)[:, None] / side * torch.arange(1, waves + 1) for side in grid]
        rows, columns = (torch.cat([angles.sin(), angles.cos()], -1) for angles in axes)
        height, width = grid
        grid_waves = torch.cat([repeat(rows, "h d -> (v h w) d", v=views, w=width),
                                repeat(columns, "w d -> (v h w) d", v=views, h=height)], -1)
        self.register_buffer("waves", grid_waves, persistent=False)
        self.project = nn.Linear(4 * waves, dim)

    def forward(self) -> Tensor:
        return self.project(self.waves)


class OwnPast(nn.Module):
    """Every factor looks at its own values up to now: ``[B, T, K, D]`` -> what it takes from them, to be added.

    Times are told apart by a learned embedding per frame of a clip, the same for all factors.
    """

    def __init__(self, dim: int, num_heads: int, max_frames: int):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(dim), Attention(dim, num_heads)
        self.time_embedding = nn.Parameter(0.02 * torch.randn(max_frames, dim))

    def forward(self, x: Tensor) -> Tensor:
        timed = self.norm(x) + self.time_embedding[: x.shape[1], None]
        q, k, v = self.attention.heads(rearrange(timed, "b t k d -> b k t d"))
        return rearrange(self.attention.attend(q, k, v, causal=True), "b k t d -> b t k d")


class Factorizer(nn.Module):
    """Patches of frames ``[B, T, P, D]`` -> slots ``[B, T, K, D]`` that persist, for all frames at once.

    Every frame starts from the same learned slots, which compete for its patches (`SlotAttention`). Inside every
    iteration each slot also looks at its own values in the frames up to now: that is what keeps it the same thing, in
    place of starting from the frame before, which would have to wait for it.

    Before training, starts are small and weights of the recurrent cell are not, so that what changes from frame to
    frame is a third of a slot's size, not a tenth: a model that cannot tell where things are settles on what patches
    know by themselves. Keys tell what a patch shows rather than where it is, and compete sharply, so that the ground,
    which is most of the picture, does not fill every slot.

    Args:
        dim: Width of patches and slots.
        num_factors: K, the number of learned starts.
        num_iterations: Rounds of competition.
        num_heads: Of the attention over time.
        max_frames: Longest clip.
        sharpness: Factor on keys.
        temporal: False: frames by themselves (an ablation; slots may then change places from frame to frame).
    Example:
        >>> factorizer = Factorizer(8, num_factors=3, num_iterations=2, num_heads=2, max_frames=5)
        >>> slots, shares = factorizer(torch.rand(2, 4, 10, 8), torch.rand(10, 8))
        >>> slots.shape, shares.shape, shares.sum(2).allclose(torch.ones(2, 4, 10))
        (torch.Size([2, 4, 3, 8]), torch.Size([2, 4, 3, 10]), True)
    """

    def __init__(self, dim: int, *, num_factors: int, num_iterations: int, num_heads: int, max_frames: int,
                 temporal: bool = True, sharpness: float = 3.0):
        super().__init__()
        self.initial, self.sharpness = nn.Parameter(0.1 * torch.randn(num_factors, dim)), sharpness
        self.place_in_keys = nn.Parameter(torch.tensor(0.1))
        self.compete = SlotAttention(dim, hidden_dim=2 * dim, num_iterations=num_iterations)
        for weight in (self.compete.cell.weight_ih, self.compete.cell.weight_hh):
            nn.init.normal_(weight, std=dim**-0.5)
        self.past = OwnPast(dim, num_heads, max_frames) if temporal else None

    def forward(self, patches: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Slots, and each one's share of every patch in the last round, ``[B, T, K, P]``.

        Args:
            patches: What they show, ``[B, T, P, D]``.
            places: Where they are, ``[P, D]``.
        """
        batch, time = patches.shape[:2]
        compete, flat = self.compete, patches.flatten(0, 1)
        keys = self.sharpness * compete.to_key(compete.norm_inputs(flat + self.place_in_keys * places))
        values = compete.to_value(compete.norm_inputs(flat + places))
        slots = repeat(self.initial, "k d -> b t k d", b=batch, t=time)
        for _ in range(self.compete.num_iterations):
            flat, shares = self.compete.round(slots.flatten(0, 1), keys, values)
            slots = flat.unflatten(0, (batch, time))
            if self.past is not None:
                slots = slots + self.past(slots)
        return slots, shares.unflatten(0, (batch, time))


class StateBlock(nn.Module):
    """Factors of a frame look at one another, each at its own past, and a feed-forward; ``[B, T, K, D]``."""

    def __init__(self, dim: int, num_heads: int, max_frames: int):
        super().__init__()
        self.norm_space, self.space = nn.LayerNorm(dim), Attention(dim, num_heads)
        self.past = OwnPast(dim, num_heads, max_frames)
        self.norm_forward, self.feed_forward = nn.LayerNorm(dim), FeedForward(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.space(self.norm_space(x))
        x = x + self.past(x)
        return x + self.feed_forward(self.norm_forward(x))


class InverseFactors(nn.Module):
    """States ``[B, T, K, D]`` -> what happened to each factor in the T - 1 transitions, ``[B, T - 1, K, D]``.

    Entry t of factor i knows the states of ALL factors up to frame t, and of frame t + 1 that of factor i alone.

    Example:
        >>> InverseFactors(8, num_layers=1, num_heads=2, max_frames=5)(torch.rand(2, 5, 3, 8)).shape
        torch.Size([2, 4, 3, 8])
    """

    def __init__(self, dim: int, *, num_layers: int, num_heads: int, max_frames: int):
        super().__init__()
        self.blocks = nn.Sequential(*(StateBlock(dim, num_heads, max_frames) for _ in range(num_layers)))
        self.norm_reached, self.norm_left = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.compare = CrossAttention(dim, num_heads)
        self.join, self.norm_forward, self.feed_forward = nn.Linear(2 * dim, dim), nn.LayerNorm(dim), FeedForward(dim)
        self.norm_out = nn.LayerNorm(dim)

    def forward(self, states: Tensor) -> Tensor:
        left = self.norm_left(self.blocks(states[:, :-1]))
        reached = self.norm_reached(states[:, 1:])
        by_factor = (rearrange(x, "b t k d -> b k t d") for x in (reached, left))
        seen = rearrange(self.compare(*by_factor, causal=True), "b k t d -> b t k d")
        x = self.join(torch.cat([reached + seen, left], -1))
        return self.norm_out(x + self.feed_forward(self.norm_forward(x)))


class ForwardBlock(nn.Module):
    """Factors that carry their actions look at action-free states, each at its own past, and a feed-forward.

    What they look at holds nobody's action: if it did, an action would reach other factors.
    """

    def __init__(self, dim: int, num_heads: int, max_frames: int):
        super().__init__()
        self.norm_space, self.space = nn.LayerNorm(dim), CrossAttention(dim, num_heads)
        self.past = OwnPast(dim, num_heads, max_frames)
        self.norm_forward, self.feed_forward = nn.LayerNorm(dim), FeedForward(dim)

    def forward(self, x: Tensor, states: Tensor) -> Tensor:
        x = x + self.space(self.norm_space(x), states)
        x = x + self.past(x)
        return x + self.feed_forward(self.norm_forward(x))


class ForwardFactors(nn.Module):
    """States and actions ``[B, T, K, D]`` -> what becomes of every factor in the next frame, ``[B, T, K, D]``.

    Entry t of factor i knows the states of all factors at t (and its own before), and no action but its own.

    Example:
        >>> forward, states = ForwardFactors(8, num_layers=2, num_heads=2, max_frames=5), torch.rand(1, 4, 3, 8)
        >>> told = torch.zeros_like(states)
        >>> base, told[:, :, 0] = forward(states, told), 1.0
        >>> (forward(states, told) != base).any(-1)[0, 0].tolist()
        [True, False, False]
    """

    def __init__(self, dim: int, *, num_layers: int, num_heads: int, max_frames: int):
        super().__init__()
        self.norm_states = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(ForwardBlock(dim, num_heads, max_frames) for _ in range(num_layers))
        self.norm_out = nn.LayerNorm(dim)

    def forward(self, states: Tensor, told: Tensor | None) -> Tensor:
        x, shown = states if told is None else states + told, self.norm_states(states)
        for block in self.blocks:
            x = block(x, shown)
        return self.norm_out(x)


class Aggregator(nn.Module):
    """Patches of a frame ``[B, T, P, D]`` ask the factors of the next one ``[B, T, K, D]`` what becomes of them.

    A patch sees no other patch: what comes from elsewhere comes through a factor. A learned token stands beside the
    factors, for patches to which none of them matters.

    Example:
        >>> Aggregator(8, num_layers=1, num_heads=2)(torch.rand(2, 4, 10, 8), torch.rand(2, 4, 3, 8)).shape
        torch.Size([2, 4, 10, 8])
    """

    def __init__(self, dim: int, *, num_layers: int, num_heads: int):
        super().__init__()
        self.nobody = nn.Parameter(torch.randn(dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(num_layers))
        self.ask = nn.ModuleList(CrossAttention(dim, num_heads) for _ in range(num_layers))
        self.norms_forward = nn.ModuleList(nn.LayerNorm(dim) for _ in range(num_layers))
        self.feed_forward = nn.ModuleList(FeedForward(dim) for _ in range(num_layers))

    def forward(self, patches: Tensor, factors: Tensor) -> Tensor:
        asked = torch.cat([factors, self.nobody.expand(*factors.shape[:2], 1, -1)], 2)
        for norm, ask, norm_forward, feed_forward in zip(self.norms, self.ask, self.norms_forward, self.feed_forward,
                                                         strict=True):
            patches = patches + ask(norm(patches), asked)
            patches = patches + feed_forward(norm_forward(patches))
        return patches
