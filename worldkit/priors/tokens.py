"""Latents as packed tokens in which a column means the same for every group, as DiffuseDDLP lays them out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..latents import Key, Latent, LatentSpec


class TokenLayout:
    """Where the fields of a latent stand in tokens ``[B, T, N, width]``: one after the other, as `Latent.pack` does.

    Unlike there, tokens of a group without positions (a background) stand in the centre of the image, if those of the
    first group begin with positions: two zeros come before their fields.

    Attributes:
        width: Numbers per token.
        fields: ``[groups, width]``, 1 where a column holds a field.
        used: Likewise, 1 where it holds a field or such zeros; the rest is padding.
    Example:
        >>> from worldkit.latents import particle_spec
        >>> layout = TokenLayout(particle_spec(num_particles=2, feature_dim=1, background_dim=3))
        >>> layout.width, layout.fields[1].tolist()
        (7, [0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    """

    def __init__(self, spec: LatentSpec):
        self.spec = spec
        first = spec.groups[0].fields[0]
        self._lead = [first.dim if first.name == "position" and group.field("position") is None else 0
                      for group in spec.groups]
        self._held = [sum(f.dim for f in group.fields) for group in spec.groups]
        ends = [lead + held for lead, held in zip(self._lead, self._held, strict=True)]
        self.width = max(ends)
        column = torch.arange(self.width)
        self.used = (column < torch.tensor(ends)[:, None]).float()
        self.fields = self.used * (column >= torch.tensor(self._lead)[:, None])

    @property
    def sizes(self) -> list[int]:
        """Tokens of every group."""
        return [group.size for group in self.spec.groups]

    def pack(self, z: Latent) -> Tensor:
        """``[B, T, N, width]``, zero where no field stands."""
        rows = []
        for group, lead, held in zip(self.spec.groups, self._lead, self._held, strict=True):
            row = torch.cat([z.values[group.name, f.name] for f in group.fields], -1)
            rows.append(F.pad(row, (lead, self.width - lead - held)))
        return torch.cat(rows, 2)

    def unpack(self, tokens: Tensor) -> Latent:
        """Inverse of `pack`; columns without a field are left out."""
        values: dict[Key, Tensor] = {}
        for group, lead, held, rows in zip(self.spec.groups, self._lead, self._held, tokens.split(self.sizes, 2),
                                           strict=True):
            columns = rows[..., lead:lead + held].split([f.dim for f in group.fields], -1)
            values |= {(group.name, f.name): column for f, column in zip(group.fields, columns, strict=True)}
        return Latent.build(self.spec, values)
