"""`LatentSpec`: the description of a latent, in groups of tokens and named fields; its values: `worldkit.latents`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import rearrange, repeat
from torch import Tensor

from .distributions import Distribution, Normal
from .errors import ConfigError
from .names import check_distinct, check_name

Key = tuple[str, str]
"""(group name, field name)."""

_WIDTHS = {"position": 2, "transparency": 1}
_KINDS = {
    "particles": {"particles": ("position", "scale", "depth", "transparency", "features"), "background": ("features",)},
    "patches": {"patches": ()},
    "pixels": {"pixels": ()},
    "slots": {"slots": ()},
}
"""Kind of latent -> what pictures, decoders and the attributes of its class find in it: group -> fields."""
_MEANINGS = {"position": "(y, x) in the image", "transparency": "how much of the token is there"}


def _check_count(value: Any, what: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{what} must be a whole number of at least 1, got {value!r}")


@dataclass(frozen=True)
class Field:
    """One attribute of a token: its name, width, distribution and unit.

    Any name will do, but two mean something to pictures, metrics and networks: ``"position"`` is (y, x) in the image,
    ``"transparency"`` says how much of the token is there.

    A ``hidden`` field is for the dynamics alone, as the cell state of an LSTM: part of the latent, but `Latent.flat`,
    what decoders and heads read, leaves it out.

    Raises:
        ConfigError: the name holds a dot, or the width does not fit.
    """

    name: str
    dim: int
    dist: Distribution = Normal()
    unit: str = ""
    hidden: bool = False

    def __post_init__(self) -> None:
        check_name(self.name, "a field of a latent")
        _check_count(self.dim, f"dim of field '{self.name}'")
        if self.dim != (wanted := _WIDTHS.get(self.name, self.dim)):
            raise ConfigError(
                f"field '{self.name}' has {wanted} number(s), {_MEANINGS[self.name]}; got {self.dim}. Call it "
                "otherwise if it means something else"
            )


@dataclass(frozen=True)
class TokenGroup:
    """``size`` tokens that share fields. With several views, ``size`` counts all of them, view-major.

    ``drawn``: how many of them (per view) a decoder draws in a frame; None = all.
    """

    name: str
    size: int
    fields: tuple[Field, ...]
    drawn: int | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "a group of tokens")
        object.__setattr__(self, "fields", tuple(self.fields))
        _check_count(self.size, f"size of group '{self.name}'")
        if not self.fields:
            raise ConfigError(f"group '{self.name}' needs at least one field: TokenGroup(name, size, (Field(...),))")
        check_distinct([f.name for f in self.fields], f"fields of group '{self.name}'")

    def field(self, name: str) -> Field | None:
        return next((f for f in self.fields if f.name == name), None)


@dataclass(frozen=True)
class LatentSpec:
    """Description of a latent.

    Attributes:
        groups: Token groups in packing order.
        identity: ``"tracked"`` if token n is the same thing at every time, else ``"exchangeable"``.
        grid: (height, width) if the first group's tokens lie on a grid.
        views: Number of camera views folded into every group (view-major).
        kind: Which `Latent` class holds the values: ``"particles"``, ``"patches"``, ``"pixels"``, ``"slots"``, or
            ``"latent"`` for the plain one.
    """

    groups: tuple[TokenGroup, ...]
    identity: Literal["tracked", "exchangeable"] = "tracked"
    grid: tuple[int, int] | None = None
    views: int = 1
    kind: str = "latent"

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(self.groups))
        if not self.groups:
            raise ConfigError("a latent needs at least one group of tokens: LatentSpec((TokenGroup(...),))")
        check_distinct([g.name for g in self.groups], "groups of tokens")
        for g in self.groups:
            if g.size % self.views:
                raise ConfigError(f"group '{g.name}' has {g.size} tokens, which is no multiple of {self.views} views; "
                                  "its size counts the tokens of all views")
        if self.identity not in ("tracked", "exchangeable"):
            raise ConfigError(f"identity must be 'tracked' or 'exchangeable', got {self.identity!r}")
        for name, fields in _KINDS.get(self.kind, {}).items():
            group = next((g for g in self.groups if g.name == name), None)
            lacking = [f for f in fields if group is None or group.field(f) is None]
            if group is None or lacking:
                told = f" with {', '.join(fields)}; it lacks {', '.join(lacking)}" if fields else ""
                raise ConfigError(
                    f"a latent of kind '{self.kind}' needs a group '{name}'{told}. Leave kind out, or give your own "
                    "word, if it is something else"
                )
        first, grid = self.groups[0], self.grid
        if grid is not None and grid[0] * grid[1] * self.views != first.size:
            raise ConfigError(f"group '{first.name}' has {first.size // self.views} tokens per view, but its grid is "
                              f"{grid[0]} x {grid[1]}")

    @property
    def num_tokens(self) -> int:
        return sum(group.size for group in self.groups)

    @property
    def packed_dim(self) -> int:
        return max(sum(f.dim for f in group.fields) for group in self.groups)

    def flat_dim(self, group: str) -> int:
        """Numbers of a token of a group, over all its fields but hidden ones: the width of `Latent.flat`."""
        return sum(f.dim for f in self.group(group).fields if not f.hidden)

    def keys(self) -> list[Key]:
        return [(g.name, f.name) for g in self.groups for f in g.fields]

    def group(self, name: str) -> TokenGroup:
        return next(g for g in self.groups if g.name == name)

    def field(self, key: Key) -> Field:
        found = self.group(key[0]).field(key[1])
        assert found is not None, key
        return found

    def sum_views(self, x: Tensor) -> Tensor:
        """Sum values of all tokens ``[B, T, N]`` per view: ``[B, V, T]``."""
        parts = x.split([g.size for g in self.groups], 2)
        return sum(rearrange(p, "b t (v n) -> b v t n", v=self.views).sum(-1) for p in parts)  # type: ignore[return-value]

    def spread_views(self, x: Tensor) -> Tensor:
        """One vector per view ``[B, V, T, D]`` -> one per token of that view, ``[B, T, N, D]``."""
        sizes = [g.size // self.views for g in self.groups]
        return torch.cat([repeat(x, "b v t d -> b t (v n) d", n=n) for n in sizes], 2)

    @property
    def properties(self) -> frozenset[str]:
        """What a dynamics may require: ``"grid"``, ``"tracked"``, ``"normal"`` (all fields Gaussian), ...

        ``"codes"``: all fields are numbers of classes, ``"continuous"``: none is.
        """
        codes = [self.field(key).dist.codes for key in self.keys()]
        has = {"grid": self.grid is not None, "tracked": self.identity == "tracked", "codes": all(codes),
               "continuous": not any(codes)}
        common = frozenset.intersection(*(self.field(key).dist.properties for key in self.keys()))
        return common | {name for name, yes in has.items() if yes}

    def find(self, field: str) -> Key | None:
        """Key of the first field with this name, if there is one."""
        return next((key for key in self.keys() if key[1] == field), None)

    @property
    def gated_tokens(self) -> int | None:
        """How many tokens of a view have a transparency, and so may draw nothing; None if the field is missing."""
        key = self.find("transparency")
        return None if key is None else self.group(key[0]).size // self.views
