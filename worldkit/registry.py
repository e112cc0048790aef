"""Names for components: one table per kind, for our own parts and for plugins alike.

A component registers under a kebab-case name with a decorator (``@register_dynamics("pint")``) and is found by that
name in configs, in ``create_model`` and on the command line. Three things are unusual:

* our own components live in the same table as everyone's, so a plugin can never be accepted and then ignored;
* a duplicate name is an error that names both providers;
* plugins (entry-point group ``worldkit.plugins``) load at the first ``list_*`` or at the first name that the built-ins
  do not answer, so built-ins never pay for a plugin and never break through one. ``WORLDKIT_PLUGINS=0`` disables them.

Standard library only; imports nothing of worldkit but its errors.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import importlib.metadata
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .errors import DuplicateComponentError, UnknownComponentError, WorldkitError

T = TypeVar("T")

PLUGIN_GROUP = "worldkit.plugins"


@dataclass(frozen=True)
class Entry:
    """One registered component: its canonical name, what it is, and who provides it."""

    name: str
    target: Any
    aliases: tuple[str, ...] = ()
    provider: str = "worldkit"
    extra: str | None = None

    def load(self) -> Any:
        """The component itself; imports a ``"package.module:Attribute"`` string on demand."""
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True)
class PluginError:
    """A plugin that could not be loaded: distribution name and version, and the error."""

    plugin: str
    error: str


def canonical(name: str) -> str:
    """Kebab-case form of a name: ``"Goal_Image"`` -> ``"goal-image"``."""
    return name.strip().lower().replace("_", "-").replace(" ", "-")


def suggestion(name: str, known: Sequence[str]) -> str:
    """`` Did you mean 'x'?`` or an empty string. Shared by every did-you-mean of the project."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


class Registry(Generic[T]):
    """The named components of one kind.

    Args:
        kind: What it holds, singular, for messages: ``"dynamics"``.
        builtins: Package that registers our own components; imported at the first look-up.
        plural: Plural of ``kind`` for messages; default ``kind + "s"``.
    """

    def __init__(self, kind: str, *, builtins: str | None = None, plural: str | None = None):
        self.kind = kind
        self.plural = plural or f"{kind}s"
        self._builtins = builtins
        self._entries: dict[str, Entry] = {}
        self._aliases: dict[str, str] = {}

    def register(
        self,
        name: str,
        target: T | str | None = None,
        *,
        aliases: Sequence[str] = (),
        extra: str | None = None,
        override: bool = False,
    ) -> Callable[[T], T] | T | str:
        """Register a component, as a decorator or directly. The same one may register again.

        Args:
            name: Canonical name; stored in kebab-case.
            target: The component, or ``"package.module:Attribute"`` to import it on first use. Leave out to decorate.
            aliases: Further names that find the same component.
            extra: worldkit extra the component needs, for ``worldkit info``.
            override: Replace an existing name. For your own scripts; refused while a plugin is being loaded.
        Raises:
            DuplicateComponentError: if the name or an alias is taken.
        """
        if target is None:
            return lambda component: self.register(  # type: ignore[return-value]
                name, component, aliases=aliases, extra=extra, override=override
            )
        name, aliases = canonical(name), tuple(canonical(a) for a in aliases)
        if override and _loading_plugin:
            raise WorldkitError(f"plugin {_loading_plugin[-1]} may not override {self.kind} '{name}'; rename it")
        provider = _provider_of(target)
        if provider != "worldkit":
            self._load_builtins()  # first come, first served must not let a stranger take a built-in's name
        known = self._entries[name].target if name in self._entries else None
        if known is not None and known == target:
            return target  # imported by hand and then called by its entry point: no two parts with one name
        override = override or _is_redefinition(known, target)
        for taken in (name, *aliases):
            owner = self._entries.get(self._aliases.get(taken, taken))
            if owner is not None and not override:
                raise DuplicateComponentError(
                    f"{self.kind} '{taken}' is registered twice: by {owner.provider} and by {provider}. "
                    "Rename one of them, or pass override=True in your own script."
                )
        self._entries[name] = Entry(name, target, aliases, provider, extra)
        self._aliases.pop(name, None)
        self._aliases.update(dict.fromkeys(aliases, name))
        return target

    def resolve(self, name: str) -> str:
        """Canonical name behind a name, an alias, or another spelling (case, ``_`` for ``-``).

        Raises:
            UnknownComponentError: with the nearest name, the known names and the plugins that failed to load.
        """
        if not isinstance(name, str):
            article = "an" if self.kind[0] in "aeiou" else "a"
            given = f"{type(name).__name__} {name!r}"
            raise UnknownComponentError(f"{article} {self.kind} is named by a string, not by {given}")
        found = self._find(name)
        if found is None:
            load_plugins()
            found = self._find(name)
        if found is None:
            raise UnknownComponentError(self._unknown(name))
        return found

    def _find(self, name: str) -> str | None:
        self._load_builtins()
        key = canonical(name)
        key = self._aliases.get(key, key)
        return key if key in self._entries else None

    def entry(self, name: str) -> Entry:
        """Everything known about a registered name."""
        return self._entries[self.resolve(name)]

    def get(self, name: str) -> T:
        """The component behind a name, imported if need be."""
        return self.entry(name).load()

    def names(self, pattern: str = "*") -> list[str]:
        """Sorted canonical names that match a shell-style pattern (plugins included)."""
        self._load_builtins()
        load_plugins()
        return sorted(n for n in self._entries if fnmatch.fnmatchcase(n, canonical(pattern)))

    def __contains__(self, name: str) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    def _load_builtins(self) -> None:
        if self._builtins is not None:
            package, self._builtins = self._builtins, None
            try:
                importlib.import_module(package)
            except BaseException:
                self._builtins = package  # a failed import must not leave an empty registry behind
                raise

    def _unknown(self, name: str) -> str:
        known = sorted(self._entries)
        hint = suggestion(canonical(name), [*known, *self._aliases])
        lines = [f"unknown {self.kind} '{name}'.{hint}", f"  registered: {', '.join(known) or '(none)'}"]
        return "\n".join(lines) + failed_plugins()


_loading_plugin: list[str] = []
_plugin_errors: list[PluginError] = []
_plugins_loaded = False


def _is_redefinition(known: Any, target: Any) -> bool:
    """Whether a class is the same definition run once more: a cell of a notebook, a module that was reloaded."""
    pairs = [(getattr(known, what, None), getattr(target, what, None)) for what in ("__module__", "__qualname__")]
    return isinstance(known, type) and isinstance(target, type) and all(a == b for a, b in pairs)


def _provider_of(target: Any) -> str:
    """``"worldkit"``, distribution and version of the plugin a component belongs to, or else its module.

    It is the same whether the plugin was imported by hand, by its entry point, or by another plugin.
    """
    module = target.partition(":")[0] if isinstance(target, str) else getattr(target, "__module__", "?")
    package = module.split(".")[0]
    if package == "worldkit":  # a plugin that imports our base classes registers our parts on the way
        return "worldkit"
    for point in _entry_points():
        if point.value.partition(":")[0].split(".")[0].strip() == package:
            return _distribution(point)
    return _loading_plugin[-1] if _loading_plugin else module


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    """All plugins, in an order that does not depend on the file system: of two with one name the same one wins."""
    return sorted(importlib.metadata.entry_points(group=PLUGIN_GROUP), key=lambda p: (_distribution(p), p.name))


def _distribution(point: importlib.metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.name


def load_plugins() -> None:
    """Load every installed plugin once. A failing plugin gives one warning, and harms nothing else."""
    global _plugins_loaded
    if _plugins_loaded:
        return
    _plugins_loaded = True
    if not plugins_enabled():
        return
    for point in _entry_points():
        dist = _distribution(point)
        _loading_plugin.append(dist)
        try:
            loaded = point.load()
            if callable(loaded):
                loaded()
        except (Exception, SystemExit) as error:  # a stranger's code: reported, and kept from the user's run
            _plugin_errors.append(PluginError(dist, f"{type(error).__name__}: {error}"))
            warnings.warn(
                f"worldkit plugin {dist} failed to load: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2
            )
        finally:
            _loading_plugin.pop()


def plugins_enabled() -> bool:
    """Whether plugins load by themselves; ``WORLDKIT_PLUGINS=0`` says no."""
    return os.environ.get("WORLDKIT_PLUGINS", "1") != "0"


def failed_plugins() -> str:
    """A line for not-found messages that names the plugins that failed to load; empty if none did."""
    if not _plugin_errors:
        return ""
    return "\n  plugins that failed to load: " + ", ".join(f"{e.plugin} ({e.error})" for e in _plugin_errors)


def plugin_errors() -> list[PluginError]:
    """Plugins that could not be loaded, with their errors (loads the plugins if that has not happened yet)."""
    load_plugins()
    return list(_plugin_errors)


encoders: Registry = Registry("encoder", builtins="worldkit.encoders")
decoders: Registry = Registry("decoder", builtins="worldkit.decoders")
dynamics: Registry = Registry("dynamics", builtins="worldkit.dynamics", plural="dynamics")
conditioners: Registry = Registry("conditioner", builtins="worldkit.conditioners")
latent_actions: Registry = Registry("latent action", builtins="worldkit.latent_actions")
priors: Registry = Registry("prior", builtins="worldkit.priors")
heads: Registry = Registry("head", builtins="worldkit.heads")
cells: Registry = Registry("cell", builtins="worldkit.cells")
objectives: Registry = Registry("objective", builtins="worldkit.objectives")
models: Registry = Registry("model family", builtins="worldkit.model", plural="model families")

register_encoder = encoders.register
register_decoder = decoders.register
register_dynamics = dynamics.register
register_conditioner = conditioners.register
register_latent_action = latent_actions.register
register_prior = priors.register
register_head = heads.register
register_cell = cells.register
register_objective = objectives.register
register_model = models.register


def list_encoders(pattern: str = "*") -> list[str]:
    """Registered encoders: video -> described latent."""
    return encoders.names(pattern)


def list_decoders(pattern: str = "*") -> list[str]:
    """Registered decoders: latent -> video."""
    return decoders.names(pattern)


def list_dynamics(pattern: str = "*") -> list[str]:
    """Registered dynamics: latents so far -> distribution of the next."""
    return dynamics.names(pattern)


def list_conditioners(pattern: str = "*") -> list[str]:
    """Registered conditioners: actions, language, goal images -> condition."""
    return conditioners.names(pattern)


def list_latent_actions(pattern: str = "*") -> list[str]:
    """Registered latent-action modules: what happened between two frames, inferred."""
    return latent_actions.names(pattern)


def list_priors(pattern: str = "*") -> list[str]:
    """Registered priors: what the first frames of a video may be."""
    return priors.names(pattern)


def list_heads(pattern: str = "*") -> list[str]:
    """Registered heads: what is known about a transition besides its latents, such as its reward."""
    return heads.names(pattern)


def list_cells(pattern: str = "*") -> list[str]:
    """Registered cells: what a recurrent state-space model remembers."""
    return cells.names(pattern)


def list_objectives(pattern: str = "*") -> list[str]:
    """Registered training objectives."""
    return objectives.names(pattern)
