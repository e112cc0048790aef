"""Described latents: what an encoder produces and every other component is written against.

A `LatentSpec` lists groups of tokens ("particles", "background"); a group lists named fields ("position", "scale", ...)
with their width and distribution. `Latent` holds one value per field, `LatentDist` one parameter tensor per field.
Both are immutable; `z[:, :-1]` slices time on every field at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .distributions import MEANS, Beta, Delta, Normal, Sampler
from .editing import Editing
from .errors import ShapeError
from .latent_spec import Field, Key, LatentSpec, TokenGroup

__all__ = [
    "Field", "Key", "Latent", "LatentDist", "LatentSpec", "Particles", "PatchTokens", "Pixels", "Slots", "TokenGroup",
    "particle_spec", "pixel_spec",
]

_Self = TypeVar("_Self", bound="_Fields")


class _Fields:
    """Tensors [B, T, N_group, ...] by key; optional: ``score`` [B, T, N] per token, ``carry`` [B, T, ...]."""

    def __init__(self, spec: LatentSpec, tensors: Mapping[Key, Tensor], *, score: Tensor | None = None,
                 carry: Tensor | None = None):
        if set(tensors) != set(spec.keys()):
            raise ShapeError(f"latent fields {sorted(tensors)} do not match the spec {sorted(spec.keys())}")
        self.spec = spec
        self._tensors = {key: tensors[key] for key in spec.keys()}
        self.score, self.carry = score, carry

    def _like(self: _Self, tensors: Mapping[Key, Tensor], score: Tensor | None, carry: Tensor | None = None) -> _Self:
        return type(self)(self.spec, tensors, score=score, carry=carry)

    def carrying(self: _Self, carry: Tensor | None) -> _Self:
        """The same with another ``carry``."""
        return self._like(self._tensors, self.score, carry)

    def map(self: _Self, f: Callable[[Tensor], Tensor]) -> _Self:
        """Apply a function that keeps the meaning of all axes (detach, to, index, repeat) to every tensor."""
        return self._like(
            {k: f(v) for k, v in self._tensors.items()}, None if self.score is None else f(self.score),
            None if self.carry is None else f(self.carry),
        )

    def __getitem__(self: _Self, index: Any) -> _Self:
        return self.map(lambda x: x[index])

    def where(self: _Self, clips: Tensor, other: _Self) -> _Self:
        """These where ``clips``, bool ``[B]``, is True, else the other ones."""
        def choose(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            if a is None or b is None:
                return None
            return torch.where(clips.to(a.device).reshape(-1, *[1] * (a.ndim - 1)), a, b)

        tensors = {key: choose(x, other._tensors[key]) for key, x in self._tensors.items()}
        return self._like(tensors, choose(self.score, other.score), choose(self.carry, other.carry))  # type: ignore

    def put(self: _Self, rows: Tensor, other: _Self) -> _Self:
        """These with other clips in some rows, int64 ``[R]``."""
        def fill(x: Tensor | None, new: Tensor | None) -> Tensor | None:
            return None if x is None or new is None else x.index_copy(0, rows.to(x.device), new)

        tensors = {key: x.index_copy(0, rows.to(x.device), other._tensors[key]) for key, x in self._tensors.items()}
        return self._like(tensors, fill(self.score, other.score), fill(self.carry, other.carry))

    def singles(self: _Self) -> _Self:
        """Every frame as a clip of its own, ``[B * T, 1]``: where imagination starts from."""
        return self.map(lambda x: x.flatten(0, 1).unsqueeze(1))

    def detach(self: _Self) -> _Self:
        return self.map(Tensor.detach)

    def to(self: _Self, *args: Any, **kwargs: Any) -> _Self:
        return self.map(lambda x: x.to(*args, **kwargs))

    @classmethod
    def cat(cls: type[_Self], parts: Sequence[_Self], dim: int = 1) -> _Self:
        """Join along time (``dim=1``) or batch. Score and carry survive only if every part has one."""
        score, carry = (None if any(x is None for x in found) else torch.cat(found, dim)  # type: ignore[arg-type]
                        for found in ([p.score for p in parts], [p.carry for p in parts]))
        tensors = {k: torch.cat([p._tensors[k] for p in parts], dim) for k in parts[0]._tensors}
        return parts[0]._like(tensors, score, carry)

    @property
    def shape(self) -> torch.Size:
        """(B, T)."""
        return next(iter(self._tensors.values())).shape[:2]

    def __repr__(self) -> str:
        fields = ", ".join(f"{g}.{f}{list(self._tensors[g, f].shape)}" for g, f in self.spec.keys())
        return f"{type(self).__name__}({fields})"


class Latent(_Fields, Editing):
    """Values of a described latent, ``[B, T, N_group, dim]`` per field.

    Attributes:
        spec: The description.
        score: Optional uncertainty per token of the first group, ``[B, T, N]``; decoders that draw only some tokens
            prefer low scores (observed frames); without a score they prefer present tokens (predicted frames).
        carry: Of states that were seen by an encoder with a memory, what it goes on with, ``[B, T, ...]``; else None.
    """

    _kinds: ClassVar[dict[str, type[Latent]]] = {}

    def __init_subclass__(cls, kind: str | None = None, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if kind is not None:
            Latent._kinds[kind] = cls

    @staticmethod
    def build(spec: LatentSpec, values: Mapping[Key, Tensor], *, score: Tensor | None = None) -> Latent:
        """A latent of the class the spec's ``kind`` names."""
        return Latent._kinds.get(spec.kind, Latent)(spec, values, score=score)

    @property
    def values(self) -> Mapping[Key, Tensor]:
        return self._tensors

    def get(self, field: str) -> Tensor | None:
        """First field with this name, ``[B, T, N_group, dim]``."""
        key = self.spec.find(field)
        return None if key is None else self._tensors[key]

    @property
    def presence(self) -> Tensor:
        """``[B, T, N]`` in [0, 1] over all tokens: transparency where the token has one, 1 elsewhere."""
        parts = []
        for group in self.spec.groups:
            if group.field("transparency") is not None:
                parts.append(self._tensors[group.name, "transparency"][..., 0])
            else:
                first = self._tensors[group.name, group.fields[0].name]
                parts.append(torch.ones_like(first[..., 0], dtype=None if first.is_floating_point() else torch.float))
        return torch.cat(parts, -1)

    @property
    def positions(self) -> Tensor | None:
        """``[B, T, N, 2]`` in (y, x), [-1, 1], of the first group that has positions."""
        return self.get("position")

    def bounded(self, edge: float = 1e-5) -> Latent:
        """The same latent with bounded fields, as a transparency, at least ``edge`` inside their bounds."""
        bounds = {key: self.spec.field(key).dist.support for key in self._tensors}
        values = {key: x.clamp(bounds[key][0] + edge, bounds[key][1] - edge) if x.is_floating_point() else x
                  for key, x in self._tensors.items()}
        return Latent.build(self.spec, values, score=self.score)

    def flat(self, group: str) -> Tensor:
        """All fields of a group but hidden ones side by side, ``[B, T, N_group, flat_dim]``; one alone as it is.

        Example:
            >>> from worldkit.testing import example_latent, example_spec
            >>> example_latent(example_spec(kind="slots"), batch=2, time=3).flat("slots").shape
            torch.Size([2, 3, 4, 3])
        """
        fields = [self._tensors[group, f.name] for f in self.spec.group(group).fields if not f.hidden]
        return fields[0] if len(fields) == 1 else torch.cat(fields, -1)

    def pack(self) -> Tensor:
        """All tokens in one tensor ``[B, T, N, packed_dim]``, zero-padded; `unpack` is its exact inverse."""
        width, rows = self.spec.packed_dim, []
        for group in self.spec.groups:
            row = torch.cat([self._tensors[group.name, f.name] for f in group.fields], -1)
            rows.append(F.pad(row, (0, width - row.shape[-1])))
        return torch.cat(rows, 2)

    @staticmethod
    def unpack(spec: LatentSpec, packed: Tensor) -> Latent:
        """Latent from ``[B, T, N, packed_dim]``."""
        values: dict[Key, Tensor] = {}
        groups = packed.split([g.size for g in spec.groups], dim=2)
        for group, rows in zip(spec.groups, groups, strict=True):
            columns = rows[..., : sum(f.dim for f in group.fields)].split([f.dim for f in group.fields], -1)
            values |= {(group.name, f.name): column for f, column in zip(group.fields, columns, strict=True)}
        return Latent.build(spec, values)


class Particles(Latent, kind="particles"):
    """Latent particles: a group "particles" and a group "background".

    Attributes (``N`` particles, all ``[B, T, N, .]``):
        position: (y, x) in [-1, 1], 2 numbers.
        scale: LOGIT of box side / image side, (height, width); `size` is its sigmoid.
        depth: smaller is nearer, 1 number.
        transparency: in [0, 1], 1 = opaque (upstream: ``obj_on``).
        features: appearance.
        background: features of the background, ``[B, T, views, D]``.
    """

    @property
    def position(self) -> Tensor:
        return self._tensors["particles", "position"]

    @property
    def position_xy(self) -> Tensor:
        """Positions as (x, y), for plots."""
        return self.position.flip(-1)

    @property
    def scale(self) -> Tensor:
        return self._tensors["particles", "scale"]

    @property
    def size(self) -> Tensor:
        """Box side / image side in (0, 1), (height, width)."""
        return torch.sigmoid(self.scale)

    @property
    def depth(self) -> Tensor:
        return self._tensors["particles", "depth"]

    @property
    def transparency(self) -> Tensor:
        return self._tensors["particles", "transparency"]

    @property
    def features(self) -> Tensor:
        return self._tensors["particles", "features"]

    @property
    def background(self) -> Tensor:
        return self._tensors["background", "features"]


class PatchTokens(Latent, kind="patches"):
    """Tokens on a grid: one group "patches", of encoders with one field "features".

    Attributes:
        features: ``[B, T, height * width, D]``, all fields, row by row; ``spec.grid`` is (height, width).
    """

    @property
    def features(self) -> Tensor:
        return self.flat("patches")


class Pixels(Latent, kind="pixels"):
    """Pixels themselves: one group "pixels", of the encoder with one field "pixels", row by row of every view.

    Attributes:
        pixels: ``[B, T, V * H * W, C]`` in [-1, 1].
        maps: The same as pictures, ``[B, T, V, C, H, W]``, without a copy.
        fine: Pictures in full size, where there is a second group "fine" of them; then the first ones are small.
    """

    @property
    def pixels(self) -> Tensor:
        return self._tensors["pixels", "pixels"]

    @property
    def maps(self) -> Tensor:
        rows, columns = self.spec.grid  # type: ignore[misc]  # pixels lie on one
        return self.pixels.unflatten(2, (self.spec.views, rows, columns)).movedim(-1, 3)

    @property
    def fine(self) -> Tensor:
        rows, columns = self.spec.grid  # type: ignore[misc]
        factor = round((self.spec.group("fine").size / self.spec.group("pixels").size) ** 0.5)
        sizes = (self.spec.views, rows * factor, columns * factor)
        return self._tensors["fine", "pixels"].unflatten(2, sizes).movedim(-1, 3)

    @staticmethod
    def of_maps(spec: LatentSpec, *maps: Tensor) -> Pixels:
        """The latent of pictures ``[B, T, V, C, H, W]`` in [-1, 1], small and fine; with one view without a copy.

        Example:
            >>> maps = torch.rand(2, 3, 1, 3, 4, 5)
            >>> torch.equal(Pixels.of_maps(pixel_spec(height=4, width=5), maps).maps, maps)
            True
        """
        return Pixels(spec, {(group.name, "pixels"): x.movedim(3, -1).flatten(2, 4)
                             for group, x in zip(spec.groups, maps, strict=True)})


class Slots(Latent, kind="slots"):
    """Object slots: one group "slots", of encoders with one field "features".

    Attributes:
        features: ``[B, T, N, D]``, all fields.
    """

    @property
    def features(self) -> Tensor:
        return self.flat("slots")


class LatentDist(_Fields):
    """A distribution over latents: one parameter tensor per field, independent given the parameters."""

    @property
    def params(self) -> Mapping[Key, Tensor]:
        return self._tensors

    def sample(self, sampler: Sampler = Sampler()) -> Latent:
        """Reparameterised sample (or means, if the sampler is deterministic)."""
        values = {
            key: self.spec.field(key).dist.sample(params, sampler, ".".join(key))
            for key, params in self._tensors.items()
        }
        return Latent.build(self.spec, values, score=self.score)

    def mode(self) -> Latent:
        """Means."""
        return self.sample(MEANS)

    def mean(self, group: str, field: str) -> Tensor:
        """Mean of one field, ``[B, T, N_group, dim]``."""
        return self.spec.field((group, field)).dist.mode(self._tensors[group, field])

    def kl(self, prior: LatentDist) -> dict[Key, Tensor]:
        """KL(self || prior) per field in nats, ``[B, T, N_group]``, unreduced over tokens and time."""
        return {
            key: self.spec.field(key).dist.kl(params, prior._tensors[key]) for key, params in self._tensors.items()
        }

    def shift(self, change: Latent) -> LatentDist:
        """Every field that can be moved, moved by the values of a latent; the others as they are."""
        return self._like({
            key: dist.shift(params, change.values[key]) if (dist := self.spec.field(key).dist).movable else params
            for key, params in self._tensors.items()
        }, self.score)

    def nll(self, z: Latent) -> dict[Key, Tensor]:
        """Negative log-likelihood of a latent per field in nats, ``[B, T, N_group]``."""
        return {
            key: self.spec.field(key).dist.nll(params, z.values[key]) for key, params in self._tensors.items()
        }


def particle_spec(
    *, num_particles: int, feature_dim: int, background_dim: int, num_drawn: int | None = None, views: int = 1,
    beta: Beta | None = None,
) -> LatentSpec:
    """The spec of particle latents (see `Particles`); ``num_particles`` and ``num_drawn`` per view."""
    particles = TokenGroup(
        "particles",
        views * num_particles,
        (
            Field("position", 2, Normal(), "(y, x) in [-1, 1] image coordinates"),
            Field("scale", 2, Normal(), "logit of box side / image side, (height, width)"),
            Field("depth", 1, Normal(), "smaller is nearer"),
            Field("transparency", 1, beta or Beta(), "[0, 1], 1 = opaque"),
            Field("features", feature_dim, Normal(), "appearance"),
        ),
        drawn=num_drawn,
    )
    background = TokenGroup("background", views, (Field("features", background_dim, Normal(), "appearance"),))
    return LatentSpec((particles, background), views=views, kind="particles")


def pixel_spec(*, height: int, width: int, channels: int = 3, views: int = 1, factor: int = 1) -> LatentSpec:
    """The spec of pixels as latents (see `Pixels`), points on a grid of the picture's size, or that many times less."""
    pixels = Field("pixels", channels, Delta(), "[-1, 1], as the picture's channels")
    rows, columns = height // factor, width // factor
    groups = [TokenGroup("pixels", views * rows * columns, (pixels,))]
    if factor > 1:
        groups.append(TokenGroup("fine", views * rows * columns * factor**2, (pixels,)))
    return LatentSpec(tuple(groups), grid=(rows, columns), views=views, kind="pixels")
