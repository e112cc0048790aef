"""Names of a package that load on first use (PEP 562), so that commands which need no PyTorch do not wait for it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_exports(package: str, exports: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """A package's ``__getattr__``: finds each name in the module that defines it, and remembers it.

    Args:
        package: The package's ``__name__``.
        exports: Module inside the package -> the names it gives.
    Example:
        >>> find = lazy_exports("worldkit", {"errors": ("ConfigError",)})
        >>> find("ConfigError").__name__
        'ConfigError'
    """
    modules = {name: module for module, names in exports.items() for name in names}

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        module = importlib.import_module(f".{modules[name]}", package)
        for found in exports[modules[name]]:  # all of them: a module hides what is called as itself once it is imported
            setattr(sys.modules[package], found, getattr(module, found))
        return getattr(module, name)

    return find
