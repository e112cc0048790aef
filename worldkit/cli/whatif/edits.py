"""What becomes of a thing, in a latent and in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ...errors import ConfigError
from ...latents import Latent
from ...scene import Scene

Tokens = Mapping[int, Sequence[int]]


@dataclass(frozen=True)
class Edit:
    """What is to become of a thing; see the options of ``worldkit whatif``. None: nothing."""

    move: tuple[float, float] | None = None
    scale: float | None = None
    remove: bool = False

    def check(self, swaps: bool) -> None:
        """Refuse what contradicts itself, and nothing at all.

        Raises:
            ConfigError
        """
        if self.remove and (self.move is not None or self.scale is not None or swaps):
            raise ConfigError("--remove goes with no other edit: what is gone has no place, size or look")
        if not (self.remove or swaps or self.move is not None or self.scale is not None):
            raise ConfigError("say what becomes of it: --move DY DX, --remove, --swap-look OTHER or --scale FACTOR")
        if self.move is not None and not all(map(math.isfinite, self.move)):
            raise ConfigError(f"--move must be two finite numbers, got {' '.join(f'{v:g}' for v in self.move)}")
        if self.move is not None and not any(self.move):
            raise ConfigError("--move 0 0 moves nothing: give DY DX in units of which the picture is 2 high and wide")


def apply(scene: Scene, thing: Tokens, edit: Edit, other: Tokens | None) -> Latent:
    """An edited copy of the given frames' latents.

    Raises:
        ConfigError: the latent lacks the field, the thing would leave the picture, or become too large.
    """
    z = scene.z
    if edit.remove:
        return _removed(scene, thing)
    if other is not None:
        _needs(scene, "features", "--swap-look")
        _needs(scene, "position", "--swap-look")  # else place and look are one vector, and both would change
        z = z.swap_look(thing, other)
    if edit.move is not None:
        _check_move(scene, thing[scene.frame], edit.move)
        z = z.edit(thing, delta_position=edit.move)
    return z if edit.scale is None else _scaled(scene, z, thing, edit.scale)


def _needs(scene: Scene, field: str, option: str) -> None:
    """Refuse an edit of a field that the latent lacks, with those that work."""
    spec = scene.z.spec
    if spec.find(field) is None:
        fields = {"position": "--move", "scale": "--scale", "transparency": "--remove"}
        works = [typed for name, typed in fields.items() if spec.find(name) is not None]
        if scene.shares is not None:
            works.append("--remove")
        have = ", ".join(dict.fromkeys(name for _, name in spec.keys()))
        raise ConfigError(f"{option} needs '{field}', which the {scene.nouns} of this model do not have (they have: "
                          f"{have}). What works: {', '.join(dict.fromkeys(works)) or 'nothing'}")


def _removed(scene: Scene, thing: Tokens) -> Latent:
    """Without the thing: its tokens transparent, or (slots) copies of the one that paints most of the rest."""
    if scene.shares is None:
        _needs(scene, "transparency", "--remove")
    held = {token for tokens in thing.values() for token in tokens}
    most = [token for token in held if scene.shares is not None and scene.shares[token] > 0.5]
    if most:
        raise ConfigError(f"{scene.named(most)} paints {100 * scene.shares[most[0]]:.0f} % of the picture: it is the "
                          "background, behind which there is nothing")
    z = scene.z
    for t, tokens in thing.items():
        now = scene.without(z[:, t : t + 1], tokens)
        z = type(z).cat([z[:, :t], now, z[:, t + 1 :]])
    return z


def _check_move(scene: Scene, tokens: Sequence[int], move: tuple[float, float]) -> None:
    _needs(scene, "position", "--move")
    place = scene.place(tokens)
    assert place is not None
    if any(abs(p + m) > 1 for p, m in zip(place, move, strict=True)):
        ways = [f"{axis} from {-1 - p:.2f} to {1 - p:.2f}" for axis, p in zip(("DY", "DX"), place, strict=True)]
        raise ConfigError(f"--move {move[0]:g} {move[1]:g} takes it out of the picture: it lies at ({place[0]:.2f}, "
                          f"{place[1]:.2f}) in frame {scene.frame}, so {', '.join(ways)}. --remove takes it away")


def _scaled(scene: Scene, z: Latent, thing: Tokens, factor: float) -> Latent:
    """Boxes of all tokens of a thing grow by a factor, and so do their distances from its middle."""
    _needs(scene, "scale", "--scale")
    for t, tokens in thing.items():
        size = torch.sigmoid(z.get("scale")[:, t : t + 1, list(tokens)])
        if factor * size.max() >= 1:
            raise ConfigError(f"--scale {factor:g} makes a box larger than the picture: the largest of this thing is "
                              f"{size.max():.2f} of its side, so at most {0.99 / float(size.max()):.2f}")
        where = z.get("position")[:, t : t + 1, list(tokens)]
        spread = (factor - 1) * (where - where.mean(2, keepdim=True))
        z = z.edit(tokens, frames=t, scale=factor * size, delta_position=spread)
    return z


def question(scene: Scene, tokens: Sequence[int], edit: Edit, other: Sequence[int] | None) -> str:
    """``"What if the thing at (0.60, 0.00) lay 0.40 higher and 0.40 further right?"``."""
    one = _the(scene, tokens)
    if edit.remove:
        return f"What if {one} were not there?"
    said = []
    if other is not None:
        said.append(f"looked like {_the(scene, other)}, and that one like it")
    if edit.move is not None:
        said.append(f"lay {moved(edit.move)}")
    if edit.scale is not None:
        said.append(f"were {edit.scale:g} times as large")
    return f"What if {one} {' and '.join(said)}?"


def moved(move: tuple[float, float]) -> str:
    """``"0.40 higher and 0.20 further right"``."""
    (dy, dx), said = move, []
    if dy:
        said.append(f"{abs(dy):.2f} {'lower' if dy > 0 else 'higher'}")
    if dx:
        said.append(f"{abs(dx):.2f} further {'right' if dx > 0 else 'left'}")
    return " and ".join(said)


def _the(scene: Scene, tokens: Sequence[int]) -> str:
    place = scene.place(tokens)
    return scene.named(tokens) if place is None else f"the thing at ({place[0]:.2f}, {place[1]:.2f})"
