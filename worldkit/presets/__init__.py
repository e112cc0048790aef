"""Presets: named models as data. One TOML file per family; a number's source stands beside it as a comment.

A table ``[name]`` has ``extends`` (another preset, or a list: each adds what those before it do not inherit),
``summary``, ``source``, ``paper``, ``aliases``, ``weights``, and sub-tables ``config`` (a `WorldModelConfig`),
``train`` (training defaults), ``eval`` (evaluation protocol; its ``data`` is what ``worldkit ablate`` takes without
``--data``, its ``protocols`` are what shipped weights are scored by as well, its ``probe`` a column of the data that is
read off their latents, its ``metrics`` what is scored if the model draws nothing, its ``judge`` whose encoder looks at
pictures drawn out of nothing), ``agent`` (name and options of the agent that acts through the model, see
`worldkit.agents`), ``online`` (how it learns by acting, an `worldkit.online.OnlineConfig`) and ``alternatives``: sizes
of parts one may swap in (``[NAME.alternatives.dynamics.gru]``, or of parts inside,
``[NAME.alternatives."dynamics.cell".lstm]``), for presets whose scale is far from the parts' own defaults. ``"none"``
leaves out what would be inherited, as on the command line (``latent_action = "none"`` in ``config``, ``ema = "none"``
in ``train``; deeper down numbers and tables only).
"""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from ..config import merge
from ..errors import DuplicateComponentError, UnknownComponentError
from ..registry import canonical, failed_plugins, load_plugins, suggestion


@dataclass(frozen=True)
class ModelSpec:
    """What a preset is.

    Attributes:
        name, summary, source, paper, aliases: Provenance.
        config: Nested dict of a `WorldModelConfig`.
        train: Training defaults (batch size, learning rate, epochs, ...).
        eval: Evaluation protocol (conditioning frames, horizon, what drives rollouts).
        agent: Name and options of the agent that acts through the model; empty: none does.
        online: How much it acts and learns.
        weights: File with weights inside the package (or ``"hub:org/name"``), if there are any.
        alternatives: Kind -> name -> options: sizes at this preset's scale of parts that one may swap in.
        extends: The preset this one starts from (the first one, of several).
        provider: Package the preset comes from.
    """

    name: str
    summary: str = ""
    source: str = ""
    paper: str = ""
    aliases: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    eval: Mapping[str, Any] = field(default_factory=dict)
    agent: Mapping[str, Any] = field(default_factory=dict)
    online: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    alternatives: Mapping[str, Any] = field(default_factory=dict)
    extends: str | None = None
    provider: str = "worldkit"


_tables: dict[str, tuple[dict[str, Any], str]] = {}
_aliases: dict[str, str] = {}


def register_preset_file(package: str, filename: str) -> None:
    """Add the presets of a TOML file inside a package (for plugins: call it where you register components).

    Raises:
        DuplicateComponentError: if a name is taken.
    """
    _load_builtins()
    _add_file(package, filename)


def _add_file(package: str, filename: str) -> None:
    tables = tomllib.loads(resources.files(package).joinpath(filename).read_text(encoding="utf-8"))
    for name, table in tables.items():
        names = [canonical(name), *map(canonical, table.get("aliases", ()))]
        for taken in names:
            if taken in _tables or taken in _aliases:
                owner = _tables[_aliases.get(taken, taken)][1]
                raise DuplicateComponentError(f"preset '{taken}' is defined twice: by {owner} and by {package}")
        _tables[names[0]] = (table, package.split(".")[0])
        _aliases.update(dict.fromkeys(names[1:], names[0]))
    preset_spec.cache_clear()


@cache
def _load_builtins() -> None:
    for file in sorted(resources.files(__name__).iterdir(), key=lambda f: f.name):
        if file.name.endswith(".toml"):
            _add_file(__name__, file.name)


def preset_names(pattern: str = "*") -> list[str]:
    """Sorted preset names that match a shell-style pattern."""
    _load_builtins()
    load_plugins()
    return sorted(n for n in _tables if fnmatch.fnmatchcase(n, canonical(pattern)))


def resolve_preset(name: str) -> str:
    """Canonical name of a preset.

    Raises:
        UnknownComponentError: with the nearest name.
    """
    _load_builtins()
    key = canonical(name)
    if key not in _tables and key not in _aliases:
        load_plugins()
    key = _aliases.get(key, key)
    if key not in _tables:
        raise UnknownComponentError(
            f"unknown model '{name}'.{suggestion(key, [*_tables, *_aliases])} worldkit list, or "
            f"worldkit.list_models(), shows all {len(_tables)}{failed_plugins()}"
        )
    return key


_TABLES = ("config", "train", "eval", "agent", "online", "alternatives")


@cache
def preset_spec(name: str) -> ModelSpec:
    """A preset with everything it inherits."""
    name = resolve_preset(name)
    table, provider = _tables[name]
    own = {k: table[k] for k in ("summary", "source", "paper", "weights") if k in table}
    bases = _bases(name)
    told = {k: getattr(preset_spec(bases[0]), k) for k in ("paper", "source")} if bases else {}
    parts: dict[str, Any] = {part: {} for part in _TABLES}
    for ancestor in _ancestry(name):
        own_parts = {part: _left_out(_tables[ancestor][0].get(part, {}), parts[part], top=True) for part in _TABLES}
        parts = {part: merge(parts[part], own_parts[part]) for part in _TABLES}
    return ModelSpec(
        name=name, aliases=tuple(table.get("aliases", ())), provider=provider,
        extends=bases[0] if bases else None, **{**told, **own}, **parts,
    )


def _bases(name: str) -> list[str]:
    """What a preset starts from, canonical names."""
    bases = _tables[name][0].get("extends", [])
    return [resolve_preset(base) for base in ([bases] if isinstance(bases, str) else bases)]


def _ancestry(name: str) -> list[str]:
    """All that a preset inherits from, the most general one first, and itself."""
    found: list[str] = []
    for base in _bases(name):
        found += [ancestor for ancestor in _ancestry(base) if ancestor not in found]
    return [*found, name]


def _left_out(table: Mapping[str, Any], base: Any, *, top: bool = False) -> dict[str, Any]:
    """A table whose entries ``"none"`` remove what would be inherited: TOML has no null.

    Deeper down ``"none"`` may be a value (``norm = "none"``): it removes numbers and tables only.
    """
    found: dict[str, Any] = {}
    for key, value in table.items():
        inherited = base.get(key) if isinstance(base, Mapping) else None
        if value == "none" and (top or isinstance(inherited, (int, float, Mapping))):
            found[key] = None
        else:
            found[key] = _left_out(value, inherited) if isinstance(value, Mapping) else value
    return found


def packaged_file(spec: ModelSpec) -> Traversable:
    """File with the weights of a preset that has its own inside the package."""
    return resources.files(__name__).joinpath(str(spec.weights))
