"""`Port`: one named tensor that goes into an exported function, or comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..latents import Latent, LatentSpec

BATCH, TIME = "batch", "time"
"""What sizes are called that may be any."""


@dataclass(frozen=True)
class Port:
    """A tensor by name.

    Attributes:
        name: ``"video"``, ``"latent.particles.position"``.
        meaning: In words, with its unit or range.
        axes: Names of its first axes: those called "batch" and "time" may be of any size, if the exporter can do that.
    """

    name: str
    meaning: str
    axes: tuple[str, ...] = (BATCH, TIME)

    def describe(self, example: Tensor, free: dict[int, str]) -> dict[str, Any]:
        """For the specification: name, type, shape with the names of free axes, meaning."""
        shape = [free.get(axis, size) for axis, size in enumerate(example.shape)]
        return {"name": self.name, "dtype": str(example.dtype).removeprefix("torch."), "shape": shape,
                "meaning": self.meaning}


def fields(spec: LatentSpec, prefix: str, what: str, axes: tuple[str, ...] = (BATCH, TIME)) -> list[Port]:
    """A port for every field of a latent.

    Example:
        >>> from worldkit.testing import example_spec
        >>> [port.name for port in fields(example_spec(kind="slots"), "latent", "seen")]
        ['latent.slots.features']
    """
    found = []
    for group, name in spec.keys():
        field = spec.field((group, name))
        unit = field.unit or ("numbers of classes" if field.dist.codes else type(field.dist).__name__.lower())
        found.append(Port(f"{prefix}.{group}.{name}", f"{what}: {name} of {group} ({unit})", axes))
    return found


def latent_of(spec: LatentSpec, tensors: tuple[Tensor, ...]) -> Latent:
    """The latent of tensors in the order of `fields`."""
    return Latent.build(spec, dict(zip(spec.keys(), tensors, strict=True)))
