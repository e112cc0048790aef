"""The two layers that read a `LatentSpec`: latent -> tokens (`LatentEmbed`) and tokens -> distribution (`LatentHead`).

Everything between them works on plain tokens ``[B, T, N, D]``, in the order of the spec's groups. Because of these two,
no dynamics and no latent action knows whether its tokens are particles, patches or slots.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..component import NamedModules, NamedParameters
from ..distributions import full_precision
from ..latents import Field, Key, Latent, LatentDist, LatentSpec, TokenGroup
from .attention import RMSNorm
from .conv import mlp
from .products import Linear

PRESENCE_GATE = 0.2
"""Tokens whose transparency is not above this are shown to networks through learned stand-ins (upstream: obj_on)."""

_STAND_IN = {"position": 2.0, "scale": 0.1, "origin": 2.0}


def _projection(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(Linear(inputs, hidden), RMSNorm(hidden), nn.GELU(), Linear(hidden, outputs))


def field_order(group: TokenGroup, first: Sequence[str], anchors: Mapping[str, Tensor] | None) -> list[str]:
    """All fields of a group, "origin" included where positions have anchors: those in ``first`` as they stand there.

    Example:
        >>> from worldkit.latents import Field
        >>> field_order(TokenGroup("things", 3, (Field("colour", 3), Field("position", 2))), ["position"], None)
        ['position', 'colour']
    """
    names = [f.name for f in group.fields]
    if anchors and "position" in names and "origin" not in names:
        names.append("origin")
    return [n for n in first if n in names] + [n for n in names if n not in first]


class GroupEmbed(nn.Module):
    """Tokens of one group, ``[B, T, N, D]``: one small network per field, joined by another.

    A group with a single field needs no joining. Fields of tokens that are not present are replaced by learned
    stand-ins, except the transparency itself and the score. Two are derived, in groups that have no field of that name:
    "origin", (anchor, position - anchor), and "score".
    """

    def __init__(
        self, group: TokenGroup, dim: int, *, fields: Sequence[str], views: int, anchors: Tensor | None, field_dim: int
    ):
        super().__init__()
        self.group, self.fields, self.views = group.name, tuple(fields), views
        self.gated = group.field("transparency") is not None
        self.register_buffer("anchors", anchors, persistent=False)
        own = {f.name: f.dim for f in group.fields}
        dims = {"score": 1, "origin": 4} | own
        self.derived = frozenset(dims) - frozenset(own)
        self.single = len(self.fields) == 1
        width = dim if self.single else field_dim
        self.project = NamedModules({name: _projection(dims[name], dim, width) for name in self.fields})
        self.join = nn.Identity() if self.single else _projection(len(self.fields) * field_dim, dim, dim)
        hidden = [n for n in self.fields if self.gated and n != "transparency" and (n != "score" or n in own)]
        self.stand_ins = NamedParameters({
            n: torch.full((dims[n],), _STAND_IN[n]) if n in _STAND_IN else 0.02 * torch.randn(dims[n]) for n in hidden
        })

    def _origin(self, position: Tensor) -> Tensor:
        anchors = self.anchors.repeat(self.views, 1).expand_as(position)
        return torch.cat([anchors, position - anchors], -1)

    def forward(self, z: Latent, score: Tensor | None = None) -> Tensor:
        present = z.values[self.group, "transparency"] > PRESENCE_GATE if self.gated else None
        columns = []
        for name in self.fields:
            if name == "score" and name in self.derived:
                value = score
            elif name == "origin" and name in self.derived:
                value = self._origin(z.values[self.group, "position"])
            else:
                value = z.values[self.group, name]
            if name in self.stand_ins:
                value = torch.where(present, value, self.stand_ins[name])
            columns.append(self.project[name](value))
        return self.join(columns[0] if self.single else torch.cat(columns, -1))


class LatentEmbed(nn.Module):
    """Latent -> tokens ``[B, T, N, D]`` in the spec's group order, plus a learned vector per group and per view.

    Args:
        spec: What the latent holds.
        dim: Token width.
        fields: Group -> fields in order of concatenation; default: all fields, then "origin" where there are anchors.
            "score" asks for `forward`'s ``score``.
        anchors: ``{"position": [N per view, 2]}`` for the derived field "origin".
        token_embedding: One vector per token of the FIRST group instead of one for all of them.
        field_dim: Width of each field's projection.
    """

    def __init__(
        self,
        spec: LatentSpec,
        dim: int,
        *,
        fields: Mapping[str, Sequence[str]] | None = None,
        anchors: Mapping[str, Tensor] | None = None,
        token_embedding: bool = False,
        field_dim: int = 32,
    ):
        super().__init__()
        position = (anchors or {}).get("position")
        self.sizes, self.views = [g.size for g in spec.groups], spec.views
        self.groups = NamedModules()
        for group in spec.groups:
            names = list((fields or {}).get(group.name, field_order(group, (), anchors)))
            derived = "origin" in names and group.field("origin") is None
            self.groups[group.name] = GroupEmbed(
                group, dim, fields=names, views=spec.views, anchors=position if derived else None, field_dim=field_dim,
            )
        rows = [1] * len(self.sizes)
        if token_embedding:
            rows[0] = self.sizes[0] // self.views
        self.embeddings = nn.ParameterList(nn.Parameter(0.02 * torch.randn(row, dim)) for row in rows)
        self.view_embedding = nn.Parameter(0.02 * torch.randn(self.views, dim)) if self.views > 1 else None

    def forward(self, z: Latent, *, score: Tensor | None = None, mark_views: bool = True) -> Tensor:
        """Tokens of a latent.

        Args:
            z: The latent.
            score: ``[B, T, N of the first group, 1]``, if some group's fields ask for it.
            mark_views: Add the view embeddings (with several views).
        """
        parts = []
        for embed, size, embedding in zip(self.groups.values(), self.sizes, self.embeddings, strict=True):
            per_view = size // self.views
            rows = embedding.expand(per_view, -1).repeat(self.views, 1)
            if self.view_embedding is not None and mark_views:
                rows = rows + self.view_embedding.repeat_interleave(per_view, 0)
            parts.append(embed(z, score) + rows)
        return torch.cat(parts, 2)


class LatentHead(nn.Module):
    """Tokens ``[B, T, N, D]`` -> distribution of every field, one small network per field.

    Args:
        spec: What to predict.
        dim: Token width.
        anchors: ``{"position": [N per view, 2]}``: the mean becomes ``anchor + tanh(output)``.
    """

    def __init__(self, spec: LatentSpec, dim: int, *, anchors: Mapping[str, Tensor] | None = None):
        super().__init__()
        self.spec = spec
        self.heads = NamedModules({
            group.name: NamedModules({f.name: mlp(dim, dim, f.dist.raw_dim(f.dim)) for f in group.fields})
            for group in spec.groups
        })
        position = (anchors or {}).get("position")
        self.register_buffer(
            "anchors", None if position is None else position.repeat(spec.views, 1), persistent=False
        )

    def start_from(self, scale: float) -> None:
        """Initialise: positions at their anchors (variance 0.01), boxes of side ``scale`` (of 1; variance 0.04)."""
        logit = math.log(scale / (1 - scale + 1e-5) + 1e-5)
        for group in self.spec.groups:
            for name, mean, variance in (("position", 0.0, 0.01), ("scale", logit, 0.04)):
                if (f := group.field(name)) is not None:
                    self._start(group.name, f, mean, variance, all_outputs=name != "position")

    def start_at_rest(self) -> None:
        """Initialise for predicting changes: means of unbounded fields at zero (variance 0.01)."""
        for group in self.spec.groups:
            for f in group.fields:
                if f.dist.movable:
                    self._start(group.name, f, 0.0, 0.01, all_outputs=True)

    @torch.no_grad()
    def _start(self, group: str, f: Field, mean: float, variance: float, *, all_outputs: bool) -> None:
        """Biases that give a mean and a variance; tokens have no influence on all outputs, or on those of the mean."""
        last = self.heads[group][f.name][-1]
        start, other = (f.dist.raw_at(last.bias.new_full((f.dim,), m), variance) for m in (mean, mean + 1))
        if start is None:
            return
        if all_outputs:
            last.weight.zero_()
        else:
            last.weight.masked_fill_((start != other)[:, None], 0.0)
        last.bias.copy_(start)

    def forward(self, tokens: Tensor) -> LatentDist:
        params: dict[Key, Tensor] = {}
        for group, part in zip(self.spec.groups, tokens.split([g.size for g in self.spec.groups], 2), strict=True):
            for f in group.fields:
                anchor = self.anchors if f.name == "position" else None
                raw = full_precision(self.heads[group.name][f.name](part))
                params[group.name, f.name] = f.dist.from_raw(raw, anchor)
        return LatentDist(self.spec, params)
